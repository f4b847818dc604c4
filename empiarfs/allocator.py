"""Settings of the C library's memory allocator, for a process that holds many blocks of files."""

import ctypes

from empiarfs.units import MIB

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of mallopt(3)


def share_one_heap() -> None:
    """Let all threads allocate blocks from one heap, and let freed blocks stay in it for the next ones.

    By default each thread has a heap, and they hold half as much again as the blocks: the thread that frees a block
    is rarely the one that needs the next. Another C library than glibc is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, 4 * MIB)  # larger than a chunk of the disk cache
        mallopt(_TRIM_THRESHOLD, 32 * MIB)
