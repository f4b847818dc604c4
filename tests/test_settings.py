"""Settings: read strictly, in one order, and a wrong value is an error that names its source."""

import dataclasses
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from empiarfs.setting_sources import load
from empiarfs.settings import ROWS, BadSetting, Row, Settings
from empiarfs.units import GIB, KIB, MIB, byte_count, seconds
from empiarfs.urls import web_address, without_credentials


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1K", KIB),
        ("20G", 20 * GIB),
        ("512 MiB", 512 * MIB),
        ("512mb", 512 * MIB),
        (" 1.5G ", 3 * GIB // 2),
        ("2T", 2048 * GIB),
        ("9007199254740993", 9007199254740993),
        ("7B", 7),
    ],
)
def test_a_size_is_a_number_with_a_unit(text: str, count: int) -> None:
    """A size is a number with a unit, a power of 1024 in any case of letters."""
    assert byte_count(text) == count


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "1X", "1 2", "1e9", "0x10", "1,5G", "one", "nan", "inf", "9" * 400]
)
def test_what_is_no_size_is_a_value_error(text: str) -> None:
    """A text that is not a size raises ValueError."""
    with pytest.raises(ValueError, match=r"size|large"):
        byte_count(text)


@pytest.mark.parametrize(
    ("text", "time"), [("300", 300), ("300s", 300), ("5m", 300), ("24h", 86400), ("1d", 86400), ("0.5 s", 0.5)]
)
def test_a_time_is_a_number_with_a_unit(text: str, time: float) -> None:
    """A time is a number of seconds, minutes, hours or days."""
    assert seconds(text) == time


@pytest.mark.parametrize("text", ["", "s", "-1", "1w", "1 2", "1e3", "for ever", "nan", "inf"])
def test_what_is_no_time_is_a_value_error(text: str) -> None:
    """A text that is not a time raises ValueError."""
    with pytest.raises(ValueError, match="time"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h/x/", "http://h/x"),
        ("https://h", "https://h"),
        ("http://h:8080/a%20b", "http://h:8080/a%20b"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
    ],
)
def test_a_web_address_has_no_slash_at_the_end(text: str, url: str) -> None:
    """Slashes at the end of a web address are removed."""
    assert web_address(text) == url


@pytest.mark.parametrize(
    "text", ["http://a b/", "http://a\nb/", "http://a..b/", "http://.../", f"http://{'a' * 300}/", "http://\x7f/"]
)
def test_an_invalid_host_name_is_refused(text: str) -> None:
    """An invalid host name is refused."""
    with pytest.raises(ValueError, match="is not a web address"):
        web_address(text)


@pytest.mark.parametrize(
    "text",
    ["", "h/x", "ftp://h/x", "http://", "http:///x", "http://h/x?y", "http://h/x#y", "http://[", "http://h:abc/x",
     "http://h:99999/x", "http://us\u20acr:pw@h/x"],
)  # fmt: skip
def test_what_is_no_web_address_is_a_value_error(text: str) -> None:
    """A text that is not a web address, or has a query, fragment or bad port, raises ValueError."""
    with pytest.raises(ValueError, match="web address"):
        web_address(text)


VALUES = {
    "base_url": ("http://one/x", "http://two/x", "http://three/x"),
    "ftp_url": ("ftp://one/x", "ftp://two/x", "ftp://three/x"),
    "no_ftp": ("yes", "no", "1"),
    "cache_dir": ("/one", "/two", "/three"),
    "cache_size": ("1G", "2G", "3G"),
    "memory_cache_size": ("64M", "65M", "66M"),
    "max_connections": ("1", "2", "3"),
    "patience": ("1", "2", "3"),
    "listing_ttl": ("1h", "2h", "3h"),
    "block_size": ("64K", "128K", "256K"),
    "allow_other": ("yes", "no", "1"),
    "log_file": ("/one.log", "/two.log", "/three.log"),
    "verbose": ("yes", "no", "1"),
    "kernel_readahead": ("256", "512", "1024"),
    "offline": ("yes", "no", "1"),
}
FILES = {"ca_bundle"}  # whose values must be there


