"""The small archive of the trials, and the server before it that misbehaves."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fault_proxy import FaultProxy
from support.fault_trial import Truth, served


@pytest.fixture(scope="session")
def trial_served() -> Iterator[tuple[Truth, FaultProxy]]:
    """The archive of all trials, and the faulty server before it."""
    with tempfile.TemporaryDirectory(prefix="empiarfs-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Apache reads it as another user
        with served(folder) as both:
            yield both


@pytest.fixture
def truth(trial_served: tuple[Truth, FaultProxy]) -> Truth:
    """What the archive of the trials holds."""
    return trial_served[0]


@pytest.fixture
def server(trial_served: tuple[Truth, FaultProxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    """The faulty server; the test has a connection budget of its own, and no proxy stands between."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return trial_served[1]
