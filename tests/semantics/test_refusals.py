"""The calls that a mount refuses, with the errno that pjdfstest expects of a read-only file system."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH115, PTH116, PTH123, PTH208, PTH211
# ruff: noqa: S103, S606 - what is tried is to be refused

import ctypes
import errno
import fcntl
import mmap
import os
import socket
import stat
from collections.abc import Callable
from functools import cache

import pytest
from support.mounting import Mount, Mounts


def outcomes(root: str, home: str) -> dict[str, str]:
    """Try every call on a mount; return the name of its errno by the name of the call, "" for success."""
    folder, accession, mine = f"{root}/10001/data", f"{root}/EMPIAR-10028", f"{home}/mine"
    file, new, empty, long = f"{folder}/plain.mrc", f"{folder}/new", f"{folder}/empty", f"{folder}/{'x' * 256}"
    libc = ctypes.CDLL(None, use_errno=True)
    here, place = -100, ctypes.c_long  # AT_FDCWD
    bad = ctypes.c_void_p(1)

    def called(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def opened(path: str, flags: int) -> int:
        fd = os.open(path, flags, 0o644)
        os.close(fd)
        return fd

    def bound() -> None:
        with socket.socket(socket.AF_UNIX) as one:
            os.chdir(folder)  # the path of a socket is short
            one.bind("new")

    def executed() -> None:
        os.execv(file, [file])

    with open(mine, "wb") as own:
        own.write(b"mine")
    fd, directory = os.open(file, os.O_RDONLY), os.open(folder, os.O_RDONLY)
    path_only = os.open(file, os.O_PATH)
    calls: dict[str, Callable[[], object]] = {
        "open O_WRONLY": lambda: opened(file, os.O_WRONLY),
        "open O_RDWR": lambda: opened(file, os.O_RDWR),
        "open O_APPEND": lambda: opened(file, os.O_WRONLY | os.O_APPEND),
        "open O_RDONLY O_TRUNC": lambda: opened(file, os.O_RDONLY | os.O_TRUNC),
        "open O_WRONLY O_TRUNC": lambda: opened(file, os.O_WRONLY | os.O_TRUNC),
        "open O_CREAT new": lambda: opened(new, os.O_CREAT | os.O_WRONLY),
        "open O_CREAT O_RDONLY new": lambda: opened(new, os.O_CREAT | os.O_RDONLY),
        "open O_CREAT O_EXCL new": lambda: opened(new, os.O_CREAT | os.O_EXCL | os.O_RDWR),
        "open O_TMPFILE": lambda: opened(folder, os.O_TMPFILE | os.O_RDWR),
        "open O_CREAT at the root": lambda: opened(f"{root}/10999", os.O_CREAT | os.O_WRONLY),
        "access W_OK": lambda: called(libc.access(file.encode(), os.W_OK)),
        "access W_OK directory": lambda: called(libc.access(folder.encode(), os.W_OK)),
        "truncate to nothing": lambda: os.truncate(file, 0),
        "truncate to more": lambda: os.truncate(file, 1 << 20),
        "truncate as it is": lambda: os.truncate(file, os.stat(file).st_size),
        "chmod": lambda: os.chmod(file, 0o600),
        "chmod as it is": lambda: os.chmod(file, 0o644),
        "chmod suid": lambda: os.chmod(file, 0o4755),
        "chmod directory": lambda: os.chmod(folder, 0o700),
        "chmod root": lambda: os.chmod(root, 0o755),
        "chmod accession": lambda: os.chmod(accession, 0o755),
        "fchmod": lambda: os.fchmod(fd, 0o600),
        "fchmod directory": lambda: os.fchmod(directory, 0o755),
        "chown": lambda: os.chown(file, os.getuid(), os.getgid()),
        "chown nobody": lambda: os.chown(file, -1, -1),
        "chown directory": lambda: os.chown(folder, os.getuid(), os.getgid()),
        "fchown": lambda: os.fchown(fd, os.getuid(), os.getgid()),
        "lchown accession": lambda: os.lchown(accession, os.getuid(), os.getgid()),
        "utimensat now": lambda: os.utime(file),
        "utimensat then": lambda: os.utime(file, (1, 1)),
        "utimensat directory": lambda: os.utime(folder),
        "utimensat accession": lambda: os.utime(accession, (1, 1), follow_symlinks=False),
        "futimens": lambda: os.utime(fd),
        "mkdir": lambda: os.mkdir(new),
        "mkdir at the root": lambda: os.mkdir(f"{root}/10999"),
        "rmdir": lambda: os.rmdir(empty),
        "rmdir of a full one": lambda: os.rmdir(folder),
        "unlink": lambda: os.unlink(file),
        "unlink accession": lambda: os.unlink(accession),
        "rename": lambda: os.rename(file, new),
        "rename over": lambda: os.rename(file, f"{folder}/100%.mrc"),
        "rename directory": lambda: os.rename(empty, new),
        "rename exchange": lambda: called(
            libc.renameat2(here, file.encode(), here, f"{folder}/100%.mrc".encode(), 2)
        ),
        "link": lambda: os.link(file, new),
        "symlink": lambda: os.symlink("plain.mrc", new),
        "mkfifo": lambda: os.mkfifo(new),
        "mknod": lambda: os.mknod(new, stat.S_IFREG | 0o644),
        "mknod in place of a socket": lambda: os.mknod(new, stat.S_IFSOCK | 0o644),
        "bind": bound,
        "setxattr": lambda: os.setxattr(file, "user.x", b"x"),
        "removexattr": lambda: os.removexattr(file, "user.x"),
        # another error comes first
        "mkdir of what is there": lambda: os.mkdir(empty),
        "mkdir of a file": lambda: os.mkdir(file),
        "symlink of what is there": lambda: os.symlink("x", file),
        "mkfifo of what is there": lambda: os.mkfifo(file),
        "open O_CREAT O_EXCL of what is there": lambda: opened(file, os.O_CREAT | os.O_EXCL | os.O_RDWR),
        "open directory O_RDWR": lambda: opened(folder, os.O_RDWR),
        "open root O_WRONLY": lambda: opened(root, os.O_WRONLY),
        "open directory O_CREAT": lambda: opened(folder, os.O_CREAT | os.O_RDONLY),
        "rename out": lambda: os.rename(file, f"{home}/out"),
        "rename in": lambda: os.rename(mine, new),
        "link out": lambda: os.link(file, f"{home}/out"),
        "link in": lambda: os.link(mine, new),
        "rename the mount point": lambda: os.rename(root, f"{root}-moved"),
        "rmdir the mount point": lambda: os.rmdir(root),
        "write": lambda: os.write(fd, b"x"),
        "pwrite": lambda: os.pwrite(fd, b"x", 0),
        "pwritev": lambda: os.pwritev(fd, [b"x"], 0),
        "fallocate": lambda: called(libc.fallocate(fd, 0, place(0), place(10))),
        "fallocate a hole": lambda: called(libc.fallocate(fd, 3, place(0), place(10))),
        "copy_file_range into it": lambda: os.copy_file_range(os.open(mine, os.O_RDONLY), fd, 4),
        "sendfile into it": lambda: os.sendfile(fd, os.open(mine, os.O_RDONLY), 0, 4),
        "fcntl lock for writing": lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
        "ftruncate": lambda: os.ftruncate(fd, 0),
        "map shared to write": lambda: mmap.mmap(fd, 10, prot=mmap.PROT_READ | mmap.PROT_WRITE),
        # nothing changes
        "open O_CREAT of what is there": lambda: opened(file, os.O_CREAT | os.O_RDONLY),
        "open O_NOATIME": lambda: opened(file, os.O_NOATIME),
        "access R_OK": lambda: called(libc.access(file.encode(), os.R_OK)),
        "access X_OK directory": lambda: called(libc.access(folder.encode(), os.X_OK)),
        "fsync": lambda: os.fsync(fd),
        "fdatasync": lambda: os.fdatasync(fd),
        "fsync directory": lambda: os.fsync(directory),
        "syncfs": lambda: called(libc.syncfs(fd)),
        "map private to write": lambda: mmap.mmap(fd, 10, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_WRITE),
        "map to execute": lambda: mmap.mmap(fd, 10, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        # what no file system can do
        "exec": executed,
        "access X_OK": lambda: called(libc.access(file.encode(), os.X_OK)),
        "stat below a file": lambda: os.stat(f"{file}/x"),
        "open below a file": lambda: opened(f"{file}/x", os.O_RDONLY),
        "access below a file": lambda: called(libc.access(f"{file}/x".encode(), os.F_OK)),
        "readlink below a file": lambda: os.readlink(f"{file}/x"),
        "mkdir below a file": lambda: os.mkdir(f"{file}/x"),
        "stat with a slash behind": lambda: os.stat(f"{file}/"),
        "stat with a dot behind": lambda: os.stat(f"{file}/."),
        "open O_DIRECTORY": lambda: opened(file, os.O_DIRECTORY),
        "chdir to a file": lambda: os.chdir(file),
        "opendir of a file": lambda: os.listdir(file),
        "read of a directory": lambda: os.read(directory, 10),
        "stat long": lambda: os.stat(long),
        "stat long in three bytes each": lambda: os.stat(f"{folder}/{'日' * 86}"),
        "stat below long": lambda: os.stat(f"{long}/x"),
        "stat long at the root": lambda: os.stat(f"{root}/{'9' * 256}"),
        "open long": lambda: opened(long, os.O_RDONLY),
        "open O_CREAT long": lambda: opened(long, os.O_CREAT | os.O_WRONLY),
        "opendir long": lambda: os.listdir(long),
        "chdir long": lambda: os.chdir(long),
        "readlink long": lambda: os.readlink(long),
        "access long": lambda: called(libc.access(long.encode(), os.F_OK)),
        "statfs long": lambda: os.statvfs(long),
        "mkdir long": lambda: os.mkdir(long),
        "stat of a path of 4096": lambda: os.stat(f"{root}{'/.' * 2048}"),
        "stat of 255": lambda: os.stat(f"{folder}/{'x' * 255}"),
        "stat of a path of 4000": lambda: os.stat(f"{root}{'/.' * 1900}"),
        "open missing": lambda: opened(new, os.O_RDONLY),
        "opendir missing": lambda: os.listdir(new),
        "chdir missing": lambda: os.chdir(new),
        "readlink missing": lambda: os.readlink(new),
        "access missing": lambda: called(libc.access(new.encode(), os.F_OK)),
        "statfs missing": lambda: os.statvfs(new),
        "stat below missing": lambda: os.stat(f"{new}/x"),
        "stat of nothing": lambda: os.stat(""),
        "stat in capitals": lambda: os.stat(f"{folder}/PLAIN.MRC"),
        "stat with a space behind": lambda: os.stat(f"{file} "),
        "stat with a query": lambda: os.stat(f"{file}?C=N"),
        "stat with a fragment": lambda: os.stat(f"{file}#x"),
        "stat with an escape": lambda: os.stat(f"{folder}/%70lain.mrc"),
        "readlink file": lambda: os.readlink(file),
        "readlink directory": lambda: os.readlink(folder),
        "pread before the start": lambda: os.pread(fd, 10, -1),
        "pread across 2^63": lambda: os.pread(fd, 10, 2**63 - 5),
        "lseek before the start": lambda: os.lseek(fd, -1, os.SEEK_SET),
        "lseek from nowhere": lambda: os.lseek(fd, 0, 99),
        "map at an odd offset": lambda: called(libc.mmap(None, 10, 1, 2, fd, place(1)) and -1),
        "map of nothing": lambda: called(libc.mmap(None, 0, 1, 2, fd, place(0)) and -1),
        "lseek to data behind the end": lambda: os.lseek(fd, os.stat(file).st_size, os.SEEK_DATA),
        "read to nowhere": lambda: called(libc.pread(fd, bad, ctypes.c_size_t(10), place(0))),
        "getdents to nowhere": lambda: called(libc.getdents64(directory, bad, ctypes.c_size_t(4096))),
        "stat from nowhere": lambda: called(libc.access(bad, os.F_OK)),
        "read of a path": lambda: os.read(path_only, 10),
        "fchmod of a path": lambda: os.fchmod(path_only, 0o644),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = ""
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno or -1, "?")
        os.chdir("/")
    return found


READ_ONLY = """
    open O_WRONLY, open O_RDWR, open O_APPEND, open O_RDONLY O_TRUNC, open O_WRONLY O_TRUNC, open O_CREAT new,
    open O_CREAT O_RDONLY new, open O_CREAT O_EXCL new, open O_TMPFILE, open O_CREAT at the root,
    access W_OK, access W_OK directory, truncate to nothing, truncate to more, truncate as it is,
    chmod, chmod as it is, chmod suid, chmod directory, chmod root, chmod accession, fchmod, fchmod directory,
    chown, chown nobody, chown directory, fchown, lchown accession,
    utimensat now, utimensat then, utimensat directory, utimensat accession, futimens,
    mkdir, mkdir at the root, rmdir, rmdir of a full one, unlink, unlink accession,
    rename, rename over, rename directory, rename exchange, link, link in, symlink,
    mkfifo, mknod, mknod in place of a socket, bind, setxattr, removexattr
