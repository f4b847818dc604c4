"""The files of the built-in archive: created once in a folder, atomically, the same bytes every time."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

VERSION = 1  # increase it when any byte below changes: a newer program then builds its own, beside the old one
# 2024-05-17 12:00 UTC plus a day for each version, because caches know a file's version by its size and date;
# the n-th path of an entry is n seconds newer
MODIFIED = 1715947200 + 86400 * (VERSION - 1)
WORLD = "world_availability"


def build(folder: Path) -> Path:
    """Return the directory of numbered entries below `folder`, after building it if it does not exist.

    Processes may call it at once: one builds, the others wait. A build that was killed is never used, and the next
    one removes what it left.

    Raises:
        OSError: `folder` cannot be written, or is full.
    """
    done = folder / f"empiarfs-sample-v{VERSION}"
    if done.is_dir():
        return done / WORLD
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{done.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_dir():  # another process may have built it while this one waited
            _build_new(done)
    return done / WORLD


def _build_new(done: Path) -> None:
    unfinished = f".{done.name}.unfinished-"
    for left in done.parent.glob(f"{unfinished}*"):  # under the lock no other build runs: it was killed
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=unfinished, dir=done.parent))
    try:
        world = work / WORLD
        world.mkdir()
        _fill(world)
        work.chmod(0o755)  # mkdtemp makes it private; a server may run as another user
        work.rename(done)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _fill(world: Path) -> None:
    # mrcfile, tifffile and the rest take half a second to import, and only a new build needs them
    from empiarfs.sample import entries  # noqa: PLC0415 - brings numpy

    for number, entry in entries.ENTRIES.items():
        entries.write(entry, number, world / str(number))
        _date(world / str(number))
    os.utime(world, (MODIFIED, MODIFIED))


def _date(tree: Path) -> None:
    paths = [os.fsencode(tree)]
    for folder, directories, files in os.walk(os.fsencode(tree)):
        paths += [os.path.join(folder, name) for name in directories + files]  # noqa: PTH118 # Path has no bytes
    for number, path in enumerate(sorted(paths)):
        os.utime(path, (MODIFIED + number, MODIFIED + number))
