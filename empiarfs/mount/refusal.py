"""Words the reason why a mount could not be made, from what libfuse, fusermount and Python have written."""

import os
import re
from pathlib import Path

from empiarfs.mount import mount_table, requirements

APPARMOR = Path("/etc/apparmor.d/fusermount3")
_UNKNOWN_TYPE = re.compile(r"mounting over filesystem type 0x[0-9a-f]+ is forbidden")
_NO_MEMORY = ("start new thread", "MemoryError")
_TOO_LITTLE = (
    "this shell's limits leave too little memory or too few threads for a mount; "
    "raise them: ulimit -v unlimited, ulimit -u unlimited"
)


def explained(said: bytes, point: str) -> str:
    """Return one line for a person: why the mount could not be made, and what to do.

    Args:
        said: what the daemon has written before it ended.
        point: the mount point.
    """
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    text = " / ".join(lines)
    if any(words in text for words in _NO_MEMORY):
        return _TOO_LITTLE
    if "user_allow_other" in text:
        return (
            "you may not use --allow-other; ask an administrator to add the line user_allow_other to /etc/fuse.conf"
        )
    if _UNKNOWN_TYPE.search(text):
        return _on_unknown_type(point)
    if "mount failed" in text and ("Operation not permitted" in text or "Permission denied" in text):
        return _not_permitted(text, lines[0], point)
    # libfuse has written the reason; the binding raises only its exit status
    words = [line for line in lines if not line.isdigit()]
    return words[-1] if words else "the daemon ended without a message; try --foreground --verbose"


def _on_unknown_type(point: str) -> str:
    mounted = mount_table.containing(point)
    return (
        f"fusermount3 does not mount on {mounted.kind if mounted else 'this file system'}, where {point} is; "
        f"mount on {_elsewhere()} and make a link to it: ln -s {_elsewhere()} {point}"
    )


def _not_permitted(text: str, line: str, point: str) -> str:
    program = requirements.fusermount()
    if os.geteuid() and program and not requirements.may_mount(program):
        return f"{program} may not mount ({line}); {not_setuid_advice()}"
    if "fusermount" in text and "Permission denied" in text and APPARMOR.exists():
        rules = f"mount fstype=fuse.empiarfs -> {point}/, umount {point}/,"
        return (
            f"AppArmor lets fusermount3 mount below /home, /mnt, /media and /tmp, and not on {point}; mount on "
            f"{_elsewhere()}, or allow it as root: echo '{rules}' >> "
            f"{APPARMOR.parent}/local/{APPARMOR.name}; apparmor_parser -r {APPARMOR}"
        )
    return (
        f"mounting is not permitted here ({line}); start a container with "
        "--device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined"
    )


def not_setuid_advice() -> str:
    """Return what to do about a fusermount that is not setuid root."""
    return "it is not setuid root (of conda, or brew?): apt install fuse3, or dnf install fuse3"


def _elsewhere() -> str:
    """Return a mount point on which every fusermount mounts."""
    return f"/tmp/empiar-{os.environ.get('USER') or os.geteuid()}"  # noqa: S108 - a name for a person to type
