"""A mount does not import libraries that it does not need."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("module", ["api", "cli", "mount.binding", "mount.daemon", "wire"])
def test_a_mount_imports_no_image_library(module: str) -> None:
    """Mounting, reading and listing need no numpy; only building the sample does."""
    program = f"import sys, empiarfs.{module}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"imagecodecs", "mrcfile", "numpy", "tifffile"}.isdisjoint(done.stdout.split())
