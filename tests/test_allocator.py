"""The memory of a mount is that of its blocks: all threads share one heap."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
from empiarfs.mount import daemon, status
from empiarfs.threads import ThreadPool

def heap():
    (line,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
    return [int(address, 16) for address in line.split()[0].split("-")]

def allocate():
    start, _ = heap()
    pool = ThreadPool("test")
    blocks = [pool.submit(lambda: bytes(1 << 17)) for _ in range(8)]
    places = [id(block.result()) for block in blocks]
    _, stop = heap()
    print(all(start <= place < stop for place in places))
    sys.exit()

if sys.argv[1] == "daemon":
    daemon.serve(allocate, "/nowhere", ready=print, recent_warnings=status.RecentWarnings())
allocate()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such settings")
@pytest.mark.parametrize(("process", "said"), [("daemon", "True"), ("other", "False")])
def test_blocks_of_all_threads_are_in_one_heap(process: str, said: str) -> None:
    """A block that any thread of a mount allocates is in the heap of the process; by default it is not."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, process], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said
