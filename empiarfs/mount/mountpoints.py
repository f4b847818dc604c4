"""Mount points: check and lock one, unmount."""

import errno
import fcntl
import hashlib
import os
import pwd
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from empiarfs.mount import mount_table, requirements
from empiarfs.mount.mount_table import KIND, Mounted
from empiarfs.private_dirs import ensure_private, runtime_folder

ANSWER_SECONDS = 5.0
MOST_LINKS = 40
LOCK_SECONDS = 10.0
END_SECONDS = 6.0  # in which a daemon ends whose mount is gone; it has five for the disk


class CannotMount(Exception):
    """A mount cannot be made or unmounted; the text says why, and what to do."""


def is_ours(point: Path) -> bool:
    """Return whether empiarfs is mounted on `point`; reads only the table, so a dead mount cannot hang it."""
    on_top = _on_top(absolute(point))
    return on_top is not None and on_top.kind == KIND


def _on_top(path: str) -> Mounted | None:
    """Return the last mount on `path`; None if there is none."""
    return next((mounted for mounted in reversed(mount_table.table()) if mounted.point == path), None)


def holder(path: Path) -> str | None:
    """Return the mount of empiarfs that contains `path`; None if none does."""
    deepest = mount_table.containing(absolute(path))
    return deepest.point if deepest and deepest.kind == KIND else None


def absolute(path: Path) -> str:
    """Return `path` without links, `.` and `..`; never accesses a mount, which may be dead."""
    whole = Path(os.path.normpath(path.expanduser().absolute()))
    points = {mounted.point for mounted in mount_table.table()}
    for _ in range(MOST_LINKS):
        try:
            whole = whole.parent.resolve() / whole.name
            if os.fspath(whole) in points or not whole.is_symlink():
                break
            whole = Path(os.path.normpath(whole.parent / whole.readlink()))
        except OSError:
            break
    return os.fspath(whole)


def lock(path: str) -> None:
    """Lock the mount point `path` for this process and its children, so that two mounts at once do not stack.

    The lock lives as long as they do. The daemon of a mount that was just unmounted may need a moment to end.

    Raises:
        CannotMount: another process holds it.
    """
    try:
        lock = _open_lock(path)
    except OSError:
        return  # nowhere to lock: rely on the table of mounts
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if is_ours(Path(path)) and not is_dead(path):
                raise CannotMount(_taken(path)) from error
            if time.monotonic() > deadline:
                raise CannotMount(_held(path, lock)) from error
            time.sleep(0.05)
        else:
            return


