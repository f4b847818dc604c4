"""What a mount does not need is not imported by it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("module", ["api", "cli", "mount.binding", "mount.daemon", "wire"])
def test_a_bare_mount_imports_no_library_of_pictures(module: str) -> None:
    """What mounts, reads and lists needs no numpy; the sample alone does, when it is made."""
    program = f"import sys, empiarfs.{module}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"imagecodecs", "mrcfile", "numpy", "tifffile"}.isdisjoint(done.stdout.split())
