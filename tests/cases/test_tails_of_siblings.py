"""TIFF files whose only directory stands at the end: the shapes of forty took three times as long as forty heads.

The kind: a program reads the start and the end of each file of a directory, one after the other. Both are fetched
ahead for the next files.
"""

from pathlib import Path

import pytest
from support.archives import archive_of
from support.mounting import eventually
from support.scripted import ScriptedServer, Website

from empiarfs.archive import Archive
from empiarfs.model import File
from empiarfs.units import KIB

SIZE = 2000 * KIB
TAIL = 300  # bytes; the directory of a TIFF


def content(number: int, size: int = SIZE) -> bytes:
    """Return the bytes of one file."""
    return bytes([number]) * (size - TAIL) + bytes([number + 100]) * TAIL


FILES = {f"10028/data/{number:02}.tif": content(number, SIZE + 10 * number) for number in range(40)}


@pytest.fixture
def website() -> Website:
    """A site with files that all are about as long."""
    return Website({path.encode(): data for path, data in FILES.items()})


def measure(archive: Archive) -> None:
    """Look up all files, so that none is being measured when it is to be fetched ahead."""
    for node in archive.listdir("10028/data"):
        archive.stat(node.path)


def shape(archive: Archive, path: str) -> None:
    """Read what a TIFF reader needs for a shape: the header, and the directory at the end."""
    file = archive.stat(path)
    assert isinstance(file, File)
    assert archive.read(file, 0, 8) == FILES[path][:8]
    assert archive.read(file, file.size - TAIL, TAIL) == FILES[path][-TAIL:]


def ranges(server: ScriptedServer, path: str) -> list[str]:
    """Return the ranges that were requested of one file."""
    return [one.headers["range"] for one in server.requests if one.target.endswith(path) and "range" in one.headers]


def test_the_tails_of_the_next_files_are_fetched_ahead(server: ScriptedServer, tmp_path: Path) -> None:
    """After a few files whose start and end were read, both are there of the next ones, with two requests each."""
    paths = list(FILES)
    with archive_of(server.base_url, tmp_path) as archive:
        measure(archive)
        for path in paths[:4]:
            shape(archive, path)
        following = paths[4:8]
        eventually(lambda: all(len(ranges(server, path)) == 2 for path in following), "all are fetched ahead")
        eventually(lambda: archive.counters().blocks_in_flight == 0, "nothing is on its way")
        count = len(server.requests)
        shape(archive, following[0])
        assert not [one for one in server.requests[count:] if one.target.endswith(tuple(following))]


def test_files_of_which_the_head_is_read_have_no_tails_fetched(server: ScriptedServer, tmp_path: Path) -> None:
    """Of files whose start alone is read nothing but the start is fetched ahead."""
    paths = list(FILES)
    with archive_of(server.base_url, tmp_path) as archive:
        measure(archive)
        for path in paths[:4]:
            file = archive.stat(path)
            assert isinstance(file, File)
            archive.read(file, 0, 8)
        eventually(lambda: all(ranges(server, path) for path in paths[4:8]), "heads are fetched ahead")
        eventually(lambda: archive.counters().background_queue_length == 0, "nothing more is to be fetched")
    assert all(ranges(server, path) in ([], [f"bytes=0-{128 * KIB - 1}"]) for path in paths)
