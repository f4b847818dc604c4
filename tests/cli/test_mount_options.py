"""What stands behind `-o`: settings of ours, words of mount(8), and options for libfuse."""

from pathlib import Path

import pytest
from support.commands import run

from empiarfs.cli.mounts import _log_file, _with_extra
from empiarfs.cli.options import entry_numbers
from empiarfs.settings import BadSetting, Settings


def sorted_out(extra: str, **flags: object) -> tuple[dict[str, object], list[str]]:
    """Return the settings and the options for libfuse in `extra`."""
    return _with_extra(dict(flags), extra)


def test_settings_may_be_given_as_options() -> None:
    """Settings are accepted as mount options, with underscores or dashes."""
    assert sorted_out("cache_size=50G,cache-dir=/x,max_connections=3") == (
        {"cache_size": "50G", "cache_dir": "/x", "max_connections": "3"},
        [],
    )


def test_a_word_alone_switches_on() -> None:
    """An option without a value switches its setting on."""
    assert sorted_out("allow_other,verbose,sample") == (
        {"allow_other": "yes", "verbose": "yes", "sample": True},
        [],
    )


def test_a_flag_goes_before_an_option() -> None:
    """A flag takes precedence over a mount option."""
    settings, _ = sorted_out("cache_size=50G,memory_cache_size=1G", cache_size="1G", memory_cache_size=None)
    assert settings == {"cache_size": "1G", "memory_cache_size": "1G"}


def test_a_switch_that_was_not_given_does_not_go_before_an_option() -> None:
    """A flag that was not given does not override a mount option."""
    assert sorted_out("allow_other", allow_other=False)[0] == {"allow_other": "yes"}


@pytest.mark.parametrize(
    "word",
    [
        "ro", "nosuid", "nodev", "noexec", "noatime", "relatime", "auto", "noauto", "user", "users", "defaults",
        "_netdev", "nofail", "x-systemd.automount", "x-gvfs-show", "X-mount.mkdir", "comment=a word", "async",
    ],
)  # fmt: skip
def test_words_of_mount_are_taken_and_not_handed_on(word: str) -> None:
    """Options of mount(8), fstab and systemd are accepted and not passed to libfuse."""
    assert sorted_out(f"ro,{word}") == ({}, [])


def test_the_rest_is_for_libfuse() -> None:
    """Options of libfuse are passed on in order, with their values."""
    assert sorted_out("fsname=a,ro,debug, ,") == ({}, ["fsname=a", "debug"])


@pytest.mark.parametrize(
    "word",
    [
        "nonsense",
        "cash_size=50G",
        "kernel_cache",
        "direct_io",
        "attr_timeout=1",
        "subtype=x",
        "max_read=1",
        "max_readahead=1",
    ],
)
def test_an_unknown_option_is_refused(word: str) -> None:
    """An unknown option, or one that would break a promise, is an error that names it and lists the valid ones."""
    with pytest.raises(BadSetting, match=rf"-o {word.partition('=')[0]}: .*cache_size.*fsname"):
        sorted_out(f"ro,{word}")


def test_writing_is_refused() -> None:
    """`-o rw` is refused."""
    with pytest.raises(BadSetting, match="read-only"):
        sorted_out("rw")


def test_flags_are_not_changed() -> None:
    """The caller's flags are not modified."""
    flags: dict[str, object] = {"memory_cache_size": None}
    _with_extra(flags, "memory_cache_size=1G")
    assert flags == {"memory_cache_size": None}


PAGE = "https://www.ebi.ac.uk/empiar/EMPIAR-10028/"


def test_an_entry_is_named_once() -> None:
    """Entries keep their order, and each counts once in whatever form it is written."""
    assert entry_numbers(["10029", PAGE, "EMPIAR-10029", "10028"], Settings()) == ("10029", "10028")


@pytest.mark.parametrize("text", ["data", "10028/data", "https://www.ebi.ac.uk/empiar/"])
def test_what_is_no_entry_is_a_usage_error(text: str, tmp_path: Path) -> None:
    """An argument that is no entry is a usage error that shows how to write one."""
    result = run("mount", str(tmp_path / "mnt"), text)
    assert result.exit_code == 2
    assert "write it like 10028" in result.stderr


@pytest.mark.parametrize("text", ["10028", "EMPIAR-10028", PAGE, "empiar://10028"])
def test_an_entry_in_place_of_the_mount_point_is_a_usage_error(text: str) -> None:
    """`mount` with an entry and no mount point is a usage error that shows where the mount point goes."""
    result = run("mount", text)
    assert result.exit_code == 2
    name = "EMPIAR-10028" if text == "EMPIAR-10028" else "10028"
    assert f"the mount point is missing; write it like: empiarfs mount ~/empiar {name}\n" in result.stderr


@pytest.mark.parametrize("point", ["/mnt/empiar", "/", "/home/\u017e/\udcff", "/" + "x" * 4000])
def test_a_log_file_has_a_name_of_its_own_for_every_mount(point: str) -> None:
    """The default log file of every mount point has a short plain name in one directory."""
    file = _log_file(point)
    assert file.name.endswith(".log")
    assert len(str(file.name).encode()) <= 255
    assert file.parent == _log_file("/mnt").parent


@pytest.mark.parametrize(
    "option", ["cache_size=much", "max_connections=99", "memory_cache_size=1M", "rw", "nonsense"]
)
def test_a_wrong_option_is_one_line_and_nothing_is_mounted(option: str, tmp_path: Path) -> None:
    """A wrong option is one error line that names the setting, and the mount point is not created."""
    result = run("mount", "-o", option, str(tmp_path / "mnt"))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert option.partition("=")[0].replace("_", "-") in line.replace("_", "-")
    assert not (tmp_path / "mnt").exists()
