"""The daemon's life: fork, readiness, signals, exit."""

import faulthandler
import logging
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from empiarfs.allocator import share_one_heap
from empiarfs.archive import Archive
from empiarfs.mount import kernel_limit, mountpoints, refusal, status, view

log = logging.getLogger(__name__)

_TELL = signal.SIGUSR1
_STOP = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_READY = b"ready"
_ERRORS = 2  # standard error, the last of the standard descriptors; sys.stderr is None if the shell has closed it
FEWEST_THREADS = 16  # with which a mount begins: our own, and ten of libfuse
LAST_SECONDS = 5.0  # after a signal, for the kernel and the disk to finish


class Failed(Exception):
    """The daemon could not mount; the text is its error message."""


def in_background(start: Callable[[Callable[[], None]], None], mountpoint: str) -> None:
    """Run `start` in a process of its own, and return when it has called its argument.

    Args:
        start: mounts, calls its argument when the mount answers, and returns when the mount is gone.
        mountpoint: where it mounts.

    Raises:
        Failed: the process ended before; the text is its error message.
    """
    read_end, write_end = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {_TELL})  # stays pending until the daemon can answer it
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _detached(start, write_end)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read()
    if said.endswith(_READY):
        lines = said.removesuffix(_READY).splitlines()
        ours = [line + b"\n" for line in lines if line.startswith(b"empiarfs:")]  # libfuse writes lines of its own
        os.write(_ERRORS, b"".join(ours))
        return
    os.waitpid(child, 0)
    raise Failed(refusal.explained(said, mountpoint))


def reserve_standard_descriptors() -> None:
    """Open the standard descriptors that the shell has closed, so that no other file gets their numbers."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _ERRORS:
        pass
    os.close(number)


def _close_inherited() -> None:
    """Close the locks and pipes of the shell, which others may wait for: what Python opens is not inheritable."""
    for number in [int(one.name) for one in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # that of the listing itself is closed
            if number > _ERRORS and os.get_inheritable(number):
                os.close(number)


def _detached(start: Callable[[Callable[[], None]], None], pipe: int) -> None:
    """Run as the daemon. Errors before the mount answers go through the pipe, libfuse's messages too."""
    number = 1
    try:
        os.setsid()
        os.chdir("/")
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.dup2(pipe, _ERRORS)
        os.set_inheritable(pipe, False)
        _close_inherited()

        def ready() -> None:
            os.dup2(nowhere, _ERRORS)  # first: nothing may follow the ready message in the pipe
            os.write(pipe, _READY)
            os.close(pipe)

        start(ready)
        number = 0
    except BaseException as error:
        log.debug("the daemon ends", exc_info=error)
        with suppress(OSError):
            os.write(_ERRORS, f"\n{_said(error)}\n".encode(errors="replace"))
    finally:
        os._exit(number)


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        advice = "" if "--cache-dir" in error.strerror else "; choose another folder: --cache-dir"
        return f"{os.fsdecode(error.filename)}: {error.strerror}{advice}"
    return str(error) or type(error).__name__


def serve(
    opened: Callable[[], Archive],
    mountpoint: str,
    *,
    ready: Callable[[], None],
    recent_warnings: status.RecentWarnings,
    options: Sequence[str] = (),
) -> None:
    """Mount, answer the kernel, and return when the mount is gone, by umount or by a signal.

    Args:
        opened: opens the archive; called in this process, because threads do not survive a fork.
        mountpoint: an empty directory.
        ready: called when the mount answers.
        recent_warnings: collects the newest warnings for the status.
        options: further options for libfuse.

    Raises:
        RuntimeError, OSError: it could not mount.
    """
    share_one_heap()  # before any thread: the heap of one that has ended is used again, whatever the limit is
    _check_threads()
    with suppress(OSError, ValueError):  # a system may forbid even that
        _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    begun = threading.Event()
    # one that was ignored, by nohup or a shell's trap, stays ignored: if it were blocked it would be received
    answered = {_TELL, *(one for one in _STOP if signal.getsignal(one) != signal.SIG_IGN)}
    signal.pthread_sigmask(signal.SIG_BLOCK, answered)  # in all threads started from here on, libfuse's too
    stats = status.MountStats(mountpoint, recent_warnings)
    threading.Thread(
        target=_answer_signals, args=(mountpoint, stats, answered), name="signals", daemon=True
    ).start()
    threading.Thread(target=_when_it_answers, args=(mountpoint, begun, ready), name="ready", daemon=True).start()
    archive = stats.archive = opened()
    faulthandler.enable(_ERRORS)
    from empiarfs.mount import binding  # noqa: PLC0415 - loads libfuse, in the process that stays

    stats.binding = binding.library()
    owner = view.Owner(os.getuid(), os.getgid())
    limit = kernel_limit.limit()
    try:
        binding.serve(archive, mountpoint, owner, int(time.time()), begun.set, stats, options)
        if limit is not None:
            _log_end(mountpoint, limit, max(stats.reads_waiting.longest, stats.names_waiting.longest))
    finally:
        archive.close()


