"""The program as a whole: help, version, settings, and what it costs to start."""

import itertools
import json
import os
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.commands import own_logging, run

from empiarfs.cli import main
from empiarfs.cli.fstab import helper
from empiarfs.settings import ROWS, Settings

COMMANDS = sorted(main.commands)


pytestmark = pytest.mark.usefixtures("no_server")


def test_the_version_is_the_packages() -> None:
    """`--version` prints the version of the package on one line."""
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"empiarfs {version('empiarfs')}\n")


def test_the_commands_there_are() -> None:
    """The commands of the README exist."""
    assert {"mount", "umount", "ls", "stat", "cat"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_of_every_command_has_an_example(command: str, flag: str) -> None:
    """The help of every command has an example and explains every option."""
    result = run(command, "--help" if command == "ls" else flag)  # whose -h is human-readable, as GNU's
    assert result.exit_code == 0
    assert f"Example: empiarfs {command}" in result.stdout
    for parameter in main.commands[command].params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), parameter.name


def test_the_help_names_every_command() -> None:
    """The help of the program lists every command."""
    text = run("--help").stdout
    assert all(f"\n  {command} " in text for command in COMMANDS)


def test_a_mistyped_command_or_option_is_status_2() -> None:
    """An unknown command or option exits with status 2."""
    assert run("lss").exit_code == 2
    assert run("ls", "--long-ago").exit_code == 2


