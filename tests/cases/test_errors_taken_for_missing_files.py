"""zarr 2 turns errors into zeros: it asks `os.path.isfile` for each chunk, which is False for every error.

The kind: a program takes "I cannot tell" for "it does not exist". A mount cannot mend that; what it can do is never
to say that the file does not exist, so that a program that looks at the error can tell. The documents warn.
"""

# ruff: noqa: PTH113, PTH116 - these are the calls of zarr 2

import errno
import os
from pathlib import Path

import pytest
from support.mounting import Mounts
from support.programs import names
from support.sandbox import PROJECT


def asked_for(path: str) -> tuple[bool, int]:
    """Return whether a file exists, as zarr 2 asks, and the errno of looking it up."""
    try:
        os.stat(path)
    except OSError as error:
        return os.path.isfile(path), error.errno or -1
    return os.path.isfile(path), 0


@pytest.mark.promise(
    "Programs that ask whether a file exists, and take every error for a no, are deceived by this, and by a server "
    "that is silent for too long: zarr 2 then returns zeros.",
    "Use zarr 3, which raises.",
)
def test_a_chunk_that_is_not_cached_seems_missing_and_is_not(mount: Mounts) -> None:
    """Offline, a file that was not measured is no file for `isfile`, and its error is not that of a missing one."""
    online = mount("10028")
    name = "10028/data/stack.mrcs"
    online.call(names, online / "10028/data")
    online.umount()
    offline = mount("10028", account=online.account, flags=["--offline"])
    offline.expect("not in the cache|offline")
    assert offline.call(asked_for, offline / name) == (False, errno.EHOSTUNREACH)


@pytest.mark.parametrize("document", ["README.md", "SEMANTICS.md", "docs/running.md"])
def test_the_documents_warn_of_zarr_2(document: str) -> None:
    """Each document that speaks of errors of reading, or of working offline, warns of zarr 2."""
    assert "zarr 2" in Path(PROJECT, document).read_text(encoding="utf-8")
