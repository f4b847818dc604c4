"""The examples in the docstrings of the public names run, on the built-in archive."""

import doctest
import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from empiarfs import api
from empiarfs.sample import content
from empiarfs.sample.server import SampleServer

MODULES = ("api", "archive", "files")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SampleServer]:
    """Return the settings of the built-in archive, served on loopback."""
    with SampleServer(content.build(tmp_path_factory.mktemp("sample"))) as server:
        yield server


@pytest.fixture
def process(sample: SampleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set a process whose default archive is the built-in one."""
    for name in [name for name in os.environ if name.startswith("EMPIARFS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EMPIARFS_BASE_URL", sample.base_url)
    monkeypatch.setenv("EMPIARFS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(api, "_process", api._Process())
    yield
    api._process.close()


def examples() -> list[doctest.DocTest]:
    """Return the examples of each class, method and function."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [finder.find(importlib.import_module(f"empiarfs.{name}")) for name in MODULES]
    return [test for tests in found for test in tests if test.examples]


@pytest.mark.parametrize("test", examples(), ids=lambda test: test.name)
def test_an_example_prints_what_it_says(process: None, test: doctest.DocTest) -> None:
    """An example prints what its docstring says."""
    said: list[str] = []
    failed = doctest.DocTestRunner().run(test, out=said.append).failed
    assert not failed, "".join(said)


@pytest.mark.parametrize(
    "name",
    [
        "api.default_archive", "api.open", "api.open_archive", "archive.Archive.walk", "archive.Archive.glob",
        "files.ArchiveFile",
    ],
)  # fmt: skip
def test_public_functions_have_an_example(name: str) -> None:
    """Each public function has an example."""
    assert f"empiarfs.{name}" in {test.name for test in examples()}
