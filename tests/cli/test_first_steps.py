"""What somebody who begins gets wrong: each is answered with one line that says what to do."""

from pathlib import Path

import pytest
from commands import isolated, run

from empiarfs.cli import machine
from empiarfs.mount import points
from empiarfs.settings import Settings


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, nothing kept, and a machine that may mount."""
    isolated(tmp_path, monkeypatch)
    monkeypatch.setenv("EMPIARFS_BASE_URL", "http://127.0.0.1:9/nobody/listens/here")
    monkeypatch.setattr(points, "check_fuse", lambda: None)


def refused(*words: str) -> str:
    """Give the one line with which a command fails."""
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def test_a_log_that_was_named_and_cannot_be_made_stops_a_mount(tmp_path: Path) -> None:
    """The line names the flag, and the mount point that was made for it is gone again."""
    (tmp_path / "file").touch()
    said = refused("mount", str(tmp_path / "point"), "10028", "--log-file", str(tmp_path / "file" / "a.log"))
    assert "--log-file" in said
    assert not (tmp_path / "point").exists()


def test_doctor_looks_at_the_folder_of_the_logs(tmp_path: Path) -> None:
    """A file in its place is bad where the log was named."""
    (tmp_path / "file").touch()
    assert [one.state for one in machine.log_folder(tmp_path / "file" / "a.log")] == ["bad"]
    assert [one.state for one in machine.log_folder(Settings().log_file)] == ["ok"]


def test_an_entry_that_does_not_exist_is_told_from_a_file(tmp_path: Path) -> None:
    """The line says which command shows those there are, with the flag that was given."""
    assert "no entry 10028 here; empiarfs ls --sample shows" in refused("ls", "--sample", "10028/data")
    assert refused("ls", "--sample", "99001/none").startswith("Error: 99001/none: ")


def test_an_accession_without_its_dash_is_corrected() -> None:
    """As it should be written."""
    assert "write it like 10028 or EMPIAR-10028" in refused("ls", "--sample", "EMPIAR10028")


def test_a_configuration_that_was_named_and_is_missing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was named on purpose."""
    monkeypatch.setenv("EMPIARFS_CONFIG", str(tmp_path / "nope"))
    assert "EMPIARFS_CONFIG: there is no file" in refused("cache", "path")


def test_a_size_without_quotes_is_corrected(tmp_path: Path) -> None:
    """TOML wants them, and its own words do not say so."""
    (tmp_path / "config.toml").write_text("cache_size = 50G\n")
    assert "written in quotes" in refused("cache", "path")
