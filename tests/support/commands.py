"""Running commands of empiarfs in this process, each as if it were alone."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from empiarfs.cli import main


@contextmanager
def own_logging() -> Iterator[None]:
    """Put the logger of empiarfs back as it was; the commands send its log to their own standard error."""
    logger = logging.getLogger("empiarfs")
    before = logger.handlers[:], logger.propagate, logger.level
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before[0], before[1]
        logger.setLevel(before[2])


def run(*words: str) -> Result:
    """Run `empiarfs` with `words`; what escapes it fails the test."""
    with own_logging():
        result = CliRunner().invoke(main, words, prog_name="empiarfs")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def isolated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own settings and folders out of a test."""
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    monkeypatch.setenv("EMPIARFS_CACHE_DIR", str(folder / "cache"))
    (folder / "config.toml").touch()
    monkeypatch.setenv("EMPIARFS_CONFIG", str(folder / "config.toml"))
    monkeypatch.setenv("EMPIARFS_NO_FTP", "yes")
    monkeypatch.setenv("EMPIARFS_PATIENCE", "0")
