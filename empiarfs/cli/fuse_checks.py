"""The checks of FUSE: the device, the programs and libraries of a mount, and what the administrator has set."""

import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from empiarfs.cli.findings import Finding, Findings
from empiarfs.mount import kernel_limit, mount_table, mountpoints, probe, refusal, requirements
from empiarfs.settings import Settings

FUSE_CONFIG = Path("/etc/fuse.conf")
UPDATEDB_CONFIG = Path("/etc/updatedb.conf")
SAMPLE_ENTRY = "99001"
TRIAL_SECONDS = 20.0  # for a mount that takes two, and builds the built-in archive first
UNDO_SECONDS = 5.0  # in which a daemon mounts whose program has just been started
TRIAL_ADVICE = "for what its daemon does: empiarfs mount --foreground --verbose --sample ~/empiar"
_PRUNED = re.compile(r'^\s*PRUNEFS\s*=\s*"(.*)"', re.MULTILINE)


def findings(chosen: Settings, mountpoint: Path | None = None) -> Findings:
    """Run all checks of FUSE; try a mount, and one on `mountpoint`, if these find nothing in its way."""
    needs = [*device(), *helper(), *library()]
    yield from needs
    if all(one.state != "bad" for one in needs):
        yield from trial(mountpoint)
    yield from others(chosen)
    yield from updatedb(chosen)
    yield from request_timeout(chosen)


def device() -> Findings:
    """Check whether the FUSE device can be opened."""
    missing = requirements.missing_device()
    if missing is None:
        yield Finding("ok", f"{requirements.DEVICE} can be opened")
    else:
        yield Finding("bad", missing.what, missing.advice)


def helper() -> Findings:
    """Check for the program with which ordinary users mount."""
    found = requirements.fusermount()
    missing = requirements.missing_fusermount()
    if found and os.geteuid() and not requirements.may_mount(found):
        yield Finding("bad", f"{found} may not mount", refusal.not_setuid_advice())
    elif found:
        yield Finding("ok", f"{found} mounts for ordinary users")
    elif os.geteuid() == 0:
        yield Finding("ok", f"{missing.what}, which root does not need")
    else:
        yield Finding("bad", missing.what, missing.advice)


def library() -> Findings:
    """Check that the binding that a mount would use, and its libfuse, can be loaded."""
    missing = requirements.missing_binding()
    if missing is not None:
        yield Finding("bad", missing.what, missing.advice)
        return
    name = requirements.binding_name()
    try:
        from empiarfs.mount import binding  # noqa: PLC0415 - loads libfuse
    except (OSError, ImportError) as error:
        other = {
            "mfusepy": "apt install libfuse3-3, or: export EMPIARFS_FUSE=fusepy",
            "fusepy": "apt install libfuse2",
        }
        yield Finding("bad", f"{name} does not load: {error}", f"install libfuse: {other[name]}")
    else:
        yield Finding("ok", binding.library())


def trial(mountpoint: Path | None) -> Findings:
    """Mount the built-in archive in a temporary directory, and on `mountpoint` unless that is a mount already."""
    with tempfile.TemporaryDirectory(prefix="empiarfs-doctor-", ignore_cleanup_errors=True) as scratch:
        yield _tried(Path(scratch) / "mount", Path(scratch))
        if mountpoint is None:
            return
        if mountpoints.is_ours(mountpoint):
            yield Finding("ok", f"{mountpoint} is a mount of empiarfs")
            return
        was_there = os.path.lexists(mountpoint)
        yield _tried(mountpoint, Path(scratch))
        if not was_there:
            with suppress(OSError):
                mountpoint.rmdir()


