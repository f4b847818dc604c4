"""scripts/audit: a vulnerability fails, a network that is not there does not; against a stand-in for pip-audit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).resolve().parents[2] / "scripts" / "audit"
# answers as it is told: for each package that is asked for, or with words and status 1
STAND_IN = """
import json, pathlib, sys
told = json.loads(pathlib.Path(__file__).with_name("told").read_text())
asked = next(word.partition("=")[2] for word in sys.argv if word.startswith("--requirement="))
names = [line.partition("==")[0] for line in pathlib.Path(asked).read_text().split()]
if "words" in told:
    sys.exit(told["words"])
reports = [{"name": name, "version": "1", "vulns": []} | told.get(name, told.get("*", {})) for name in names]
print(json.dumps({"dependencies": reports, "fixes": []}))
sys.exit(any(report.get("vulns") for report in reports))
"""


def audited(folder: Path, **told: Any) -> "subprocess.CompletedProcess[str]":
    """Run it where pip-audit answers as `told`."""
    package = folder / "pip_audit"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    (package / "told").write_text(json.dumps(told))
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, AUDIT], capture_output=True, check=False, env=environment, text=True, timeout=60
    )


def test_no_vulnerability_is_good(tmp_path: Path) -> None:
    """It says so, in one line."""
    done = audited(tmp_path)
    assert (done.returncode, done.stdout[:28]) == (0, "vulnerabilities: none known,")


def test_a_vulnerability_fails(tmp_path: Path) -> None:
    """With its names, and what mends it."""
    found = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}
    done = audited(tmp_path, requests={"vulns": [found]})
    assert done.returncode == 1
    assert "requests 1: PYSEC-1 CVE-1; mended by 2" in done.stderr


@pytest.mark.parametrize("told", [{"words": "ConnectionError: no route"}, {"*": {"skip_reason": "not found"}}])
def test_nobody_who_answers_is_no_failure(tmp_path: Path, told: dict[str, Any]) -> None:
    """No network, and a mirror that knows no advisories: it was not asked, and says that."""
    done = audited(tmp_path, **told)
    assert done.returncode == 0
    assert done.stdout.startswith("vulnerabilities: not asked: ")
