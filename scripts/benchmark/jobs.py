"""What users do with a mount, and how long each of it takes; each job runs in a process of its own.

    python -m benchmark.jobs NUMBER DIRECTORY

does the job of that number in DIRECTORY, and prints its time in seconds and those of its single reads. A mount may
hang for ever, and whoever looks at it too; a process can be left behind.
"""

import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, MB = 1024, 1 << 20, 1_000_000
MANY = 3000
BIG, EIGHTH = 400 * MB, 64 * MB
STACK = 1 << 30
HEAD = 1024
PAGE = 4096
PARTICLES, PARTICLE = 20_000, 64 * KIB  # of a stack behind its header of 1 KiB
STEP = 50
SECTIONS, ROWS, ROW = 200, 512, 2048  # of a tomogram behind its header; a row in bytes
MEMBERS, MEMBER = 12, 4 * MB  # of a tar
FRAME = 10 * MB  # of the big file


@dataclass(frozen=True, slots=True)
class Job:
    """One thing users do.

    Attributes:
        name: what a table calls it.
        profiles: the lines on which it is done.
        run: does it in the mounted directory; returns the seconds of each single read where it is made of these.
        single: its time is the middle one of its single reads.
        after: it goes on with the cache of the job before.
        remount: it is remounted before.
        drop: the page cache is dropped before.
        no_ftp: no FTP server serves exact sizes.
        needed: bytes that the program takes; 0 where they are not compared with what is fetched.
    """

    name: str
    profiles: tuple[str, ...]
    run: Callable[[Path], list[float]]
    single: bool = False
    after: bool = False
    remount: bool = False
    drop: bool = False
    no_ftp: bool = False
    needed: int = 0


def there(data: Path) -> list[float]:
    """List the directory itself: the way there is not what is measured."""
    os.listdir(data)  # noqa: PTH208 - names alone
    return []


def listed(data: Path) -> list[float]:
    """List the names of many files."""
    count = len(os.listdir(data / "many"))  # noqa: PTH208 - names alone
    if count != MANY:
        raise ValueError(f"{count} of {MANY} names")
    return []


def listed_long(data: Path) -> list[float]:
    """List many files with their sizes."""
    shown = subprocess.run(["ls", "-l", data / "many"], check=True, stdout=subprocess.PIPE).stdout
    count = len(shown.splitlines()) - 1
    if count != MANY:
        raise ValueError(f"{count} of {MANY} files")
    return []


def listed_both(data: Path) -> list[float]:
    """List the names of many files, and then their sizes."""
    return listed(data) + listed_long(data)


def sequential(name: str, size: int) -> Callable[[Path], list[float]]:
    """Return a job that reads a file from its start to its end."""

    def run(data: Path) -> list[float]:
        command = ["dd", f"if={data / name}", "of=/dev/null", "bs=1M"]
        said = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True).stderr
        if f"\n{size} bytes" not in said:
            raise ValueError(said.splitlines()[0].rpartition(": ")[2])
        return []

    return run


def every_second(data: Path) -> list[float]:
    """Read every second MiB of a file, and nothing else of it: in random order, or what is between would be too."""
    with (data / "big.bin").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # the kernel reads nothing ahead
        places = list(range(0, BIG, 2 * MIB))
        random.Random(7).shuffle(places)
        for place in places:
            size = min(MIB, BIG - place)
            if len(os.pread(file.fileno(), size, place)) != size:
                raise ValueError("the file ends too soon")
    return []


