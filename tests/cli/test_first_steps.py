"""The mistakes of first use: each is one error line that says what to do."""

from pathlib import Path

import pytest
from support.commands import run

from empiarfs.cli import machine
from empiarfs.mount import mountpoints
from empiarfs.settings import Settings


@pytest.fixture(autouse=True)
def first_start(no_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, an empty cache, and a machine that can mount."""
    monkeypatch.setattr(mountpoints, "check_fuse", lambda: None)


def refused(*words: str) -> str:
    """Check that a command fails with one line; return it."""
    result = run(*words)
    assert result.exit_code == 1, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def test_a_log_that_was_named_and_cannot_be_made_stops_a_mount(tmp_path: Path) -> None:
    """A `--log-file` that cannot be created stops the mount, and the mount point made for it is removed."""
    (tmp_path / "file").touch()
    said = refused("mount", str(tmp_path / "point"), "10028", "--log-file", str(tmp_path / "file" / "a.log"))
    assert "--log-file" in said
    assert not (tmp_path / "point").exists()


def test_doctor_looks_at_the_folder_of_the_logs(tmp_path: Path) -> None:
    """A `--log-file` whose directory is a file is bad in `doctor`."""
    (tmp_path / "file").touch()
    assert [one.state for one in machine.log_folder(tmp_path / "file" / "a.log")] == ["bad"]
    assert [one.state for one in machine.log_folder(Settings().log_file)] == ["ok"]


@pytest.mark.usefixtures("sample")
def test_a_missing_entry_differs_from_a_missing_file() -> None:
    """The error for a missing entry names the command that lists the entries, with the flag that was given."""
    assert "there is no entry 10028; empiarfs ls --sample lists" in refused("ls", "--sample", "10028/data")
    assert refused("ls", "--sample", "99001/none").startswith("Error: 99001/none: ")


@pytest.mark.usefixtures("sample")
def test_an_accession_without_its_dash_is_corrected() -> None:
    """The error for an accession without its dash shows how to write it."""
    assert "write it like 10028 or EMPIAR-10028" in refused("ls", "--sample", "EMPIAR10028")


def test_a_configuration_that_was_named_and_is_missing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing file that EMPIARFS_CONFIG names is an error."""
    monkeypatch.setenv("EMPIARFS_CONFIG", str(tmp_path / "nope"))
    assert "EMPIARFS_CONFIG: there is no file" in refused("cache", "path")


def test_a_size_without_quotes_is_corrected(tmp_path: Path) -> None:
    """The error for a size without quotes in the configuration says to quote it."""
    (tmp_path / "config.toml").write_text("cache_size = 50G\n")
    assert "written in quotes" in refused("cache", "path")


def test_a_sample_that_cannot_be_made_says_what_may_help(tmp_path: Path) -> None:
    """The error for a sample that cannot be made names the directory, the reason, and `--cache-dir`."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "cache"
    assert refused("ls", "--sample", "--cache-dir", str(folder)) == (
        f"Error: {folder}: Not a directory; choose another folder: --cache-dir\n"
    )


def test_no_sample_is_made_where_others_may_write(tmp_path: Path) -> None:
    """Nothing is written to a cache directory that others may write."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    assert "may be written by everybody" in refused("ls", "--sample", "--cache-dir", str(folder))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("words", [("verify",), ("clear", "--yes")])
def test_a_cache_that_is_not_there_is_an_error(words: tuple[str, ...], tmp_path: Path) -> None:
    """`cache verify` and `cache clear` of a missing cache are errors and create nothing."""
    folder = tmp_path / "nope"
    assert f"there is no cache in {folder}" in refused("cache", *words, "--cache-dir", str(folder))
    assert not folder.exists()


def test_clear_needs_confirmation(tmp_path: Path) -> None:
    """`cache clear` without a terminal needs `--yes`, and says what was not cached."""
    (tmp_path / "cache").mkdir()
    assert "use --yes" in refused("cache", "clear")
    said = run("cache", "clear", "--yes", "77777").stdout
    assert said.startswith("nothing of 77777 was cached\n"), said


def test_a_comparison_of_nothing_is_no_success(tmp_path: Path) -> None:
    """`cache verify --against-origin` without a cached block of the archive fails and says so."""
    (tmp_path / "cache").mkdir()
    result = run("cache", "verify", "--against-origin", "3")
    assert (result.exit_code, "no block of http://127.0.0.1:9" in result.stdout) == (1, True)
