"""scripts/audit: a vulnerability fails and a missing network does not, with a stand-in for pip-audit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).resolve().parents[2] / "scripts" / "audit"
# answers with `reports`: for each package of the requirements, or with words and status 1
STAND_IN = """
import json, pathlib, sys
reports = json.loads(pathlib.Path(__file__).with_name("reports").read_text())
asked = next(word.partition("=")[2] for word in sys.argv if word.startswith("--requirement="))
names = [line.partition("==")[0] for line in pathlib.Path(asked).read_text().split()]
if "words" in reports:
    sys.exit(reports["words"])
packages = [{"name": name, "version": "1", "vulns": []} | reports.get(name, reports.get("*", {})) for name in names]
print(json.dumps({"dependencies": packages, "fixes": []}))
sys.exit(any(one.get("vulns") for one in packages))
"""


def audited(folder: Path, **reports: Any) -> "subprocess.CompletedProcess[str]":
    """Run scripts/audit with a pip-audit that answers with `reports`."""
    package = folder / "pip_audit"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    (package / "reports").write_text(json.dumps(reports))
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, AUDIT], capture_output=True, check=False, env=environment, text=True, timeout=60
    )


def test_no_vulnerability_is_good(tmp_path: Path) -> None:
    """Without vulnerabilities the audit prints one line and exits with 0."""
    done = audited(tmp_path)
    assert (done.returncode, done.stdout[:28]) == (0, "vulnerabilities: none known,")


def test_a_vulnerability_fails(tmp_path: Path) -> None:
    """A vulnerability fails the audit, which prints its names and the version without it."""
    found = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}
    done = audited(tmp_path, requests={"vulns": [found]})
    assert done.returncode == 1
    assert "requests 1: PYSEC-1 CVE-1; fixed in 2" in done.stderr


@pytest.mark.parametrize("reports", [{"words": "ConnectionError: no route"}, {"*": {"skip_reason": "not found"}}])
def test_a_missing_service_is_no_failure(tmp_path: Path, reports: dict[str, Any]) -> None:
    """An audit without a network, or with a mirror that has no advisories, exits with 0 and says so."""
    done = audited(tmp_path, **reports)
    assert done.returncode == 0
    assert done.stdout.startswith("vulnerabilities: not checked: ")