def test_every_setting_can_be_parsed() -> None:
    """Every field of Settings has a parser and a value in this test."""
    assert {field.name for field in dataclasses.fields(Settings)} == set(ROWS) == set(VALUES) | FILES


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_flag_precedes_the_environment_the_file_and_the_default(name: str) -> None:
    """The precedence is flag, environment, file, default."""
    flag, variable, line = VALUES[name]
    environ = {f"EMPIARFS_{name.upper()}": variable}
    file = f'{name} = "{line}"'
    assert getattr(load({name: flag}, environ, file, "f"), name) == ROWS[name].parse(flag)
    assert getattr(load({name: None}, environ, file, "f"), name) == ROWS[name].parse(variable)
    assert getattr(load({}, {}, file, "f"), name) == ROWS[name].parse(line)
    assert getattr(load({}, {}), name) == getattr(Settings(), name)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_is_complete(row: Row) -> None:
    """A switch has no metavar and every other flag has one, and the summary is a sentence."""
    assert (row.variable, row.flag) == (f"EMPIARFS_{row.name.upper()}", f"--{row.name.replace('_', '-')}")
    assert row.takes in {"archive", "mount", ""}
    if row.takes:
        assert bool(row.metavar) != isinstance(getattr(Settings(), row.name), bool)
    assert row.summary[0].isupper()
    assert row.summary.endswith(".")
    assert row.note
    assert not row.note.endswith(".")


def test_one_setting_leaves_the_others_at_their_defaults() -> None:
    """A setting does not change the others."""
    assert load({"memory_cache_size": "64M"}, {}) == dataclasses.replace(Settings(), memory_cache_size=64 * MIB)


def test_the_defaults_can_be_parsed() -> None:
    """The parser of a setting accepts the text of its default."""
    for name, row in ROWS.items():
        value = getattr(Settings(), name)
        if value not in {None, ""}:
            assert row.parse(str(value)) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ca_bundle", "/no/such/file"),
        ("ca_bundle", "/"),
        ("ca_bundle", "/dev/null"),
        ("ca_bundle", ""),
        ("offline", "perhaps"),
        ("cache_dir", "~nobody-of-that-name/x"),
        ("max_connections", "0"),
        ("max_connections", "13"),
        ("max_connections", "1.5"),
        ("max_connections", "-1"),
        ("max_connections", "\u0663"),
        ("kernel_readahead", "16385"),
        ("memory_cache_size", "15M"),
        ("cache_size", "50"),
        ("cache_size", "1023K"),
        ("block_size", "63K"),
        ("block_size", "65K"),
        ("block_size", "8M"),
        ("allow_other", "maybe"),
        ("cache_dir", ""),
        ("log_file", " "),
    ],
)
def test_a_wrong_value_names_its_source(name: str, text: str) -> None:
    """A wrong value is an error that names its flag, variable, or file and setting."""
    with pytest.raises(BadSetting, match=f"^--{name.replace('_', '-')}: "):
        load({name: text}, {})
    with pytest.raises(BadSetting, match=f"^EMPIARFS_{name.upper()}: "):
        load({}, {f"EMPIARFS_{name.upper()}": text})
    with pytest.raises(BadSetting, match=rf"^/etc/x\.toml: {name}: "):
        load({}, {}, f'{name} = "{text}"', "/etc/x.toml")


def test_numbers_and_switches_may_be_toml() -> None:
    """Numbers and switches in the file need no quotes."""
    chosen = load({}, {}, "max_connections = 3\npatience = 1.5\nverbose = true\nallow_other = false", "f")
    assert (chosen.max_connections, chosen.patience, chosen.verbose, chosen.allow_other) == (3, 1.5, True, False)


@pytest.mark.parametrize("value", ["[1]", "{a = 1}", "2024-01-01", "true"])
def test_what_is_no_single_value_is_refused(value: str) -> None:
    """A value in the file that is a list, table, date or wrong switch is refused."""
    with pytest.raises(BadSetting, match=r"^f: memory_cache_size: "):
        load({}, {}, f"memory_cache_size = {value}", "f")


