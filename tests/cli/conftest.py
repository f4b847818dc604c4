"""What all tests of commands share: settings of their own, and a server that these name."""

from pathlib import Path

import pytest
from support.commands import isolated
from support.scripted import ScriptedServer


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings and directories of the test's own; the user's are out of reach."""
    isolated(tmp_path, monkeypatch)


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that name a port on which nothing listens."""
    monkeypatch.setenv("EMPIARFS_BASE_URL", "http://127.0.0.1:9/nothing/listens/here")


@pytest.fixture
def server(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    """The server of the folder above, which the settings name."""
    monkeypatch.setenv("EMPIARFS_BASE_URL", server.base_url)
    return server


@pytest.fixture(scope="session")
def sample_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache directory in which the sample archive is built, once for all tests."""
    return tmp_path_factory.mktemp("sample")


@pytest.fixture
def sample(sample_cache: Path, no_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and a cache with the sample archive."""
    monkeypatch.setenv("EMPIARFS_CACHE_DIR", str(sample_cache))
