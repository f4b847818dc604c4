"""What the tests need of the machine: mounts of their own, an ordinary user, and nothing left behind.

As root, pytest moves into a mount namespace of its own: whatever the tests mount is seen by nobody else and
gone with them, /dev/fuse can be opened by ordinary users there as on any desktop, /etc/fuse.conf can be
rewritten, and an interpreter below /root can be reached by an ordinary user.
"""

import ctypes
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import empiarfs

FUSE_DEVICE = Path("/dev/fuse")
FUSE_CONFIG = Path("/etc/fuse.conf")
PROJECT = Path(empiarfs.__file__).resolve().parent.parent  # whichever is tested: a mutant too

UMASK = os.umask(0o022)  # of whoever runs the tests; their own files are for every user and server they start
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS of sched.h
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18  # MS_BIND, MS_REC, MS_PRIVATE of mount.h
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class User:
    """A user that mounts.

    Attributes:
        name: as `"root"`.
        uid, gid: their numbers.
    """

    name: str
    uid: int
    gid: int


def me() -> User:
    """Return the user that runs the tests."""
    name = "root" if os.geteuid() == 0 else "user"
    return User(name, os.geteuid(), os.getegid())


def ordinary() -> User:
    """Return an ordinary user: `nobody` where root runs the tests, else the user that runs them."""
    if os.geteuid():
        return me()
    nobody = pwd.getpwnam("nobody")
    return User("user", nobody.pw_uid, nobody.pw_gid)


def users() -> list[str]:
    """Return the names of the users that tests can use here."""
    return ["root", "user"] if os.geteuid() == 0 else ["user"]


def lack() -> str:
    """Return what keeps root from `make_private` here, and what to do about it; empty where nothing does."""
    if os.geteuid() or mounted(Path("/")):
        return ""
    return (
        "/ is not a mount point (a plain chroot), so root's tests get no mounts of their own: enter it "
        "with pivot_root, as scripts/bare does, or bind it on itself before chroot: mount --bind DIR DIR"
    )


def make_private() -> None:
    """Move this process into mounts of its own, fit for the tests; does nothing for an ordinary user.

    Raises:
        OSError: it may not be done.
    """
    if os.geteuid():
        return
    _checked(_libc.unshare(_NEW_MOUNTS), "unshare")
    _mount("none", "/", flags=_RECURSIVE | _PRIVATE)
    folder = Path(tempfile.mkdtemp(prefix="empiarfs-machine-"))
    folder.chmod(0o755)
    _mount("tmpfs", folder, kind="tmpfs", data="mode=755")
    _open_device(folder / "fuse")
    configuration = folder / "fuse.conf"
    configuration.write_text("user_allow_other\n")
    if not FUSE_CONFIG.exists():
        FUSE_CONFIG.touch()  # something to mount upon
    _mount(configuration, FUSE_CONFIG, flags=_BIND)
    for path in (sys.executable, os.path.realpath(sys.executable), sys.prefix, sys.base_prefix, PROJECT):
        _open_way(Path(path), folder)
    unbind(folder)  # what was mounted from there elsewhere stays
    folder.rmdir()


def _open_device(node: Path) -> None:
    """Let every user open /dev/fuse, as udev does."""
    if not FUSE_DEVICE.exists() or FUSE_DEVICE.stat().st_mode & 0o006 == 0o006:
        return
    os.mknod(node, stat.S_IFCHR | 0o666, FUSE_DEVICE.stat().st_rdev)
    node.chmod(0o666)
    _mount(node, FUSE_DEVICE, flags=_BIND)


def _open_way(path: Path, folder: Path) -> None:
    """Make `path` reachable for every user: what stands in a closed directory is shown in an open one."""
    for above in reversed(path.parents):
        if above.stat().st_mode & 0o005 == 0o005:
            continue
        behind = Path(tempfile.mkdtemp(dir=folder))
        _mount(above, behind, flags=_BIND | _RECURSIVE)
        _mount("tmpfs", above, kind="tmpfs", data="mode=755")
        for child in behind.iterdir():
            if child.is_symlink():
                (above / child.name).symlink_to(child.readlink())
            elif child.is_dir():
                (above / child.name).mkdir()
                _mount(child, above / child.name, flags=_BIND | _RECURSIVE)
            else:
                (above / child.name).touch()
                _mount(child, above / child.name, flags=_BIND)


def bind(source: Path, target: Path) -> None:
    """Show `source` in the place of `target`."""
    _mount(source, target, flags=_BIND)


def mount_tmpfs(target: Path) -> None:
    """Mount an empty file system on `target`, in memory, that every user can reach."""
    _mount("tmpfs", target, kind="tmpfs", data="mode=755")


def mount_bpf(target: Path) -> None:
    """Mount on `target` a file system on which no fusermount3 mounts; names in it have no dots."""
    _mount("bpf", target, kind="bpf", data="mode=755")


def unbind(target: Path) -> None:
    """Take away what was mounted last on `target`."""
    _checked(_libc.umount2(os.fsencode(target), 2), target)  # MNT_DETACH


def mounted(path: Path) -> list[str]:
    """Return the types of what is mounted on `path`; asks the kernel's table alone."""
    lines = Path("/proc/self/mounts").read_bytes().splitlines()
    wanted = os.fsencode(path).replace(b"\\", rb"\134").replace(b" ", rb"\040")
    return [line.split()[2].decode() for line in lines if line.split()[1] == wanted]


def processes(token: str) -> list[int]:
    """Return the processes that have `token` in their environment and are not dead."""
    return [int(entry.name) for entry in _numbered(Path("/proc").iterdir()) if _has(entry, token)]


def _numbered(entries: Iterable[Path]) -> list[Path]:
    return [entry for entry in entries if entry.name.isdigit()]


def _has(process: Path, token: str) -> bool:
    try:
        return token.encode() in (process / "environ").read_bytes()
    except OSError:  # gone meanwhile, or someone else's
        return False


def _mount(source: Path | str, target: Path | str, *, kind: str = "", flags: int = 0, data: str = "") -> None:
    arguments = [os.fsencode(source), os.fsencode(target), kind.encode() or None]
    _checked(_libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None), target)


def _checked(result: int, what: Path | str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(what))
