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
    """

    name: str
    profiles: tuple[str, ...]
    run: Callable[[Path], list[float]]
    single: bool = False
    after: bool = False
    remount: bool = False
    drop: bool = False
    no_ftp: bool = False


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


JOBS = (
    Job("`ls` of 3,000 files", ("near", "ebi"), listed),
    Job("`ls -l` of them, FTP answers", ("near",), listed_long),
    Job("`ls`, then `ls -l` of 3,000 files, no FTP", ("near", "far", "lan", "ebi"), listed_both, no_ftp=True),
    Job("`ls -l` again after a remount", ("near",), listed_long, remount=True, after=True),
    Job("400 MB sequential", ("near", "far", "lan"), sequential("big.bin", BIG)),
    Job("400 MB again, page cache dropped", ("near",), sequential("big.bin", BIG), drop=True, after=True),
    Job("400 MB again, warm", ("near",), sequential("big.bin", BIG), after=True),
    Job("8 files of 64 MB at once", ("near",), together),
    Job("60 random 64 KiB of 1 GiB", ("near", "far", "ebi"), scattered("stack1.mrcs", 60, 64 * KIB)),
    Job("30 random 1 MiB of 1 GiB", ("near",), scattered("stack2.mrcs", 30, MIB)),
    Job("one cold 128 KiB", ("near", "far"), cold, single=True),
    Job("first KiB of 100 files", ("near", "far"), heads(100)),
    Job("64 MB sequential", ("ebi",), sequential("eight/f0.bin", EIGHTH)),
    Job("first KiB of 40 files", ("ebi",), heads(40)),
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