"""
OTHER = {
    "EEXIST": "mkdir of what is there, mkdir of a file, symlink of what is there, mkfifo of what is there, "
    "open O_CREAT O_EXCL of what is there",
    "EISDIR": "open directory O_RDWR, open root O_WRONLY, open directory O_CREAT",
    "EXDEV": "rename out, rename in, link out",
    "EBUSY": "rename the mount point, rmdir the mount point",
    "EBADF": "write, pwrite, pwritev, fallocate, fallocate a hole, copy_file_range into it, sendfile into it, "
    "fcntl lock for writing",
    "EINVAL": "ftruncate",
    "EACCES": "map shared to write",
}
HARMLESS = """
    open O_CREAT of what is there, open O_NOATIME, access R_OK, access X_OK directory, fsync, fdatasync,
    fsync directory, syncfs, map private to write, map to execute
"""
DIRECTORIES = {
    "ENOTDIR": "stat below a file, open below a file, access below a file, readlink below a file, "
    "mkdir below a file, stat with a slash behind, stat with a dot behind, open O_DIRECTORY, chdir to a file, "
    "opendir of a file",
    "EISDIR": "read of a directory",
}
LENGTHS = {
    "ENAMETOOLONG": "stat long, stat long in three bytes each, stat below long, stat long at the root, open long, "
    "open O_CREAT long, opendir long, chdir long, readlink long, access long, statfs long, mkdir long, "
    "stat of a path of 4096",
    "ENOENT": "stat of 255",
    "": "stat of a path of 4000",
}
ODDS = {
    "ENOENT": "open missing, opendir missing, chdir missing, readlink missing, access missing, statfs missing, "
    "stat below missing, stat of nothing, stat in capitals, stat with a space behind, stat with a query, "
    "stat with a fragment, stat with an escape",
    "EINVAL": "readlink file, readlink directory, pread before the start, pread across 2^63, "
    "lseek before the start, lseek from nowhere, map at an odd offset, map of nothing",
    "ENXIO": "lseek to data behind the end",
    "EFAULT": "read to nowhere, getdents to nowhere, stat from nowhere",
    "EBADF": "read of a path, fchmod of a path",
}
NOT_EXECUTED = {"EACCES": "exec, access X_OK"}


@cache
def found(mounted: Mount) -> dict[str, str]:
    """Return the outcomes of all calls on one mount, tried once."""
    outcome: dict[str, str] = mounted.call(outcomes, mounted.path, mounted.account.home)
    return outcome


def rows(*tables: dict[str, str]) -> list[tuple[str, str]]:
    """Return the pairs of call and errno."""
    return [
        (" ".join(call.split()), error)
        for table in tables
        for error, calls in table.items()
        for call in calls.split(",")
    ]


@pytest.mark.promise(
    "Every attempt to write, create, rename, remove or change attributes is `EROFS`.",
    "Root gets the same.",
)
@pytest.mark.parametrize(("call", "error"), rows({"EROFS": READ_ONLY}))
def test_whatever_changes_something_is_refused(mounted: Mount, call: str, error: str) -> None:
    """Every call that changes something fails with EROFS."""
    assert found(mounted)[call] == error


@pytest.mark.promise(
    "Calls for which every read-only file system returns another error first do so here: `EEXIST` for "
    "creating what exists, `EISDIR` for a directory opened for writing, `EXDEV` for moving a name in or out, "
    "or linking to it from elsewhere, `EBUSY` for the mount point, `EBADF` or `EINVAL` for writing through a "
    "handle opened for reading, `EACCES` for a shared map opened for writing."
)
@pytest.mark.parametrize(("call", "error"), rows(OTHER))
def test_what_would_be_wrong_anywhere_says_so(mounted: Mount, call: str, error: str) -> None:
    """A call that fails on any read-only file system has the usual errno."""
    assert found(mounted)[call] == error


@pytest.mark.promise(
    "Calls that change nothing work: `O_CREAT` of a file that exists, `fsync`, a private map that is written to."
)
@pytest.mark.parametrize(("call", "error"), rows({"": HARMLESS}))
def test_what_changes_nothing_works(mounted: Mount, call: str, error: str) -> None:
    """Calls that open, lock or flush and change nothing succeed."""
    assert found(mounted)[call] == error


@pytest.mark.promise("A file used as a directory is `ENOTDIR`, a directory read as a file is `EISDIR`.")
@pytest.mark.parametrize(("call", "error"), rows(DIRECTORIES))
def test_a_file_and_a_directory_are_not_taken_for_each_other(mounted: Mount, call: str, error: str) -> None:
    """A call on a file in place of a directory, or the reverse, fails with the errno for it."""
    assert found(mounted)[call] == error


@pytest.mark.promise("A name of more than 255 bytes is `ENAMETOOLONG`.")
@pytest.mark.parametrize(("call", "error"), rows(LENGTHS))
def test_names_and_paths_have_their_length(mounted: Mount, call: str, error: str) -> None:
    """A name may have 255 bytes and a path 4095, in every call."""
    assert found(mounted)[call] == error


@pytest.mark.promise("No file can be executed.")
@pytest.mark.parametrize(("call", "error"), rows(NOT_EXECUTED))
def test_no_file_is_executed(mounted: Mount, call: str, error: str) -> None:
    """No file can be executed, by root neither."""
    assert found(mounted)[call] == error


@pytest.mark.parametrize(("call", "error"), rows(ODDS))
def test_what_is_odd_fails_as_anywhere(mounted: Mount, call: str, error: str) -> None:
    """Missing names, bad addresses, offsets and handles have the usual errno."""
    assert found(mounted)[call] == error


def test_every_call_is_looked_at(mounted: Mount) -> None:
    """Each call that is tried stands in a table of these tests."""
    tables = [OTHER, DIRECTORIES, LENGTHS, ODDS, NOT_EXECUTED, {"EROFS": READ_ONLY}, {"": HARMLESS}]
    assert sorted(call for call, _ in rows(*tables)) == sorted(found(mounted))


@pytest.mark.root
def test_others_are_refused_what_the_owner_is(mount: Mounts, binding: str) -> None:
    """Another user on a mount with `--allow-other` gets the errnos that the owner of a mount gets."""
    account = mount.account("root", binding)
    account.home.chmod(0o755)
    made = mount("10001", "10028", account=account, flags=["--allow-other"])
    other = mount.account("user")
    theirs = other.call(outcomes, made.path, other.home)
    own = mount("10001", "10028", account=other)
    # the mount point stands in a directory of the owner's, and to leave the time of access alone is his right
    his = {"rename the mount point", "rmdir the mount point", "open O_NOATIME"}
    mine = own.call(outcomes, own.path, other.home)
    assert {call for call in mine if theirs[call] != mine[call]} <= his
