"""The documents name only what the program has."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from empiarfs import settings
from empiarfs.cli import main

PROJECT = Path(__file__).resolve().parent.parent
README = PROJECT / "README.md"
DOCUMENTS = [README, PROJECT / "SEMANTICS.md", *sorted((PROJECT / "docs").glob("*.md"))]

# options of others that stand alone in code
FOREIGN = {"--scratch_dir": "RELION", "--preread_images": "RELION", "--device": "docker", "--privileged": "docker"}
# variables that are no settings: where the settings' file is, the binding, completion, and what scripts/ read
VARIABLES = {"EMPIARFS_CONFIG", "EMPIARFS_FUSE", "_EMPIARFS_COMPLETE", "EMPIARFS_VENV"}


def fenced_lines(document: Path) -> Iterator[str]:
    """Yield the lines of code in `document`, those that end in a backslash joined with the next."""
    for block in re.findall(r"^```\w*\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def commands(line: str) -> Iterator[list[str]]:
    """Yield the calls of empiarfs in a line of shell, a systemd unit, or a Dockerfile."""
    words = shlex.shlex(re.sub(r"^(\$ |Exec\w+=)", "", line.strip()), posix=True, punctuation_chars="|&;<>()")
    words.whitespace_split = True
    call: list[str] = []
    for word in [*words, ";"]:
        if word in {"|", "&", "&&", "||", ";", ">", "<", ">>", "(", ")"}:
            if call and call[0].rpartition("/")[2] == "empiarfs":
                yield call[1:]
            call = []
        elif call or word not in {"exec", "sudo", "time"}:
            call.append(word)


def all_commands() -> list[tuple[str, list[str]]]:
    """Return each call of empiarfs in the documents, after its document and line."""
    found = []
    for document in DOCUMENTS:
        for line in fenced_lines(document):
            if "empiarfs" in line:
                found += [(f"{document.name}: {line.strip()}", call) for call in commands(line)]
    return found


def options(command: click.Command) -> set[str]:
    """Return the names of the options that `command` takes, those of the commands below it among them."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    with click.Context(command) as context:
        own = {name for one in command.get_params(context) for name in (*one.opts, *one.secondary_opts)}
    return own.union(*(options(one) for one in below))


def all_options() -> set[str]:
    """Return the names of all options of the program."""
    return options(main)


@pytest.mark.parametrize("name", main.commands)
def test_every_command_stands_in_the_readme(name: str) -> None:
    """The README shows each command of the program at least once, in code that can be copied."""
    assert any(where.startswith("README") and call[:1] == [name] for where, call in all_commands()), (
        f"empiarfs {name}"
    )


@pytest.mark.parametrize(("where", "call"), all_commands())
def test_every_call_in_the_documents_is_understood(where: str, call: list[str]) -> None:
    """Each call of empiarfs in a document names a command that exists, with options and arguments that it takes."""
    name, *rest = call or ["--help"]
    if name.startswith("-"):
        assert name in options(main), where
        return
    assert name in main.commands, where
    command = main.commands[name]
    if isinstance(command, click.Group):
        name, *rest = rest
        assert name in command.commands, where
        command = command.commands[name]
    try:
        command.make_context(name, [word for word in rest if word != "..."])
    except click.exceptions.Exit:
        pass  # --help
    except click.UsageError as error:
        pytest.fail(f"{where}\n{error.format_message()}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_in_the_documents_exists(document: Path) -> None:
    """An option that stands alone in code is one of the program's, or known to be another's."""
    named = set(re.findall(r"`(--[a-z][a-z_-]*)", document.read_text(encoding="utf-8")))
    assert named <= all_options() | FOREIGN.keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_variable_in_the_documents_is_read(document: Path) -> None:
    """Each variable that the documents name is read by the program."""
    named = set(re.findall(r"\b_?EMPIARFS_[A-Z_]+\b", document.read_text(encoding="utf-8")))
    assert named <= {f"EMPIARFS_{name.upper()}" for name in settings.READERS} | VARIABLES


def test_the_table_of_settings_is_whole_and_right() -> None:
    """The README's table names each setting once, with its flag where it has one, and its default."""
    rows = re.findall(
        r"^\| (.*?) ?\| `EMPIARFS_(\w+)` \| (\S+) \|", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {variable.lower() for _, variable, _ in rows} >= settings.READERS.keys()
    defaults = settings.Settings()
    for flag, variable, default in rows:
        name = variable.lower()
        expected = f"--{name.replace('_', '-')}"
        assert flag == (f"`{expected}`" if expected in all_options() else ""), variable
        if name not in {"ca_bundle", "cache_dir", "ftp_url", "log_file"}:  # these depend on the machine
            assert settings.READERS[name](default.strip("`")) == getattr(defaults, name), variable


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_the_documents_name_is_there(document: Path) -> None:
    """The targets of links and the files of the project that the documents name exist."""
    text = document.read_text(encoding="utf-8")
    links = [document.parent / one for one in re.findall(r"\]\((?!https?:)([^)#]+)", text)]
    files = [PROJECT / one for one in re.findall(r"`((?:scripts|docs|empiarfs|tests)/[\w./]*\w)", text)]
    missing = [str(one) for one in [*links, *files] if not one.exists()]
    assert not missing
