"""The memory of a mount is that of its blocks: all threads share one heap."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
from empiarfs.allocator import share_one_heap
from empiarfs.threads import ThreadPool
if sys.argv[1] == "shared":
    share_one_heap()
(line,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
start = int(line.partition("-")[0], 16)
pool = ThreadPool("test")
blocks = [pool.submit(lambda: bytes(1 << 17)) for _ in range(8)]
places = [id(block.result()) for block in blocks]
(line,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
stop = int(line.split()[0].partition("-")[2], 16)
print(all(start <= place < stop for place in places))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such settings")
@pytest.mark.parametrize(("heap", "said"), [("shared", "True"), ("own", "False")])
def test_blocks_of_all_threads_are_in_one_heap(heap: str, said: str) -> None:
    """A block that any thread allocates lies in the heap of the process, which by default it does not."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, heap], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said
