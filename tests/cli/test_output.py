"""What becomes of output that cannot be written: on a full disk, without standard output, without a reader."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click
import pytest
from support.fakes import noise
from support.scripted import Website

from empiarfs.cli import main

CONTENT = noise(9_000_000)
FULL = "Error: standard output: No space left on device\n"
CLOSED = "Error: standard output is closed; redirect it to a file or a pipe\n"


def helps(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words that show the help of `command` and of each command below it."""
    yield (*words, "--help")
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from helps(below, (*words, name))


# pages of help, which are all written in the same way: with buffering each of them is tried, without it one
FIRST_PAGE, *PAGES = helps(main)
WRITING = [
    FIRST_PAGE,
    *PAGES,
    ("--version",),
    ("-V",),
    ("version",),
    ("help",),
    ("help", "ls"),
    ("ls",),
    ("ls", "-l", "10028/data"),
    ("stat", "10028/data/a.txt"),
    ("cat", "10028/data/a.txt"),
    ("cat", "10028/data/large.mrc"),
    ("cache", "path"),
    ("cache", "info"),
    ("status", "--json"),
]


pytestmark = pytest.mark.usefixtures("server")


@pytest.fixture
def website() -> Website:
    """A site with a short file and a long one."""
    return Website({b"10028/data/a.txt": b"a\n", b"10028/data/large.mrc": CONTENT})


def environments() -> Iterator[dict[str, str]]:
    """Yield the environment as users have it, and one in which Python does not buffer."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    yield usual
    yield usual | {"PYTHONUNBUFFERED": "1"}


RUNS = """
import json, os, sys, tempfile
import empiarfs.maintenance.cache, empiarfs.wire  # once for all
from empiarfs.cli import main
found = []
for words in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 2)
            main(words, prog_name="empiarfs")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        found.append((status, said.read().decode()))
print(json.dumps(found), file=sys.stderr)
"""


def outcomes(output: IO[bytes] | int, *before: str) -> dict[str, tuple[int, str]]:
    """Run every command that writes, each in its own process, with buffering and without.

    Returns:
        by command line and environment, the status and what standard error says.
    """
    found = {}
    for environment in environments():
        buffering = environment.get("PYTHONUNBUFFERED", "buffered")
        commands = [words for words in WRITING if buffering == "buffered" or words not in PAGES]
        done = subprocess.run(
            [*before, sys.executable, "-c", RUNS, json.dumps(commands)],
            env=environment,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
            timeout=100,
        )
        for words, (status, said) in zip(commands, json.loads(done.stderr), strict=True):
            found[f"{' '.join(words)} ({buffering})"] = (status, said)
    assert len(found) == 2 * len(WRITING) - len(PAGES)
    return found


def test_a_full_disk_is_one_line() -> None:
    """Output that a full disk cannot take is one error line and status 1, for a page of help too."""
    with Path("/dev/full").open("wb") as full:
        found = outcomes(full)
    assert found == dict.fromkeys(found, (1, FULL))


def test_a_closed_standard_output_is_one_line() -> None:
    """A closed standard output is one error line and status 1."""
    found = outcomes(subprocess.DEVNULL, "sh", "-c", 'exec "$0" "$@" >&-')
    assert found == dict.fromkeys(found, (1, CLOSED))


def test_a_reader_that_went_away_is_silence() -> None:
    """A pipe whose reader is gone causes no message, and the status is that of SIGPIPE."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        found = outcomes(writing)
    finally:
        os.close(writing)
    assert found == dict.fromkeys(found, (128 + signal.SIGPIPE, ""))


def test_the_helper_of_mount_says_what_it_cannot_write() -> None:
    """The helper of mount(8) fails as empiarfs does where its help cannot be written."""
    code = "from empiarfs.cli.fstab import mount_helper; mount_helper()"
    words = [sys.executable, "-c", code, "--help"]
    with Path("/dev/full").open("wb") as full:
        for environment in environments():
            done = subprocess.run(
                words, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
            )
            assert (done.returncode, done.stderr) == (1, FULL)


def test_a_disk_that_fills_up_under_the_last_bytes_is_no_success(tmp_path: Path) -> None:
    """A partial write is followed by one of the rest, whose error is reported."""
    most = len(CONTENT) - 100_000

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    for environment in environments():
        with (tmp_path / "copy").open("wb") as copy:
            done = subprocess.run(
                [sys.executable, "-m", "empiarfs", "cat", "10028/data/large.mrc"],
                env=environment,
                stdout=copy,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                preexec_fn=limited,
                timeout=60,
            )
        assert (done.returncode, done.stderr) == (1, "Error: standard output: File too large\n")
        assert (tmp_path / "copy").read_bytes() == CONTENT[:most]


def test_a_line_that_is_cut_by_a_full_disk_is_no_success(tmp_path: Path) -> None:
    """`ls` fails where the disk takes all but the end of the last line, whether Python buffers or not."""
    words = [sys.executable, "-m", "empiarfs", "ls", "10028/data"]
    most = len(subprocess.run(words, capture_output=True, check=True, timeout=60).stdout) - 5

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    for environment in environments():
        environment["EMPIARFS_CACHE_SIZE"] = "0"  # the listing is known, and the limit holds for the index too
        with (tmp_path / "names").open("wb") as names:
            done = subprocess.run(
                [*words, "--offline"],
                env=environment,
                stdout=names,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                preexec_fn=limited,
                timeout=60,
            )
        assert done.returncode == 1
        assert done.stderr.endswith("Error: standard output: File too large\n")


def test_nothing_that_standard_error_cannot_take_ends_in_status_120() -> None:
    """An error message that cannot be written does not change the status from 1."""
    with Path("/dev/full").open("wb") as full:
        for environment in environments():
            words = [sys.executable, "-m", "empiarfs", "cat", "10028/none"]
            done = subprocess.run(words, env=environment, stderr=full, check=False, timeout=60)
            assert done.returncode == 1
