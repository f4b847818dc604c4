"""The daemon's life: fork, readiness, signals, exit."""

import faulthandler
import logging
import os
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
from empiarfs.mount import mountpoints, status, view

log = logging.getLogger(__name__)

_TELL = signal.SIGUSR1
_STOP = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_READY = b"ready"
LAST_SECONDS = 5.0  # after a signal, for the kernel and the disk to finish


class Failed(Exception):
    """The daemon could not mount; the text is its error message."""


def in_background(start: Callable[[Callable[[], None]], None]) -> None:
    """Run `start` in a process of its own, and return when it has called its argument.

    Args:
        start: mounts, calls its argument when the mount answers, and returns when the mount is gone.

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
        lines = said.removesuffix(_READY).decode(errors="replace").splitlines()
        ours = [line for line in lines if line.startswith("empiarfs:")]  # libfuse writes lines of its own
        sys.stderr.write("".join(f"{line}\n" for line in ours))
        return
    os.waitpid(child, 0)
    raise Failed(_last_words(said))


def _detached(start: Callable[[Callable[[], None]], None], pipe: int) -> None:
    """Run as the daemon. Errors before the mount answers go through the pipe, libfuse's messages too."""
    number = 1
    try:
        os.setsid()
        os.chdir("/")
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.dup2(pipe, 2)
        os.set_inheritable(pipe, False)

        def ready() -> None:
            os.dup2(nowhere, 2)  # first: nothing may follow the ready message in the pipe
            os.write(pipe, _READY)
            os.close(pipe)

        start(ready)
        number = 0
    except BaseException as error:
        log.debug("the daemon ends", exc_info=error)
        with suppress(OSError):
            os.write(2, f"\n{_said(error)}\n".encode(errors="replace"))
    finally:
        os._exit(number)


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        advice = "" if "--cache-dir" in error.strerror else "; choose another folder: --cache-dir"
        return f"{os.fsdecode(error.filename)}: {error.strerror}{advice}"
    return str(error)


def _last_words(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    text = " / ".join(lines)
    if "user_allow_other" in text:
        return (
            "you may not use --allow-other; ask an administrator to add the line user_allow_other to /etc/fuse.conf"
        )
    if "fusermount" in text and ("Operation not permitted" in text or "Permission denied" in text):
        return (
            f"mounting is not permitted here ({lines[0]}); start a container with "
            "--device /dev/fuse --cap-add SYS_ADMIN"
        )
    # libfuse has written the reason; the binding raises only its exit status
    words = [line for line in lines if not line.isdigit()]
    return words[-1] if words else "the daemon ended without a message; try --foreground --verbose"


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

    def begun() -> None:
        threading.Thread(target=_when_it_answers, args=(mountpoint, ready), name="ready", daemon=True).start()

    share_one_heap()
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP | {_TELL})  # in all threads started from here on, libfuse's too
    stats = status.MountStats(mountpoint, recent_warnings)
    threading.Thread(target=_answer_signals, args=(mountpoint, stats), name="signals", daemon=True).start()
    archive = stats.archive = opened()
    faulthandler.enable()
    from empiarfs.mount import binding  # noqa: PLC0415 - loads libfuse, in the process that stays

    stats.binding = binding.library()
    owner = view.Owner(os.getuid(), os.getgid())
    try:
        binding.serve(archive, mountpoint, owner, int(time.time()), begun, stats, options)
    finally:
        archive.close()


def _when_it_answers(mountpoint: str, ready: Callable[[], None]) -> None:
    Path(mountpoint).stat()
    # The kernel looks up one name of a directory at a time, unless libfuse allows more, which 2.9 and 3.14 do not:
    # a name that it has cached is found even while the look-up of another waits for the server.
    (Path(mountpoint) / status.NAME).stat()
    ready()


def _answer_signals(mountpoint: str, stats: status.MountStats) -> None:
    """Write threads and status to the log at each SIGUSR1; unmount and exit at a signal to end."""
    while (received := signal.sigwait(_STOP | {_TELL})) == _TELL:
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


def in_foreground(start: Callable[[Callable[[], None]], None], say: Callable[[], None]) -> None:
    """Run `start` in this process; `say` is called when the mount answers.

    SIGUSR1 stays pending until `serve` answers it.

    Raises:
        Failed: it could not mount; libfuse has written the reason to standard error.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {_TELL})
    try:
        start(say)
    except RuntimeError as error:
        raise Failed("could not mount; the line above says why") from error
    finally:
        sys.stdout.flush()
