"""Words the reason why a mount could not be made, from what libfuse, fusermount and Python have written."""

NO_THREAD = "start new thread"  # of Python's "can't start new thread"
_TOO_LITTLE = (
    "this shell's limits leave too little memory or too few threads for a mount; "
    "raise them: ulimit -v unlimited, ulimit -u unlimited"
)


def explained(said: bytes) -> str:
    """Return one line for a person: why the mount could not be made, and what to do.

    Args:
        said: what the daemon has written before it ended.
    """
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    text = " / ".join(lines)
    if NO_THREAD in text or "MemoryError" in text:
        return _TOO_LITTLE
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
