"""The documents name only what the program has."""

import errno
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from benchmark.jobs import JOBS

from empiarfs import settings
from empiarfs.cli import main
from empiarfs.cli.text import short_size
from empiarfs.mount.status import Status, flat

PROJECT = Path(__file__).resolve().parent.parent
README = PROJECT / "README.md"
USING = PROJECT / "docs" / "using.md"
BENCHMARKS = PROJECT / "docs" / "benchmarks.md"
DEVELOPMENT = PROJECT / "docs" / "development.md"
DOCUMENTS = [README, PROJECT / "SEMANTICS.md", *sorted((PROJECT / "docs").glob("*.md"))]

# options of others that stand alone in code
FOREIGN = {
    "--scratch_dir": "RELION",
    "--preread_images": "RELION",
    "--device": "docker",
    "--privileged": "docker",
    "--modify-window": "rsync",
}
# variables that are no settings: where the settings' file is, the binding, completion, and what scripts/ read
VARIABLES = {"EMPIARFS_CONFIG", "EMPIARFS_FUSE", "_EMPIARFS_COMPLETE", "EMPIARFS_VENV"}


def fenced_lines(document: Path) -> Iterator[str]:
    """Yield the lines of code in `document`, each that ends in a backslash joined with the next."""
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


def options(command: click.Command, parent: click.Context | None = None) -> set[str]:
    """Return the names of the options of `command` and of the commands below it."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    # as the program makes it: click keeps the option of the help that it has made first
    with click.Context(command, parent, **command.context_settings) as context:
        own = {name for one in command.get_params(context) for name in (*one.opts, *one.secondary_opts)}
        return own.union(*(options(one, context) for one in below))


def all_options() -> set[str]:
    """Return the names of all options of the program."""
    return options(main)


@pytest.mark.parametrize("name", main.commands)
def test_every_command_is_in_the_readme(name: str) -> None:
    """The README shows each command of the program at least once, in code that can be copied."""
    assert any(where.startswith("README") and call[:1] == [name] for where, call in all_commands()), (
        f"empiarfs {name}"
    )


@pytest.mark.parametrize(("where", "call"), all_commands())
def test_every_call_in_the_documents_is_valid(where: str, call: list[str]) -> None:
    """Each call of empiarfs in a document names an existing command, with options and arguments that it takes."""
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
    top = click.Context(main, **main.context_settings)
    try:
        command.make_context(name, [word for word in rest if word != "..."], parent=top)
    except click.exceptions.Exit:
        pass  # --help
    except click.UsageError as error:
        pytest.fail(f"{where}\n{error.format_message()}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_in_the_documents_exists(document: Path) -> None:
    """An option alone in code is one of the program, or known to be another program's."""
    named = set(re.findall(r"`(--[a-z][a-z_-]*)", document.read_text(encoding="utf-8")))
    assert named <= all_options() | FOREIGN.keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_variable_in_the_documents_is_read(document: Path) -> None:
    """Each variable that the documents name is read by the program."""
    named = set(re.findall(r"\b_?EMPIARFS_[A-Z_]+\b", document.read_text(encoding="utf-8")))
    assert named <= {row.variable for row in settings.ROWS.values()} | VARIABLES


def shown_default(row: settings.Row) -> str:
    """Return how the table of settings shows the default of a setting."""
    value = getattr(settings.Settings(), row.name)
    of_the_machine = {"ca_bundle": "`certifi`", "cache_dir": "`~/.cache/empiarfs`", "ftp_url": "derived",
                      "log_file": "`~/.local/state/empiarfs/log/`"}  # fmt: skip
    match value:
        case bool():
            return "no"
        case 0:
            return "0"
        case _ if row.name in of_the_machine:
            return of_the_machine[row.name]
        case float():
            return "`1d`" if value == 86400 else f"`{value:.0f}s`"
        case int() if value >= 1024:
            return f"`{short_size(value)}`"
        case _:
            return f"`{value}`"


