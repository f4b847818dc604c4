"""The checks of this machine: folders, limits, proxies."""

import fcntl
import os
import resource
import shutil
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from empiarfs.cli.findings import Finding, Findings
from empiarfs.mount import mount_table
from empiarfs.private_dirs import FOLDER, check_holder, ensure_private, nearest, runtime_folder
from empiarfs.settings import Settings
from empiarfs.units import GIB, MIB
from empiarfs.urls import without_credentials

FEWEST_FILES = 512  # a busy mount has a few for each of its threads
LEAST_ADDRESS_SPACE = 4 * GIB  # some hundred threads, each with a stack of 8 MiB, and what they allocate
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
# on these SQLite's locks are slow, or do not lock
REMOTE = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "fhgfs", "ceph", "fuse.ceph", "fuse.sshfs",
    "afs", "9p", "glusterfs", "fuse.glusterfs", "panfs", "pvfs2",
}  # fmt: skip


def findings(chosen: Settings) -> Findings:
    """Run all checks that need no network."""
    yield from cache_folder(chosen.cache_dir)
    yield from log_folder(chosen.log_file)
    yield from slots_folder()
    yield from open_files()
    yield from address_space()
    yield from proxies(chosen)


def cache_folder(folder: Path) -> Findings:
    """Check the cache folder: its owner and mode, its file system, and the free space."""
    there = nearest(folder)
    try:
        if there == folder:
            check_holder(folder)
            if (folder / FOLDER).exists():
                ensure_private(folder / FOLDER)
    except OSError as error:
        yield Finding("bad", f"the cache folder is refused: {error}")
        return
    if not os.access(there, os.W_OK):
        yield Finding(
            "warn", f"{there} is not writable: nothing will be cached", "choose another folder: --cache-dir"
        )
    mounted = mount_table.containing(os.fspath(there.resolve()))
    kind = mounted.kind if mounted else "an unknown file system"
    if kind in REMOTE:
        yield Finding("warn", f"the cache {folder} is on {kind}", "choose a folder on a local disk: --cache-dir")
    else:
        yield Finding("ok", f"the cache {folder} is on {kind}")
    from empiarfs.storage.disk import min_free_of  # noqa: PLC0415 - brings diskcache, which `--help` need not wait for

    room = shutil.disk_usage(there)
    left = room.free - min_free_of(room.total)
    if left < 0:
        yield Finding(
            "warn", "there is no free space for the cache", "free some, or choose another disk: --cache-dir"
        )
    else:
        yield Finding("ok", f"the cache may use {left / MIB:.0f} MiB of the {room.free / MIB:.0f} MiB free there")


def log_folder(named: Path | None) -> Findings:
    """Check whether a mount in the background can write its log, to the file `named` or to the default folder."""
    folder = named.parent if named else Path(platformdirs.user_log_dir("empiarfs"))
    there = nearest(folder)
    if there.is_dir() and os.access(there, os.W_OK):
        yield Finding("ok", f"mounts write their logs to {folder}")
    elif named:
        yield Finding("bad", f"the log {named}: {there} is not writable", "choose another file: --log-file")
    else:
        yield Finding("warn", f"{there} is not writable: mounts will have no log", "choose a file: --log-file")


def slots_folder() -> Findings:
    """Check whether connections can be counted over all processes."""
    folder = runtime_folder()
    advice = "set XDG_RUNTIME_DIR to a folder of your own on this machine"
    try:
        ensure_private(folder)
        lock = os.open(folder / "doctor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # another doctor's; locks work
        finally:
            os.close(lock)
    except OSError as error:
        yield Finding("warn", f"{folder}: {error}; connections of other programs are not counted", advice)
    else:
        yield Finding("ok", f"connections are counted in {folder}")


def open_files() -> Findings:
    """Check how many files a process may open, once a mount has raised the limit as far as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < FEWEST_FILES:
        yield Finding(
            "warn", f"a process may open {most} files; a busy mount needs more", "raise the limit: ulimit -Hn 1024"
        )
    else:
        yield Finding("ok", f"a process may open {'any number of' if most < 0 else most} files")


def address_space() -> Findings:
    """Check how much memory a process may map; the stacks of a mount's threads count."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY and most < LEAST_ADDRESS_SPACE:
        yield Finding(
            "warn",
            f"a process may map {most / GIB:.1f} GiB of memory; a busy mount needs {LEAST_ADDRESS_SPACE / GIB:.0f}",
            "raise the limit: ulimit -v unlimited",
        )
    else:
        yield Finding("ok", "a process may map as much memory as a mount needs")


def proxies(chosen: Settings) -> Findings:
    """Report the proxy between this machine and the server."""
    named = {name: os.environ.get(name) or os.environ.get(name.upper()) for name in PROXIES}
    shown = [f"{name}={without_credentials(value)}" for name, value in named.items() if value]
    if not shown:
        yield Finding("ok", "no proxy")
        return
    url = urlsplit(chosen.base_url)
    if urllib.request.proxy_bypass(url.hostname or ""):
        yield Finding("ok", f"no proxy for {url.hostname} (no_proxy; {', '.join(shown)})")
        return
    used = named[f"{url.scheme}_proxy"] or named["all_proxy"] or ""
    if used.lower().startswith("socks"):
        yield Finding("bad", f"a SOCKS proxy is set: {', '.join(shown)}", "empiarfs needs an HTTP proxy")
    else:
        yield Finding("ok", f"through a proxy: {', '.join(shown)}")