def _log_end(mountpoint: str, limit: kernel_limit.Limit, longest: float) -> None:
    """Write to the log why the mount has ended, as far as that can be known: the kernel does not tell.

    Args:
        mountpoint: where it was.
        limit: that of the kernel.
        longest: the seconds that the slowest answer took.
    """
    if longest > limit.seconds:
        log.error(
            "the kernel has ended the mount on %s: an answer took %.0f s, and %s = %.0f",
            mountpoint, longest, limit.sysctl, limit.seconds,
        )  # fmt: skip
    else:
        log.info(
            "%s was unmounted, or ended by the kernel: it ends a mount that stops answering for %.0f s (%s)",
            mountpoint, limit.seconds, limit.sysctl,
        )  # fmt: skip


def _check_threads() -> None:
    """Raise RuntimeError if the process may not have the threads of a mount, some of which nothing waits for."""
    checked = threading.Event()
    started = []
    try:
        for _ in range(FEWEST_THREADS):
            thread = threading.Thread(target=checked.wait)
            thread.start()
            started.append(thread)
    finally:
        checked.set()
        for thread in started:
            thread.join()


def _when_it_answers(mountpoint: str, begun: threading.Event, ready: Callable[[], None]) -> None:
    begun.wait()
    Path(mountpoint).stat()
    # The kernel looks up one name of a directory at a time, unless libfuse allows more, which 2.9 and 3.14 do not:
    # a name that it has cached is found even while the look-up of another waits for the server.
    (Path(mountpoint) / status.NAME).stat()
    ready()


def _answer_signals(mountpoint: str, stats: status.MountStats, answered: set[signal.Signals]) -> None:
    """Write threads and status to the log at each SIGUSR1; unmount and exit at any other of `answered`."""
    while (received := signal.sigwait(answered)) == _TELL:
        try:
            _tell_log(f"signal {received}: the threads of {mountpoint}", stacks())
            _tell_log(f"signal {received}: the status of {mountpoint}", status.as_text(stats.status()))
        except Exception:
            log.exception("the status could not be written to the log")  # the next signal is still answered
    log.info("signal %d: unmounting %s", received, mountpoint)
    _end(mountpoint, stats.archive)


def _tell_log(title: str, text: str) -> None:
    """Write `text` to the log at any log level, line by line; it must not contain an unescaped name."""
    log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, title, (), None, sinfo=text.rstrip()))


def stacks() -> str:
    """Return what every thread is doing now, the innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(number, 'of libfuse')} ({number})\n{''.join(traceback.format_stack(frame))}"
        for number, frame in sys._current_frames().items()  # noqa: SLF001 - there is no other way
    )


def _end(mountpoint: str, archive: Archive | None) -> None:
    """Cancel every reader, unmount, and exit in bounded time, whatever hangs."""
    if archive is not None:
        threading.Thread(target=archive.close, name="closing", daemon=True).start()
    deadline = time.monotonic() + LAST_SECONDS
    while time.monotonic() < deadline:  # libfuse may be mounting at this moment
        try:
            if mountpoints.is_ours(Path(mountpoint)):
                mountpoints.detach(mountpoint)
        except (mountpoints.CannotMount, OSError) as error:
            log.warning("%s", error)
        time.sleep(0.1)
    os._exit(0)


def in_foreground(start: Callable[[Callable[[], None]], None], say: Callable[[], None], mountpoint: str) -> None:
    """Run `start` in this process; `say` is called when the mount answers.

    SIGUSR1 stays pending until `serve` answers it.

    Raises:
        Failed: it could not mount; the reason of libfuse is on standard error.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {_TELL})
    try:
        start(say)
    except RuntimeError as error:
        by_libfuse = "could not mount; the line above says why"  # its error is a number
        says = str(error)
        raise Failed(by_libfuse if says.isdigit() else refusal.explained(says.encode(), mountpoint)) from error
    finally:
        sys.stdout.flush()
