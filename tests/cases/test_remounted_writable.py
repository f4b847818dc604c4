"""Mounts that root has remounted as writable, where writes failed with "Function not implemented"."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH211

import errno
import os
import stat
import subprocess
from collections.abc import Callable

import pytest
from support.mounting import Mounts

CALLS = [
    "append", "chmod", "chown", "create", "link", "mkdir", "mknod", "open", "rename", "rmdir", "setxattr",
    "symlink", "truncate", "unlink", "utime",
]  # fmt: skip


def errors(folder: str) -> dict[str, int]:
    """Return the errno of each attempt to change something in `folder`, which holds plain.mrc and empty/."""
    file, new = f"{folder}/plain.mrc", f"{folder}/new"
    calls: dict[str, Callable[[], object]] = {
        "append": lambda: os.open(file, os.O_WRONLY | os.O_APPEND),
        "chmod": lambda: os.chmod(file, 0o600),
        "chown": lambda: os.chown(file, os.getuid(), os.getgid()),
        "create": lambda: os.open(new, os.O_WRONLY | os.O_CREAT),
        "link": lambda: os.link(file, new),
        "mkdir": lambda: os.mkdir(new),
        "mknod": lambda: os.mknod(new, stat.S_IFIFO | 0o644),
        "open": lambda: os.open(file, os.O_RDWR),
        "rename": lambda: os.rename(file, new),
        "rmdir": lambda: os.rmdir(f"{folder}/empty"),
        "setxattr": lambda: os.setxattr(file, "user.x", b"1"),
        "symlink": lambda: os.symlink("x", new),
        "truncate": lambda: os.truncate(file, 0),
        "unlink": lambda: os.unlink(file),
        "utime": lambda: os.utime(file, (1, 1)),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = 0
        except OSError as error:
            found[name] = error.errno or -1
    return found


@pytest.mark.root
@pytest.mark.promise(
    "A mount that root has remounted as writable (`mount -o remount,rw`) still refuses every change."
)
def test_every_change_is_refused(mount: Mounts, binding: str, user: str) -> None:
    """Every attempt to change something is EROFS after `mount -o remount,rw`, and files can be read as before."""
    made = mount("10001", user=user, binding=binding)
    subprocess.run(["mount", "-i", "-o", "remount,rw", made.path], check=True)
    assert made.call(errors, made / "10001/data") == dict.fromkeys(CALLS, errno.EROFS)
    assert made.run("cat", made / "10001/data/plain.mrc").returncode == 0