def _open_lock(path: str) -> int:
    """Open the file whose lock belongs to the mount point `path`.

    Raises:
        OSError: there is no folder for it.
    """
    folder = runtime_folder()
    ensure_private(folder)
    digest = hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest()
    return os.open(folder / f"mount-{digest}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _held(path: str, lock: int) -> str:
    """Return a message that names the process that holds the lock of `path`, whose file is open as `lock`."""
    files = _open_files()
    name = os.fspath(Path(f"/proc/self/fd/{lock}").readlink())
    keepers = [process for process, names in files.items() if name in names]
    for process in keepers:
        if os.fspath(requirements.DEVICE) in files[process] and not is_ours(Path(path)):
            return (
                f"process {process} still serves an earlier mount on {path}: programs use it (umount --lazy), or a "
                f"container or sandbox has a copy of it (unshare --mount); end it: kill {process}"
            )
    if keepers:
        return f"process {keepers[0]} is mounting on {path}; wait for it, or end it: kill {keepers[0]}"
    return (
        f"a process that is not visible here, of another user or outside of this container, mounts on {path} or "
        "serves a mount there; end it there, or choose another mount point"
    )


def left_behind(path: str) -> str:
    """Return a message if the daemon of the mount that was on `path` goes on; empty once it has ended."""
    try:
        lock = _open_lock(path)
    except OSError:
        return ""
    deadline = time.monotonic() + END_SECONDS
    try:
        while time.monotonic() < deadline:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return ""
            time.sleep(0.05)
        return _held(path, lock)
    finally:
        os.close(lock)


def _open_files() -> dict[int, set[str]]:
    """Return the names of the files that other processes of the user have open; accesses none of the files."""
    found: dict[int, set[str]] = {}
    for folder in Path("/proc").glob("[1-9]*/fd"):
        process = int(folder.parent.name)
        names = found[process] = set()
        with suppress(OSError):  # belongs to another user, or has ended
            for one in folder.iterdir():
                with suppress(FileNotFoundError):  # closed meanwhile
                    names.add(os.fspath(one.readlink()))
    found.pop(os.getpid(), None)
    return found


def _taken(path: str) -> str:
    return f"{path} is already mounted; use it, or unmount it first: empiarfs umount {path}"


def prepare(point: Path) -> str:
    """Prepare `point` for a mount and return its full path: create it if missing, unmount a dead mount.

    Raises:
        CannotMount: it is a file, not empty, already mounted, or may not be used.
    """
    path = absolute(point)
    if is_ours(point):
        if not is_dead(path):
            raise CannotMount(_taken(path))
        detach(path)
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        occupied = next(os.scandir(path), None) is not None
    except FileExistsError as error:
        raise CannotMount(f"{path} is not a directory; name an empty directory, or one to be created") from error
    except NotADirectoryError as error:
        raise CannotMount(f"{path} is below a file; name an empty directory, or one to be created") from error
    except OSError as error:
        raise CannotMount(f"{path}: {error.strerror}; choose a directory of your own") from error
    if occupied:
        raise CannotMount(f"{path} is not empty; name an empty directory, or one to be created")
    if os.geteuid() and not os.access(path, os.W_OK):
        raise CannotMount(f"{path} is not writable for you; choose a directory of your own")
    return path


def is_dead(path: str) -> bool:
    """Return whether the daemon behind the mount on `path` is gone.

    The kernel answers `stat` from its cache for an hour, and `statvfs` never. A daemon that hangs is not gone; the
    call returns without it after `ANSWER_SECONDS`.
    """
    errors: list[int | None] = []

    def ask() -> None:
        try:
            os.statvfs(path)
        except OSError as error:
            errors.append(error.errno)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return errors == [errno.ENOTCONN]


def check_fuse() -> None:
    """Check that this machine can mount at all.

    Raises:
        CannotMount: it has no FUSE device, an ordinary user has no fusermount3, or there is no such binding.
    """
    missing = requirements.missing_binding() or requirements.missing_device()
    if missing is None and os.geteuid() and requirements.fusermount() is None:
        missing = requirements.missing_fusermount()
    if missing is not None:
        raise CannotMount(str(missing))


def own(point: Path) -> str:
    """Return the full path of the mount of empiarfs on `point`.

    Raises:
        CannotMount: there is none.
    """
    path = absolute(point)
    if not is_ours(point):
        raise CannotMount(f"{path} is not a mount of empiarfs; findmnt -t {KIND} lists them all")
    return path


def unmount(point: Path, *, lazy: bool) -> str:
    """Unmount empiarfs from `point`, a dead mount too; return a warning if its daemon goes on, or nothing.

    Raises:
        CannotMount: empiarfs is not mounted there, the mount is another user's, or programs still use it.
    """
    path = own(point)
    _check_owner(path)
    if lazy or is_dead(path):  # no program can use a dead one
        detach(path)
        return ""
    trouble = _unmount(path, lazy=False)
    if trouble.rstrip(".").endswith("busy"):
        raise CannotMount(
            f"{path} is in use (fuser -vm {path} lists the programs); close them, "
            f"or unmount while they run: empiarfs umount --lazy {path}"
        )
    if trouble:
        raise CannotMount(trouble)
    return left_behind(path)


def _check_owner(path: str) -> None:
    """Raise CannotMount if the mount on `path` is another user's: only its owner and root may unmount it."""
    mounted = _on_top(path)
    given = dict(option.split("=", 1) for option in mounted.options if "=" in option) if mounted else {}
    owner = int(given.get("user_id", os.geteuid()))
    if os.geteuid() in {0, owner}:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"user {owner}"
    raise CannotMount(f"{path} belongs to {name}: sudo empiarfs umount {path}")


def detach(path: str) -> None:
    """Unmount `path` at once, even while programs use it.

    Raises:
        CannotMount: it may not be done.
    """
    _check_owner(path)
    trouble = _unmount(path, lazy=True)
    if trouble:
        raise CannotMount(trouble)


def set_readahead(path: str, kib: int) -> None:
    """Set the kernel's readahead of the mount at `path` to `kib` KiB.

    Raises:
        OSError: only root may.
    """
    device = Path(path).stat().st_dev
    Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").write_text(str(kib))


def _unmount(path: str, *, lazy: bool) -> str:
    """Unmount; return the error message, empty if there was none."""
    program = requirements.fusermount()
    if os.geteuid() == 0:
        command = ["umount", "--no-canonicalize", *(["--lazy"] if lazy else []), path]
    elif program:
        command = [program, "-u", *(["-z"] if lazy else []), path]
    else:
        return str(requirements.missing_fusermount())
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603 - a path is one word of it
    if done.returncode == 0:
        return ""
    if "/etc/mtab" in done.stderr and not Path("/etc/mtab").exists():
        return "fusermount3 needs /etc/mtab, which is missing; as root: ln -s ../proc/self/mounts /etc/mtab"
    return (done.stderr.strip() or f"{command[0]} failed").splitlines()[-1]