def test_the_table_of_settings_is_that_of_the_program() -> None:
    """The documents have one table of settings, in their order, with flag, variable, default and note."""
    heading = "| flag | environment | default | |\n|---|---|---|---|\n"
    (text,) = (text for text in (one.read_text(encoding="utf-8") for one in DOCUMENTS) if heading in text)
    rows = [
        f"| {f'`{row.flag}` ' if row.takes else ''}| `{row.variable}` | {shown_default(row)} | {row.note} |"
        for row in settings.ROWS.values()
    ]
    assert text.partition(heading)[2].partition("\n\n")[0].splitlines() == rows


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_the_documents_name_exists(document: Path) -> None:
    """The targets of links and the files of the project that the documents name exist."""
    text = document.read_text(encoding="utf-8")
    links = [document.parent / one for one in re.findall(r"\]\((?!https?:)([^)#]+)", text)]
    files = [PROJECT / one for one in re.findall(r"`((?:scripts|docs|empiarfs|tests)/[\w./]*\w)", text)]
    missing = [str(one) for one in [*links, *files] if not one.exists()]
    assert not missing


def bench_rows(document: Path) -> list[list[str]]:
    """Return the cells of the rows below the heading `| job | network |` of a document."""
    text = document.read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| job \| network \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]


def test_the_figures_of_the_readme_are_those_of_the_full_table() -> None:
    """Each of the five rows of the README is the beginning of a row of docs/benchmarks.md."""
    shown = bench_rows(README)
    measured = [row[:5] for row in bench_rows(BENCHMARKS)]
    assert len(shown) == 5
    assert [row for row in shown if row not in measured] == []


def test_the_jobs_of_the_full_table_can_be_measured() -> None:
    """Each row of docs/benchmarks.md is a job of scripts/bench over one of its networks."""
    jobs = {(job.name, profile) for job in JOBS for profile in job.profiles}
    assert {(row[0], row[1]) for row in bench_rows(BENCHMARKS)} <= jobs


def test_the_readme_is_two_screens() -> None:
    """The README has at most 120 lines; the rest is in docs/."""
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_the_packages_are_all_described() -> None:
    """docs/development.md names each package and each module at the top of empiarfs, and each script."""
    text = DEVELOPMENT.read_text(encoding="utf-8")
    top = [
        path.name
        for path in (PROJECT / "empiarfs").iterdir()
        if not path.name.startswith("__") and (path.suffix == ".py" or (path / "__init__.py").exists())
    ]
    assert [name for name in top if f"`empiarfs/{name}`" not in text] == []
    scripts = [path.name for path in (PROJECT / "scripts").iterdir() if path.is_file() and not path.suffix]
    assert [name for name in scripts if f"scripts/{name}" not in text] == []


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_anchor_in_the_documents_exists(document: Path) -> None:
    """A link to a part of a document leads to a heading of it."""
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", document.read_text(encoding="utf-8"))
    missing = [
        (file, part) for file, part in links if part not in anchors(document.parent / file if file else document)
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_field_of_the_status_in_the_documents_exists(document: Path) -> None:
    """A field that a document reads with jq from `empiarfs status --json` is one that the status has."""
    named = set(re.findall(r"status[^|\n]*--json \| jq \.(\w+)", document.read_text(encoding="utf-8")))
    assert named <= {*flat(Status()), "trouble"}


def test_the_messages_of_the_table_of_troubles_exist() -> None:
    """Each message in the last table of docs/running.md is one that empiarfs writes, or an errno's."""
    text = (PROJECT / "docs" / "running.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| ([^|]+?) \|", text.partition("| message |")[2], re.MULTILINE)
    sources = [file.read_text(encoding="utf-8") for file in (PROJECT / "empiarfs").rglob("*.py")]
    written = re.sub(r"\{[^{}]*\}", "{}", re.sub(r'"\s*f?"', "", " ".join(" ".join(sources).split())))
    kernel = {os.strerror(errno.ENOTCONN), os.strerror(errno.EHOSTUNREACH)}
    assert len(messages) > 5
    ours = [one for one in messages if one not in {*kernel, "a program hangs"}]
    assert [one for one in ours if re.sub(r"\b\d+\b|/dev/fuse", "{}", one) not in written] == []