STARTING = (
    "import json, sys\n"
    "from empiarfs.cli import main\n"
    "try: main({words!r}, prog_name='empiarfs')\n"
    "except SystemExit: pass\n"
    "json.dump(sorted(sys.modules), sys.stderr)"
)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["ls", "--help"], ["mount", "--help"]])
def test_help_brings_in_nothing_heavy(words: list[str]) -> None:
    """A page of help loads no library for the network, arrays, tables or FUSE."""
    said = subprocess.run(
        [sys.executable, "-c", STARTING.format(words=words)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = set(json.loads(said.stderr))
    heavy = {"requests", "urllib3", "numpy", "lxml", "rich", "diskcache", "mfusepy", "fuse", "mrcfile", "pandas"}
    assert not loaded & heavy
    assert "empiarfs.cli" in loaded


def test_help_takes_little_cpu() -> None:
    """A page of help takes less than 0.9 s of CPU time, which leaves room for a busy machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "empiarfs", "--help"], capture_output=True, check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 2 < 0.9


def test_importing_the_package_brings_in_nothing_heavy() -> None:
    """`import empiarfs` loads no heavy library."""
    said = subprocess.run(
        [sys.executable, "-c", "import json, sys, empiarfs; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert not {"requests", "numpy", "lxml", "rich", "click", "diskcache"} & set(json.loads(said.stdout))


WRONG = {
    "base_url": "not a url",
    "ftp_url": "http://host/",
    "no_ftp": "perhaps",
    "cache_size": "much",
    "memory_cache_size": "1M",
    "max_connections": "13",
    "kernel_readahead": "128K",
    "patience": "for ever",
    "listing_ttl": "soon",
    "block_size": "3",
    "allow_other": "perhaps",
    "verbose": "perhaps",
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_variable_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong environment variable is one error line that names it, and status 1."""
    monkeypatch.setenv(f"EMPIARFS_{name.upper()}", WRONG[name])
    result = run("ls", "10028")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert f"EMPIARFS_{name.upper()}" in line


@pytest.mark.parametrize("name", ["base_url", "cache_size", "memory_cache_size", "max_connections", "patience"])
def test_a_wrong_flag_is_named(name: str) -> None:
    """A wrong flag is one error line that names it, and status 1."""
    flag = f"--{name.replace('_', '-')}"
    result = run("ls", flag, WRONG[name], "10028")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert flag in line


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_value_of_the_file_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value in the configuration is one error line that names file and setting, and status 1."""
    for variable in list(os.environ):
        if variable.startswith("EMPIARFS_") and variable != "EMPIARFS_CONFIG":
            monkeypatch.delenv(variable)
    (tmp_path / "config.toml").write_text(f"{name} = {json.dumps(WRONG[name])}\n")
    result = run("ls", "10028")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert f"{tmp_path / 'config.toml'}: {name}: " in line


@pytest.mark.parametrize("text", ["this is no toml", "colour = 'red'\n", "\x00", "memory_cache_size = [1]\n"])
def test_a_wrong_file_is_named(text: str, tmp_path: Path) -> None:
    """A configuration that is not TOML, or has a setting unknown or not scalar, is one error line with its name."""
    (tmp_path / "config.toml").write_text(text)
    result = run("ls", "10028")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert str(tmp_path / "config.toml") in line


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A configuration that is a directory or not UTF-8 is an error that names it."""
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    assert str(tmp_path / "config.toml") in run("ls", "10028").stderr
    (tmp_path / "config.toml").unlink()
    (tmp_path / "config.toml").mkdir()
    result = run("ls", "10028")
    assert result.exit_code == 1
    assert str(tmp_path / "config.toml") in result.stderr


def test_a_cache_folder_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache directory that cannot be used is one error line that names it."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EMPIARFS_CACHE_DIR", str(tmp_path / "file"))
    result = run("ls", "10028")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert str(tmp_path / "file") in line


class Started(Exception):
    """Stands in for a mount that was begun; holds with what."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments that the helper of mount(8) passes to `empiarfs`."""
    words: list[list[str]] = []
    monkeypatch.setattr("empiarfs.cli.fstab.main", lambda given, prog_name: words.append(given))
    return words


def helped(*words: str) -> int:
    """Run the helper as mount(8) does; return its status."""
    with own_logging():
        return CliRunner().invoke(helper, words, catch_exceptions=False).exit_code


def options_of(words: list[str]) -> set[str]:
    """Return the single options in `words`."""
    pairs = itertools.pairwise(words)
    return {one for word, options in pairs if word == "-o" for one in options.split(",") if one}


@pytest.mark.parametrize(
    ("source", "entries"),
    [
        ("empiar", []),
        ("empiarfs", []),
        ("none", []),
        ("10028", ["10028"]),
        ("10028,10934", ["10028", "10934"]),
        ("EMPIAR-10028", ["EMPIAR-10028"]),
    ],
)
def test_the_helper_reads_the_source_as_entries(begun: list[list[str]], source: str, entries: list[str]) -> None:
    """The first field of fstab names the entries to show."""
    assert helped(source, "/mnt/empiar", "-o", "ro") == 0
    (words,) = begun
    assert words[0] == "mount"
    assert words[words.index("--") :] == ["--", "/mnt/empiar", *entries]


def test_the_helper_hands_on_options(begun: list[list[str]]) -> None:
    """The helper passes on the options of all its `-o` arguments."""
    helped("empiar", "/mnt", "-o", "ro,cache_size=3G", "-o", "allow_other")
    assert options_of(begun[0]) == {"ro", "cache_size=3G", "allow_other", "fsname=empiar"}


def test_the_helper_takes_the_rw_that_mount_adds_by_itself(begun: list[list[str]]) -> None:
    """The helper drops the `rw` that mount(8) adds where a line does not say `ro`."""
    helped("10028", "/mnt", "-o", "rw")
    helped("10028", "/mnt", "-o", "rw,cache_size=3G")
    assert [options_of(words) for words in begun] == [{"fsname=10028"}, {"cache_size=3G", "fsname=10028"}]


@pytest.mark.parametrize("words", [["-f"], ["-f", "-v"], ["-sf"], ["-t", "fuse.empiarfs", "-f"], ["-n", "-f"]])
def test_the_helper_mounts_nothing_when_it_is_to_fake(begun: list[list[str]], words: list[str]) -> None:
    """`mount -f` mounts nothing."""
    assert helped("empiar", "/mnt", *words) == 0
    assert begun == []


def test_the_helper_hands_on_verbosity(begun: list[list[str]]) -> None:
    """`mount -v` becomes `--verbose`, and other flags of mount(8) do not."""
    helped("empiar", "/mnt", "-v")
    helped("empiar", "/mnt", "-s", "-n", "-t", "fuse.empiarfs")
    assert ["--verbose" in words for words in begun] == [True, False]


def test_every_setting_is_a_flag_of_mount_or_an_option_of_it() -> None:
    """Every setting that a user may choose for a mount is a flag of `mount`."""
    names = {parameter.name for parameter in main.commands["mount"].params}
    assert {
        "base_url",
        "cache_dir",
        "cache_size",
        "memory_cache_size",
        "max_connections",
        "allow_other",
        "log_file",
    } <= names
    assert {"verbose", "extra", "foreground", "sample", "patience"} <= names
    assert names & set(ROWS)


@pytest.mark.parametrize("words", [("help",), ("--help",), ("-h",)])
def test_help_is_what_people_call_it(words: tuple[str, ...]) -> None:
    """`empiarfs help` and `-h` print the page of `--help`."""
    assert run(*words).stdout == run("--help").stdout


def test_help_of_a_command_is_a_word_too() -> None:
    """`empiarfs help COMMAND` prints the command's help, and fails for an unknown command."""
    assert run("help", "cache", "info").stdout == run("cache", "info", "--help").stdout
    assert "No such command 'nosuch'" in run("help", "nosuch").stderr
    result = run("help", "ls", "nosuch")
    assert (result.exit_code, "empiarfs ls has no command 'nosuch'" in result.stderr) == (2, True)


@pytest.mark.parametrize("words", [("version",), ("-V",)])
def test_the_version_is_what_people_call_it(words: tuple[str, ...]) -> None:
    """`empiarfs version` and `-V` print what `--version` prints."""
    assert run(*words).stdout == run("--version").stdout


@pytest.mark.parametrize("columns", ["40", "80"])
@pytest.mark.parametrize("group", [[], ["cache"]])
def test_the_list_of_commands_shows_whole_sentences(group: list[str], columns: str) -> None:
    """The list of commands cuts no sentence, however narrow the terminal is."""
    shown = CliRunner().invoke(main, [*group, "--help"], terminal_width=int(columns)).stdout
    commands = main.commands["cache"].commands if group else main.commands  # type: ignore[attr-defined] # a group
    for command in commands.values():
        sentence = " ".join((command.help or "").split()).partition(". ")[0].rstrip(".")
        assert sentence in " ".join(shown.split())


@pytest.mark.parametrize("name", ROWS)
def test_help_names_default_and_variable_of_each_setting(name: str) -> None:
    """The help of a command names the default and the environment variable of each setting."""
    option = next((one for one in main.commands["mount"].params if one.name == name), None)
    if option is None:
        assert name in {"listing_ttl", "block_size"}  # for the environment and the file alone
        return
    assert isinstance(option, click.Option)
    assert f"EMPIARFS_{name.upper()}]" in (option.help or "")
    value = getattr(Settings(), name)
    if isinstance(value, int) and not isinstance(value, bool):
        assert "default: " in (option.help or "")
        said = (option.help or "").partition("default: ")[2].partition(";")[0].partition(",")[0]
        assert ROWS[name].parse(said) == value
