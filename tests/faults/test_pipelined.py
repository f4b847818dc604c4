"""Faults of one reply in a batch of sizes, or of every reply: no wrong size, and all files measured."""

from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path

import pytest
from support.fault_proxy import FaultProxy
from support.fault_table import FAULTS, HEAD, PIPELINED
from support.fault_trial import MUCH_PATIENCE, PATIENCE, Truth, threads
from support.mounting import eventually

from empiarfs import wire
from empiarfs.archive import Archive
from empiarfs.errors import ArchiveError
from empiarfs.model import File
from empiarfs.settings import Settings

DIRECTORY = "10100/many"
COUNT = 120
MIDDLE = f"{DIRECTORY}/f040.mrc"
ACTS = {name: fault.act for name, fault in FAULTS.items() if HEAD in fault.seen} | PIPELINED
KINDS = (  # of servers, that differ from Apache in every reply
    "HTTP/1.0",
    "closed after the reply, announced",
    "closed after the reply, unannounced",
    "a body to HEAD",
    "chunks without a length",
    "no date",
    "another ETag",
)


@pytest.fixture
def sizes(truth: Truth) -> dict[str, int]:
    """A directory of files whose sizes the listing tells apart."""
    folder = truth.root / DIRECTORY
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number in range(COUNT):
        file = folder / f"f{number:03}.mrc"
        file.write_bytes(bytes(200 + number))
        found[f"{DIRECTORY}/{file.name}"] = 200 + number
    return found


def opened(server: FaultProxy, cache: Path, patience: float) -> Iterator[Archive]:
    """Yield an archive that has listed the directory."""
    settings = Settings(base_url=server.url, cache_dir=cache, patience=patience, no_ftp=True)
    with closing(wire.archive(settings, name="trial")) as archive:
        archive.listdir(DIRECTORY)
        yield archive


@pytest.fixture
def archive(server: FaultProxy, sizes: dict[str, int], tmp_path: Path) -> Iterator[Archive]:
    """An archive of much patience."""
    assert sizes
    yield from opened(server, tmp_path / "cache", MUCH_PATIENCE)


@pytest.fixture
def impatient(server: FaultProxy, sizes: dict[str, int], tmp_path: Path) -> Iterator[Archive]:
    """An archive of little patience."""
    assert sizes
    yield from opened(server, tmp_path / "cache", PATIENCE)


def measured(archive: Archive, path: str) -> int:
    """Measure one file; return its size."""
    found = archive.stat(path)
    assert isinstance(found, File)
    return found.size


@pytest.mark.parametrize("name", ACTS)
def test_one_fault_in_a_batch_is_not_seen(
    name: str, archive: Archive, server: FaultProxy, sizes: dict[str, int]
) -> None:
    """A program that steps through a directory gets the right size of each file."""
    with server.rule(MIDDLE, ACTS[name], method="HEAD", times=1) as rule:
        assert {path: measured(archive, path) for path in sizes} == sizes
        assert rule.met


@pytest.mark.slow  # waits on purpose
@pytest.mark.parametrize("name", [name for name in ACTS if name not in FAULTS or not FAULTS[name].pause])
def test_a_lasting_fault_of_one_file_concerns_no_other(
    name: str, impatient: Archive, server: FaultProxy, sizes: dict[str, int]
) -> None:
    """All other files are measured, and this one is measured right, or it is an error."""
    with server.rule(MIDDLE, ACTS[name], method="HEAD") as rule:
        for path, size in sizes.items():
            with suppress(ArchiveError) if path == MIDDLE else nullcontext():
                assert measured(impatient, path) == size
        assert rule.met


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_server_gives_all_sizes(
    name: str, archive: Archive, server: FaultProxy, sizes: dict[str, int]
) -> None:
    """A server that pipelines badly, or not at all, is measured one by one."""
    with server.rule(rf"{DIRECTORY}/.*\.mrc", ACTS[name], method="HEAD"):
        assert {path: measured(archive, path) for path in sizes} == sizes


def test_an_archive_is_closed_while_a_batch_hangs(
    server: FaultProxy, sizes: dict[str, int], tmp_path: Path
) -> None:
    """Closing the archive ends a batch whose server is silent, and all of its threads and connections."""
    for archive in opened(server, tmp_path / "cache", MUCH_PATIENCE):
        first, second = list(sizes)[:2]
        measured(archive, first)
        with server.hold(rf"{DIRECTORY}/f01.\.mrc", method="HEAD") as hold:
            measured(archive, second)
            eventually(lambda: hold.waiting, "a batch hangs")
            archive.close()
            eventually(lambda: not requesting(), "no thread of the archive is left")
        eventually(lambda: not server.connections, "all connections are closed")


def requesting() -> set[str]:
    """Return the names of the threads that send requests."""
    return {thread.name for thread in threads() if thread.name.startswith("request")}