def _tried(point: Path, scratch: Path) -> Finding:
    """Return whether a mount on `point` works; its cache and log are in `scratch`."""
    command = [
        sys.executable, "-m", "empiarfs", "mount", "--sample", f"--cache-dir={scratch / 'cache'}",
        f"--log-file={scratch / 'log'}", "--", os.fspath(point), SAMPLE_ENTRY,
    ]  # fmt: skip
    # the settings of the user are for the user's mounts
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EMPIARFS_")}
    environment |= {"EMPIARFS_CONFIG": os.devnull, "EMPIARFS_FUSE": requirements.binding_name()}
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            command, env=environment, capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        _undo(point)
        return Finding("bad", f"a mount on {point} does not answer within {TRIAL_SECONDS:.0f} s", TRIAL_ADVICE)
    except BaseException:
        _undo(point)
        raise
    if done.returncode:
        says = (done.stderr.strip().splitlines() or ["no reason is known"])[-1].removeprefix("Error: ")
        return Finding("bad", f"a mount on {point} fails", says)
    (result,) = probe.probe_all([mountpoints.absolute(point)])
    try:
        mountpoints.unmount(point, lazy=False)
    except mountpoints.CannotMount as error:
        return Finding("bad", f"a mount on {point} cannot be unmounted", str(error))
    if result.status is None:
        return Finding("bad", f"a mount on {point} {result.trouble}", TRIAL_ADVICE)
    return Finding("ok", f"a mount on {point} works")


def _undo(point: Path) -> None:
    """Detach the mount on `point`, which a daemon may be making just now."""
    end = time.monotonic() + UNDO_SECONDS
    while time.monotonic() < end:
        try:
            mountpoints.unmount(point, lazy=True)
        except mountpoints.CannotMount:  # it is not made
            time.sleep(UNDO_SECONDS / 20)
        else:
            return


def others(chosen: Settings) -> Findings:
    """Check whether this user may use --allow-other."""
    try:
        lines = FUSE_CONFIG.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    if os.geteuid() == 0 or "user_allow_other" in {line.strip() for line in lines}:
        yield Finding("ok", "you may use --allow-other")
    elif chosen.allow_other:
        yield Finding(
            "bad",
            "--allow-other is set, but you may not use it",
            f"leave it out, or ask an administrator to add the line user_allow_other to {FUSE_CONFIG}",
        )
    else:
        yield Finding(
            "ok", f"other users cannot read your mounts: --allow-other needs user_allow_other in {FUSE_CONFIG}"
        )


def request_timeout(chosen: Settings) -> Findings:
    """Check whether the kernel ends mounts that wait for the server for less than the patience."""
    limit = kernel_limit.limit()
    if limit is None:
        yield Finding("ok", "the kernel lets a mount wait for the server")
        return
    what = f"the kernel ends a mount that does not answer for {limit.seconds:.0f} s ({limit.sysctl})"
    if chosen.patience <= limit.patience:
        yield Finding("ok", what)
    else:
        yield Finding(
            "warn",
            f"{what}: reads fail after {limit.patience:.0f} s",
            f"lift the limit as root, and mount again: sysctl {limit.sysctl}=0",
        )


def updatedb(chosen: Settings) -> Findings:
    """Check that updatedb, which runs as root each night, does not search the mounts that it can read."""
    try:
        configuration = UPDATEDB_CONFIG.read_text(errors="replace")
    except OSError:
        return  # it is not installed
    pruned = " ".join(_PRUNED.findall(configuration)).lower().split()
    shared = [
        one.point for one in mount_table.table() if one.kind == mount_table.KIND and "allow_other" in one.options
    ]
    if mount_table.KIND in pruned:
        yield Finding("ok", f"updatedb does not search mounts of empiarfs ({UPDATEDB_CONFIG})")
    elif os.geteuid() == 0 or chosen.allow_other or shared:
        searched = shared[0] if shared else "a mount of root, or one with --allow-other,"
        yield Finding(
            "warn",
            f"updatedb (locate) searches {searched} each night",
            f"as root: sed -i 's/^ *PRUNEFS *= *\"/&{mount_table.KIND} /' {UPDATEDB_CONFIG}",
        )
    else:
        yield Finding("ok", "updatedb (locate) cannot search your mounts")
