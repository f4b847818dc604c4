"""The files of the soak, and one of its readers: a process of its own, MOUNT TRUTH SEED."""

# readers speak to the kernel as plainly as they can
# ruff: noqa: PTH208

import errno
import json
import mmap
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = 10
SMALL = 120  # small files of each folder
LARGE = 3  # large ones
LARGE_BYTES = 6_000_000
MIB = 1 << 20

# of each thing that was done: the path, the errno or 0, the bytes that were compared, whether any was wrong
Outcomes = Iterator[tuple[str, int | None, int, bool]]


def make_tree(root: Path, chance: random.Random) -> None:
    """Write the files that are served: few large ones, many small ones."""
    for number in range(FOLDERS):
        folder = root / "10028" / "data" / f"{number:02}"
        folder.mkdir(parents=True)
        for size, count, name in ((LARGE_BYTES, LARGE, "movie"), (30_000, SMALL, "picture")):
            for which in range(count):
                file = folder / f"{name}{which:03}.mrc"
                file.write_bytes(chance.randbytes(chance.randrange(size // 2, size)))
                os.utime(file, (1_600_000_000 + number, 1_600_000_000 + number))


def read_on(mount: Path, truth: Path, chance: random.Random) -> None:
    """Read this and that, and say a line of JSON for each, until standard output is closed."""
    patterns = (in_line, at_random, heads, mapped, attributes, listings)
    while True:
        pattern = chance.choice(patterns)
        folder = f"10028/data/{chance.randrange(FOLDERS):02}"
        for path, number, compared, wrong in pattern(mount, truth, folder, chance):
            told = {"path": path, "errno": number, "bytes": compared, "wrong": wrong, "pattern": pattern.__name__}
            try:
                print(json.dumps(told), flush=True)
            except BrokenPipeError:
                os._exit(0)


def compared(mount: Path, truth: Path, path: str, parts: list[tuple[int, int]]) -> Outcomes:
    """Read parts of a file, and compare them; yield the outcomes."""
    count = 0
    try:
        ours = os.open(mount / path, os.O_RDONLY)
    except OSError as error:
        yield path, error.errno, 0, False
        return
    theirs = os.open(truth / path, os.O_RDONLY)
    try:
        for start, size in parts:
            data = os.pread(ours, size, start)
            if data != os.pread(theirs, size, start):
                yield path, 0, count, True
                return
            count += len(data)
        yield path, 0, count, False
    except OSError as error:
        yield path, error.errno, count, False
    finally:
        os.posix_fadvise(ours, 0, 0, os.POSIX_FADV_DONTNEED)  # so that the next one asks the daemon again
        os.close(ours)
        os.close(theirs)


def chosen_name(folder: str, kind: str, chance: random.Random) -> str:
    """Return one of the files of a kind."""
    return f"{folder}/{kind}{chance.randrange(LARGE if kind == 'movie' else SMALL):03}.mrc"


def in_line(mount: Path, truth: Path, folder: str, chance: random.Random) -> Outcomes:
    """Read a file from its start to behind its end."""
    path = chosen_name(folder, chance.choice(("movie", "picture")), chance)
    size = (truth / path).stat().st_size
    step = chance.choice((4096, 65_536, 262_144, MIB))
    yield from compared(mount, truth, path, [(start, step) for start in range(0, size + step, step)])


def at_random(mount: Path, truth: Path, folder: str, chance: random.Random) -> Outcomes:
    """Read here and there in a large file."""
    path = chosen_name(folder, "movie", chance)
    parts = [(chance.randrange(LARGE_BYTES), chance.randrange(1, 200_000)) for _ in range(12)]
    yield from compared(mount, truth, path, parts)


def heads(mount: Path, truth: Path, folder: str, chance: random.Random) -> Outcomes:
    """Read the headers of ten files in turn."""
    first = chance.randrange(SMALL - 10)
    for which in range(first, first + 10):
        yield from compared(mount, truth, f"{folder}/picture{which:03}.mrc", [(0, 1024)])


def mapped(mount: Path, truth: Path, folder: str, chance: random.Random) -> Outcomes:
    """Read a map, in a process of its own: a page that cannot be had is a signal."""
    path = chosen_name(folder, "movie", chance)
    places = [chance.randrange(LARGE_BYTES // 2) for _ in range(8)]
    child = os.fork()
    if not child:
        status = 3
        try:
            with (
                (mount / path).open("rb") as ours,
                (truth / path).open("rb") as theirs,
                mmap.mmap(ours.fileno(), 0, prot=mmap.PROT_READ) as pages,
            ):
                status = 0
                for place in places:
                    theirs.seek(place)
                    expected = theirs.read(3000)
                    status = max(status, 2 * (pages[place : place + len(expected)] != expected))
        except OSError as error:
            status = 100 + (error.errno or 0)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        is_expected = os.WTERMSIG(status) == signal.SIGBUS
        yield path, errno.EIO, 0, not is_expected
        return
    code = os.WEXITSTATUS(status)
    yield path, max(0, code - 100), 8 * 3000 * (not code), code in {2, 3}


def attributes(mount: Path, truth: Path, folder: str, chance: random.Random) -> Outcomes:
    """Ask for the length of a file."""
    path = chosen_name(folder, "picture", chance)
    try:
        size = (mount / path).stat().st_size
    except OSError as error:
        yield path, error.errno, 0, False
    else:
        # a server that lies about a length is believed until the data say otherwise
        yield path, 0 if size == (truth / path).stat().st_size else errno.ESTALE, 0, False


def listings(mount: Path, truth: Path, folder: str, _: random.Random) -> Outcomes:
    """List a directory: nothing may be missing."""
    try:
        names = set(os.listdir(mount / folder))
    except OSError as error:
        yield folder, error.errno, 0, False
    else:
        yield folder, 0, 0, not names >= set(os.listdir(truth / folder))


if __name__ == "__main__":
    read_on(Path(sys.argv[1]), Path(sys.argv[2]), random.Random(int(sys.argv[3])))
