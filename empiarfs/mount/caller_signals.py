"""Whether a signal is about to end the program that waits for an answer; then it is answered at once.

A program that waits for FUSE ends only after it has an answer (request_wait_answer in fs/fuse/dev.c).
"""

import os
import re
import signal

# a signal that ends a program leaves a SIGKILL pending for each thread (complete_signal in kernel/signal.c);
# these do not, because they dump core
_DUMPS = (
    signal.SIGQUIT, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV,
    signal.SIGXCPU, signal.SIGXFSZ, signal.SIGSYS,
)  # fmt: skip
_ENDS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
)  # a program may catch them, but their sender wants it to end
_MASKS = re.compile(rb"^(SigPnd|ShdPnd|SigBlk|SigIgn|SigCgt):\s*([0-9a-f]+)$", re.MULTILINE)
_NOTHING_PENDING = b"\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n"
STATUS_BYTES = 1 << 16  # more than the file ever has


def is_ending(thread: int) -> bool:
    """Return whether a signal that ends, or is meant to end, its program is pending for a thread."""
    waiting, caught = _signals(thread)
    return _is_dead(waiting, caught) or bool(waiting & _mask(_ENDS))


def is_dead(thread: int) -> bool:
    """Return whether a signal that ends its program is pending for a thread: no answer will be seen."""
    return _is_dead(*_signals(thread))


class Reader:
    """A thread whose read is answered; the kernel does not hold it back from its end if the read is buffered."""

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._was_seen = False

    def is_dead(self) -> bool:
        """Return whether the thread will not see the answer: a signal ends it, or it was seen and is gone."""
        if is_dead(self._thread):
            return True
        is_there = os.path.exists(f"/proc/{self._thread}")  # noqa: PTH110 - a Path costs as much as the look
        was_seen, self._was_seen = self._was_seen, self._was_seen or is_there
        return was_seen and not is_there


def _is_dead(waiting: int, caught: int) -> bool:
    return bool(waiting & _mask((signal.SIGKILL,)) or waiting & ~caught & _mask(_DUMPS))


def _signals(thread: int) -> tuple[int, int]:
    """Return the pending signals that would reach a thread, and those it catches (proc(5), `status`)."""
    try:
        status = os.open(f"/proc/{thread}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # of another namespace, or gone
        return 0, 0
    try:
        text = os.read(status, STATUS_BYTES)
    except OSError:  # gone since
        return 0, 0
    finally:
        os.close(status)
    if _NOTHING_PENDING in text:  # nearly always
        return 0, 0
    of = {name: int(mask, 16) for name, mask in _MASKS.findall(text)}
    waiting = (of.get(b"SigPnd", 0) | of.get(b"ShdPnd", 0)) & ~(of.get(b"SigBlk", 0) | of.get(b"SigIgn", 0))
    return waiting, of.get(b"SigCgt", 0)


def _mask(numbers: tuple[signal.Signals, ...]) -> int:
    return sum(1 << (number - 1) for number in numbers)