def test_an_unknown_name_in_the_file_is_refused_with_the_known_ones() -> None:
    """An unknown setting in the file is an error that lists the known ones."""
    with pytest.raises(BadSetting, match=r"^f: there is no setting 'memroy_cache_size'; .*memory_cache_size"):
        load({}, {}, "memroy_cache_size = '1G'", "f")


def test_variables_of_other_programs_are_ignored() -> None:
    """Variables that name no setting are ignored."""
    assert load({}, {"EMPIARFS_FUSE": "fusepy", "MEMORY": "x", "empiarfs_memory": "x"}) == Settings()


def test_a_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory is made absolute, and a tilde is the user's home."""
    monkeypatch.setenv("HOME", "/home/someone")
    assert load({"cache_dir": "~/c"}, {}).cache_dir == Path("/home/someone/c")
    assert load({"cache_dir": "c"}, {}).cache_dir == Path.cwd() / "c"


@given(st.sampled_from(sorted(ROWS)), st.text(max_size=30))
def test_any_text_is_a_value_or_a_bad_setting(name: str, text: str) -> None:
    """Any text of a variable is a value or a BadSetting that names the variable."""
    message = f"EMPIARFS_{name.upper()}: "
    try:
        load({}, {f"EMPIARFS_{name.upper()}": text})
    except BadSetting as error:
        message = str(error)
    assert message.startswith(f"EMPIARFS_{name.upper()}: ")


def test_a_file_of_certificates_is_checked(tmp_path: Path) -> None:
    """A bundle of certificates is read when it is set, and an invalid one is refused."""
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    assert load({}, {"EMPIARFS_CA_BUNDLE": str(file)}).ca_bundle == file
    file.write_bytes(file.read_bytes().replace(b"MII", b"!!!"))
    with pytest.raises(BadSetting, match=r"^--ca-bundle: .*certificates"):
        load({"ca_bundle": str(file)}, {})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@h:1/x", "https://h:1/x"),
        ("ftp://me@h/x", "ftp://h/x"),
        ("http://me:se%40cr@et@h/x", "http://h/x"),
        ("me:secret@proxy:3128", "proxy:3128"),
        ("http://h/a@b", "http://h/a@b"),
        ("http://h/x", "http://h/x"),
        ("", ""),
        ("Failed to parse: http://me:secret@h:port/x", "Failed to parse: http://h:port/x"),
    ],
)
def test_an_address_can_be_shown_without_credentials(url: str, shown: str) -> None:
    """`without_credentials` removes user name and password and nothing else."""
    assert without_credentials(url) == shown


@pytest.mark.parametrize("name", ["base_url", "ftp_url"])
@pytest.mark.parametrize(
    "url",
    [
        "gopher://me:secret@h/x",
        "http://me:secret/x@h",
        "http://me:secret@h:port/x",
        "me:secret@h",
        "x://me:secret@",
    ],
)
def test_an_address_that_is_refused_shows_no_password(name: str, url: str) -> None:
    """The error for an invalid address shows no password."""
    with pytest.raises(BadSetting) as caught:
        load({name: url}, {})
    assert "secret" not in str(caught.value)


def test_settings_are_immutable() -> None:
    """Settings are immutable."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().memory_cache_size = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", ["OFLINE", "CACHESIZE", "PATIANCE", "BASE_ULR", "CONFG"])
def test_a_variable_that_resembles_a_setting_is_refused(name: str) -> None:
    """A variable whose name resembles that of a setting is refused with the right name."""
    with pytest.raises(BadSetting, match=f"^EMPIARFS_{name}: there is no such setting; EMPIARFS_"):
        load({}, {f"EMPIARFS_{name}": "1"})


def test_other_variables_with_the_prefix_are_ignored() -> None:
    """Other variables with the prefix EMPIARFS are ignored."""
    others = {"EMPIARFS_VENV": "x", "EMPIARFS_TEST_DATA": "x", "OFFLINE": "1", "EMPIARFS": "1"}
    assert load({}, others) == Settings()