def together(data: Path) -> list[float]:
    """Read eight files at once."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: sequential(f"eight/f{n}.bin", EIGHTH)(data), range(8)))
    return []


def scattered(name: str, count: int, size: int, align: int = PAGE) -> Callable[[Path], list[float]]:
    """Return a job that reads `size` bytes at `count` places of a stack, one after the other."""

    def run(data: Path) -> list[float]:
        chance = random.Random(7)
        seconds = []
        with (data / name).open("rb", buffering=0) as file:
            for _ in range(count):
                file.seek(chance.randrange(0, STACK - size) // align * align)
                begun = time.monotonic()
                left = size
                while left:
                    got = len(file.read(left))
                    if not got:
                        raise ValueError(f"the file ends {left} bytes too soon")
                    left -= got
                seconds.append(time.monotonic() - begun)
        return seconds

    return run


def mapped(data: Path) -> list[float]:
    """Look at a page here and there of a stack that is mapped into memory, as mrcfile.mmap does."""
    chance = random.Random(7)
    seconds = []
    with (data / "stack1.mrcs").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        for _ in range(60):
            place = chance.randrange(0, STACK)
            begun = time.monotonic()
            _ = pages[place]
            seconds.append(time.monotonic() - begun)
    return seconds


def cold(data: Path) -> list[float]:
    """Read 128 KiB at places that were not read before, over an open connection."""
    seconds = scattered("stack1.mrcs", 10, 128 * KIB, align=128 * KIB)(data)
    return seconds[1:]  # the first one makes the connection


def heads(count: int) -> Callable[[Path], list[float]]:
    """Return a job that reads the head of one file after the other."""

    def run(data: Path) -> list[float]:
        seconds = []
        for number in range(count):
            begun = time.monotonic()
            with (data / f"movies/movie_{number:04d}.mrc").open("rb", buffering=0) as file:
                if len(file.read(HEAD)) != HEAD:
                    raise ValueError("the file ends too soon")
            seconds.append(time.monotonic() - begun)
        return seconds

    return run


def particles(data: Path) -> list[float]:
    """Read every 50th particle of a stack as cryoDRGN does: it opens the stack for each."""
    import numpy as np  # noqa: PLC0415 - scripts/bench --help works without it

    for number in range(0, PARTICLES, STEP):
        with (data / "particles.mrcs").open("rb") as file:
            file.seek(HEAD + number * PARTICLE)
            if np.fromfile(file, dtype=np.uint8, count=PARTICLE).size != PARTICLE:
                raise ValueError(f"particle {number} is cut")
    return []


def rising(places: Sequence[int], size: int) -> Callable[[Path], list[float]]:
    """Return a job that reads `size` bytes at rising places of a stack."""

    def run(data: Path) -> list[float]:
        with (data / "particles.mrcs").open("rb", buffering=0) as file:
            for place in places:
                file.seek(place)
                if len(file.read(size)) != size:
                    raise ValueError(f"a short read at {place}")
        return []

    return run


def chosen(count: int, places: Sequence[int]) -> list[int]:
    """Return some of `places` in order."""
    return sorted(random.Random(7).sample(places, count))


def sliced(data: Path) -> list[float]:
    """Read one row of each section of a tomogram that is mapped into memory: a slice across its sections."""
    with (
        (data / "tomogram.mrc").open("rb", buffering=0) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole,
    ):
        file.read(HEAD)
        for section in range(SECTIONS):
            start = HEAD + (section * ROWS + ROWS // 3) * ROW
            _ = whole[start : start + ROW]
    return []


def untarred(data: Path) -> list[float]:
    """Read one member of a tar."""
    with tarfile.open(data / "movies.tar") as tar:
        member = tar.extractfile(f"movie_{MEMBERS // 2:04d}.mrc")
        if member is None or len(member.read()) != MEMBER:
            raise ValueError("the member is cut")
    return []


def head(data: Path) -> list[float]:
    """Read the first MiB of a large file."""
    done = subprocess.run(
        ["head", "-c", str(MIB), data / "particles.mrcs"], check=True, stdout=subprocess.PIPE
    ).stdout
    if len(done) != MIB:
        raise ValueError(f"{len(done)} bytes")
    return []


def kinds(data: Path) -> list[float]:
    """Let `file` look at the files of a directory; it reads the first 7 MiB of each."""
    subprocess.run(["file", *sorted((data / "eight").iterdir())], check=True, stdout=subprocess.PIPE)
    return []


def frames(data: Path) -> list[float]:
    """Read the frames of a movie in eight threads, each frame with an open of its own, as RELION does."""

    def one(number: int) -> None:
        with (data / "big.bin").open("rb", buffering=0) as file:
            file.seek(number * FRAME)
            left = FRAME
            while left:
                got = len(file.read(min(left, MIB)))
                if not got:
                    raise ValueError(f"frame {number} is cut")
                left -= got

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(BIG // FRAME)))
    return []


JOBS = (
    Job("`ls` of 3,000 files", ("near", "ebi"), listed),
    Job("`ls -l` of them, FTP answers", ("near",), listed_long),
    Job("`ls`, then `ls -l` of 3,000 files, no FTP", ("near", "far", "lan", "ebi"), listed_both, no_ftp=True),
    Job("`ls -l` again after a remount", ("near",), listed_long, remount=True, after=True),
    Job("400 MB sequential", ("near", "far", "lan"), sequential("big.bin", BIG)),
    Job("400 MB again, page cache dropped", ("near",), sequential("big.bin", BIG), drop=True, after=True),
    Job("400 MB again, warm", ("near",), sequential("big.bin", BIG), after=True),
    Job("every second MiB of 400 MB", ("near",), every_second),
    Job(
        "400 MB, every second MiB on disk",
        ("near",),
        sequential("big.bin", BIG),
        remount=True,
        drop=True,
        after=True,
    ),
    Job("8 files of 64 MB at once", ("near", "far", "lan"), together),
    Job("60 random 64 KiB of 1 GiB", ("near", "far", "ebi"), scattered("stack1.mrcs", 60, 64 * KIB)),
    Job("30 random 1 MiB of 1 GiB", ("near",), scattered("stack2.mrcs", 30, MIB)),
    Job("one cold 128 KiB", ("near", "far"), cold, single=True),
    Job("first KiB of 100 files", ("near", "far"), heads(100)),
    Job("64 MB sequential", ("ebi",), sequential("eight/f0.bin", EIGHTH)),
    Job("first KiB of 40 files", ("ebi",), heads(40)),
    Job("every 50th of 20,000 particles", ("near", "ebi"), particles, needed=PARTICLES // STEP * PARTICLE),
    Job(
        "4,000 of 20,000 particles in order",
        ("near",),
        rising(chosen(4000, range(HEAD, HEAD + PARTICLES * PARTICLE, PARTICLE)), PARTICLE),
        needed=4000 * PARTICLE,
    ),
    Job(
        "100 rising reads of 1 MB",
        ("near", "ebi"),
        rising(chosen(100, range(PARTICLES * PARTICLE - MB)), MB),
        needed=100 * MB,
    ),
    Job("128 KiB every 4 MB", ("near",), rising(range(0, 313 * 4 * MB, 4 * MB), 128 * KIB), needed=313 * 128 * KIB),
    Job("one x-z slice of a tomogram by mmap", ("near", "ebi"), sliced, needed=SECTIONS * ROW),
    Job("one member of a tar", ("near",), untarred, needed=MEMBER),
    Job("`head -c 1M`", ("near", "ebi", "lan"), head, needed=MIB),
    Job("`head -c 1M` after a remount", ("near", "ebi", "lan"), head, remount=True, after=True, needed=MIB),
    Job("`file` of 8 files of 64 MB", ("near",), kinds),
    Job("40 frames of 10 MB in 8 threads", ("near", "far", "lan"), frames, needed=BIG),
)
READAHEAD_JOBS = (  # that show what the kernel's reading ahead costs and gains
    Job("400 MB sequential", ("near", "lan"), sequential("big.bin", BIG)),
    Job("60 random 64 KiB of 1 GiB", ("near",), scattered("stack1.mrcs", 60, 64 * KIB)),
    Job("30 random 1 MiB of 1 GiB", ("near",), scattered("stack2.mrcs", 30, MIB)),
    Job("60 random pages of 1 GiB by mmap", ("near",), mapped),
)
THERE = Job("the way there", (), there)
ALL = (*JOBS, *READAHEAD_JOBS, THERE)


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return `jobs` in groups that share a cache."""
    found: list[list[Job]] = []
    for job in jobs:
        if job.after:
            found[-1].append(job)
        else:
            found.append([job])
    return found


def main() -> None:
    """Do one job; see the module."""
    number, data = int(sys.argv[1]), Path(sys.argv[2])
    job = ALL[number]
    begun = time.monotonic()
    singles = job.run(data)
    seconds = time.monotonic() - begun
    sys.stdout.write(json.dumps([statistics.median(singles) if job.single else seconds, singles]))


if __name__ == "__main__":
    main()
