"""Names with brackets, spaces, quotes, `#` and `&` were never completed, and a plain neighbour as if it were alone.

The kind: names of the archive, such as `x_[-4.00]_EER.eer`, mean something to a shell. They are offered like any
others, and the shell quotes what it inserts.
"""

import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete, get_completion_class
from support.commands import isolated
from support.fakes import SOON
from support.sandbox import PROJECT

from empiarfs.cli import main
from empiarfs.model import Directory, Node, Stub
from empiarfs.settings import archive_name
from empiarfs.storage.index import SqliteIndex, index_file
from empiarfs.urls import BASE_URL

ODD = [
    "x_[-4.00]_EER.eer",
    "x_[0.00]_EER.eer",
    "with space.mrc",
    "it's.mrc",
    'say "a".mrc',
    "hash#1.mrc",
    "#first.mrc",
    "and&more.mrc",
    "back\\slash.mrc",
    "less<(date).mrc",
    "more>(date).mrc",
    "~tilde.mrc",
    "no!.mrc",
    "{1,2}.mrc",
    "what?.mrc",
    "equal=1.mrc",
    "at@1.mrc",
    "colon:1.mrc",
    "comma,1.mrc",
    "semi;colon.mrc",
    "(paren).mrc",
    "star*.mrc",
]

NEVER = ["new\nline", "\udcff.mrc", "pay$(date).mrc", "tick`date`.mrc"]


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that knows a directory of odd names."""
    isolated(tmp_path, monkeypatch)
    file = index_file(tmp_path / "cache", archive_name(BASE_URL))
    file.parent.mkdir(parents=True)
    index = SqliteIndex(file)
    tree: dict[str, list[Node]] = {
        "": [Directory("10028")],
        "10028": [Directory("10028/data"), Directory("10028/raw data")],
        "10028/data": [Stub(f"10028/data/{name}") for name in [*ODD, "x_plain.eer", *NEVER]],
        "10028/raw data": [Stub("10028/raw data/a.mrc"), Stub("10028/raw data/b.mrc")],
    }
    for path, nodes in tree.items():
        index.replace(path, nodes, 1.0)
    index.close()


def offered(*words: str) -> list[str]:
    """Return the completions after `words`."""
    shell = ShellComplete(main, {}, "empiarfs", "_EMPIARFS_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_odd_names_are_offered() -> None:
    """All names are offered as they are, but those that are no text, or that bash would run."""
    assert offered("ls", "10028/data/") == [f"10028/data/{name}" for name in [*ODD, "x_plain.eer"]]
    assert offered("ls", "10028/data/x_") == [f"10028/data/{name}" for name in (*ODD[:2], "x_plain.eer")]


@pytest.fixture
def arguments(tmp_path: Path) -> Path:
    """A program `empiarfs` first on the path: it completes as ours does, and else writes its arguments here."""
    written = tmp_path / "arguments"
    program = tmp_path / "bin" / "empiarfs"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/sh
if [ "$_EMPIARFS_COMPLETE" ]; then exec {shlex.quote(sys.executable)} -m empiarfs; fi
printf '%s\\0' "$@" > {shlex.quote(str(written))}
"""
    )
    program.chmod(0o755)
    return written


def typed(keys: str, arguments: Path) -> list[str]:
    """Type `keys` and a newline into an interactive bash; return the arguments that the program got."""
    keyboard, screen = pty.openpty()
    environment = os.environ | {
        "PATH": f"{arguments.parent / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "TERM": "dumb",
        "INPUTRC": os.devnull,
        "HISTFILE": "",
    }
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=screen,
        stdout=screen,
        stderr=screen,
        env=environment,
        cwd=arguments.parent,
        start_new_session=True,
    )
    os.close(screen)
    os.write(keyboard, b'eval "$(_EMPIARFS_COMPLETE=bash_source empiarfs)"\n' + keys.encode() + b"\nexit\n")
    try:
        while os.read(keyboard, 4096):
            pass
    except OSError:  # bash has ended
        pass
    finally:
        os.close(keyboard)
        assert bash.wait(SOON) == 0
    return arguments.read_bytes().decode().split("\0")[:-1]


@pytest.mark.parametrize(
    ("keys", "completed"),
    [
        ("10028/data/x_[-\t", ODD[0]),
        ("10028/data/x_\\[0\t", ODD[1]),
        ("10028/data/wi\t", "with space.mrc"),
        ("10028/data/with\\ s\t", "with space.mrc"),
        ('"10028/data/with s\t', "with space.mrc"),
        ("'10028/data/with s\t", "with space.mrc"),
        ("10028/data/it\t", "it's.mrc"),
        ("10028/data/sa\t", 'say "a".mrc'),
        ("10028/data/ha\t", "hash#1.mrc"),
        ("10028/data/#\t", "#first.mrc"),
        ("10028/data/an\t", "and&more.mrc"),
        ("10028/data/ba\t", "back\\slash.mrc"),
        ("10028/data/le\t", "less<(date).mrc"),
        ("10028/data/mo\t", "more>(date).mrc"),
        ("10028/data/~\t", "~tilde.mrc"),
        ("10028/data/no\t", "no!.mrc"),
        ("10028/data/{\t", "{1,2}.mrc"),
        ("10028/data/wh\t", "what?.mrc"),
        ("10028/data/eq\t", "equal=1.mrc"),
        ("10028/data/at\t", "at@1.mrc"),
        ("10028/data/col\t", "colon:1.mrc"),
        ("10028/data/com\t", "comma,1.mrc"),
        ("10028/data/se\t", "semi;colon.mrc"),
        ("10028/data/\\(\t", "(paren).mrc"),
        ("10028/data/st\t", "star*.mrc"),
        ("10028/data/x_p\t", "x_plain.eer"),
    ],
)
def test_bash_completes_and_quotes(arguments: Path, keys: str, completed: str) -> None:
    """A name that the tab key completes in a real bash reaches the program as it is."""
    assert typed(f"empiarfs ls {keys}", arguments) == ["ls", f"10028/data/{completed}"]


def test_bash_goes_on_after_a_directory(arguments: Path) -> None:
    """After a directory with an odd name the tab key goes on in it, without a space between."""
    assert typed("empiarfs ls 10028/raw\ta\t", arguments) == ["ls", "10028/raw data/a.mrc"]


def test_bash_is_not_deceived_by_local_files(arguments: Path) -> None:
    """A name that is a pattern for local files is inserted as it is."""
    local = arguments.parent / "10028" / "data" / "x_4_EER.eer"
    local.parent.mkdir(parents=True)
    local.touch()
    assert typed("empiarfs ls 10028/data/x_[-\t", arguments) == ["ls", f"10028/data/{ODD[0]}"]


def test_the_script_for_fish_keeps_commas() -> None:
    """The script for fish takes what follows the first comma, whatever it holds, as the name."""
    fish = get_completion_class("fish")
    assert fish is not None
    assert 'string split -m 1 "," $completion' in fish(main, {}, "empiarfs", "_EMPIARFS_COMPLETE").source()
