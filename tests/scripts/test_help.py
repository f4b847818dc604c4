"""Every program in scripts/ explains itself, before anything is installed too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted(
    path
    for path in Path(__file__).resolve().parents[2].joinpath("scripts").iterdir()
    if path.is_file() and os.access(path, os.X_OK)
)


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "bare"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_has_help(script: Path, *, installed: bool) -> None:
    """`--help` prints how the script is called and exits with 0, with Python's own library alone as well."""
    is_python = script.read_text(encoding="utf-8").partition("\n")[0].endswith("python3")
    command = [sys.executable, *([] if installed else ["-S"])] if is_python else []
    done = subprocess.run(
        [*command, script, "--help"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"scripts/{script.name}" in done.stdout or f"usage: {script.name}" in done.stdout
