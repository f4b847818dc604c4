"""`ls`, `stat` and `cat`: looking without a mount, over a server and over the embedded archive."""

import os
import pty
import subprocess
import sys
import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import run
from support.fakes import noise
from support.scripted import Reply, ScriptedServer, Website

from empiarfs.cli.text import printable
from empiarfs.sample.index_page import listed_size

CONTENT = noise(9_000_000)
ODD = b"10028/data/a\x1b[31m\n\xff\xe2\x80\xae.mrc"
FILES = {
    b"10028/10028.xml": b"<entry/>\n",
    b"10028/data/large.mrc": CONTENT,
    b"10028/data/a b#%41.mrc": b"odd",
    b"10028/data/empty": b"",
    b"10028/data/-rf": b"dash",
    b"10028/closed/x": b"x",
    b"10029/x": b"x",
    ODD: b"escape",
}


@pytest.fixture
def website() -> Website:
    """A good site with one directory that may not be listed."""
    return Website(FILES, closed=(b"10028/closed",))


def test_ls_shows_one_name_a_line(server: ScriptedServer) -> None:
    """`ls` prints one name a line in the server's order, a slash after directories, and measures no file."""
    result = run("ls", "10028")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["10028.xml", "data/", "closed/"]
    assert [request.method for request in server.requests] == ["GET"]


def test_ls_without_a_path_shows_the_entries(server: ScriptedServer) -> None:
    """`ls` without a path lists the entries."""
    assert run("ls").stdout.splitlines() == ["10028/", "10029/"]


def test_ls_of_a_file_shows_the_file(server: ScriptedServer) -> None:
    """`ls` of a file prints its name."""
    result = run("ls", "10028/10028.xml")
    assert (result.exit_code, result.stdout) == (0, "10028.xml\n")


def test_ls_long_marks_sizes_that_are_rounded(server: ScriptedServer) -> None:
    """`ls -l` marks a rounded size with a tilde, shows a measured one exactly, and aligns the columns."""
    run("stat", "10028/10028.xml")
    lines = run("ls", "-l", "10028").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["9", "2023-11-14", "22:13", "UTC", "10028.xml"],
        ["-", "2025-02-07", "19:49", "data/"],
        ["-", "2025-02-07", "19:49", "closed/"],
    ]
    (large,) = [line for line in run("ls", "--long", "10028/data").stdout.splitlines() if "large" in line]
    assert large.split() == [f"~{listed_size(len(CONTENT)).strip()}", "2025-02-07", "19:49", "large.mrc"]
    assert len({line.index("2") for line in lines}) == 1


def test_a_listing_is_cached_between_commands(server: ScriptedServer) -> None:
    """A second `ls` sends no request."""
    run("ls", "10028")
    asked = len(server.requests)
    assert run("ls", "10028").exit_code == 0
    assert len(server.requests) == asked


def test_stat_shows_kind_size_date_and_address(server: ScriptedServer) -> None:
    """`stat` shows the path, kind, exact size, date of the server in UTC, and address of a file."""
    assert run("stat", "EMPIAR-10028/data/large.mrc").stdout.splitlines() == [
        "path:     10028/data/large.mrc",
        "kind:     file",
        "size:     9000000 bytes",
        "modified: 2023-11-14 22:13:20 UTC",
        "address:  empiar://10028/data/large.mrc",
    ]


def test_stat_of_a_directory_shows_no_size(server: ScriptedServer) -> None:
    """`stat` of a directory shows its kind and no size."""
    lines = run("stat", "10028/data").stdout.splitlines()
    assert lines[:2] == ["path:     10028/data", "kind:     directory"]
    assert not any(line.startswith("size") for line in lines)


def test_stat_of_the_root(server: ScriptedServer) -> None:
    """`stat` of the root shows a directory with the path `/`."""
    assert run("stat", "empiar://").stdout.splitlines()[:2] == ["path:     /", "kind:     directory"]


@pytest.mark.parametrize("name", ["large.mrc", "empty", "a b#%41.mrc", "-rf"])
def test_cat_writes_the_bytes(server: ScriptedServer, name: str) -> None:
    """`cat` writes the bytes of the file and nothing else."""
    result = run("cat", f"10028/data/{name}")
    assert result.exit_code == 0
    assert result.stdout_bytes == FILES[b"10028/data/" + name.encode()]
    assert result.stderr == ""


def at_terminal(*words: str) -> tuple[int, bytes]:
    """Run empiarfs with a terminal as standard output and standard error; return the status and what it shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(program(*words), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # EIO is how a terminal ends
            while piece := os.read(ours, 65536):
                shown += piece
        os.close(ours)
        return process.wait(30), shown


def test_cat_leaves_binary_from_a_terminal(server: ScriptedServer) -> None:
    """Bytes with a zero among them are not written to a terminal: one line says to write them to a file or pipe."""
    status, shown = at_terminal("cat", "10028/data/large.mrc")
    assert (status, shown.count(b"\n")) == (1, 1)
    assert shown.startswith(b"Error: 10028/data/large.mrc is binary")
    assert b"empiarfs cat PATH > FILE" in shown


def test_cat_shows_text_on_a_terminal(server: ScriptedServer) -> None:
    """Text is shown, whatever its letters."""
    server.answer = Website({b"10028/a.txt": "Ångström\n".encode() + b"\xe9\n"})
    assert at_terminal("cat", "10028/a.txt") == (0, "Ångström\r\n".encode() + b"\xe9\r\n")


def test_cat_of_a_directory_is_one_line(server: ScriptedServer) -> None:
    """`cat` of a directory is one line on standard error and status 1."""
    result = run("cat", "10028/data")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: 10028/data: Is a directory\n"


FORMS = [
    "10028/data/a b#%41.mrc",
    "EMPIAR-10028/data/a b#%41.mrc",
    "empiar-10028//data/./a b#%41.mrc",
    "10028/data/a b#%41.mrc/",
    "empiar://10028/data/a b#%41.mrc",
    "EMPIAR://EMPIAR-10028/data/a b#%41.mrc",
    "{base}/10028/data/a%20b%23%2541.mrc",
    "{base}/10028/data/a%20b%23%2541.mrc/",
    "{base}//10028/data/a%20b%23%2541.mrc",
]


@pytest.mark.parametrize("form", FORMS)
def test_a_path_may_be_written_in_many_ways(server: ScriptedServer, form: str) -> None:
    """All accepted forms of a path name the same file, and escapes are decoded in a URL alone."""
    result = run("cat", form.format(base=server.base_url))
    assert (result.stdout_bytes, result.exit_code) == (b"odd", 0)


@pytest.mark.parametrize(
    "form",
    [
        "http://example.org/empiar/world_availability/10028",
        "https://example.org/",
        "{base}x/10028",
        "{host}/empiar/other/10028",
        "ftp://ftp.ebi.ac.uk/empiar/world_availability/10028",
        "s3://bucket/10028",
        "../10028",
        "10028/../10029",
        "10028/data/..",
        "empiar://10028/../10029",
        "{base}/10028/%2e%2e/10029",
        "{base}/10028/..%2F10029",
    ],
)
def test_a_path_that_points_elsewhere_is_refused(server: ScriptedServer, form: str) -> None:
    """A path to another server, another directory or scheme, or with `..` is a usage error without a request."""
    host = server.base_url.removesuffix("/empiar/world_availability")
    result = run("ls", form.format(base=server.base_url, host=host))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr
    assert server.requests == []


def test_several_paths_are_listed_as_ls_lists_them(server: ScriptedServer) -> None:
    """`ls` of several paths lists the files first, then each directory under its own heading."""
    result = run("ls", "10029", "10028/10028.xml", "10028")
    assert result.stdout == "10028/10028.xml\n\n10029:\nx\n\n10028:\n10028.xml\ndata/\nclosed/\n"


def test_a_path_that_fails_keeps_no_other_from_being_listed(server: ScriptedServer) -> None:
    """A path that fails is one line on standard error and status 1, and the other paths are listed."""
    result = run("ls", "10029/none", "10029", "https://elsewhere.example/x")
    assert (result.exit_code, result.stdout) == (1, "10029:\nx\n")
    first, second = result.stderr.splitlines()
    assert first.startswith("Error: 10029/none: ")
    assert "elsewhere.example" in second


def test_a_directory_is_listed_with_all_below(server: ScriptedServer) -> None:
    """`ls -R` lists each directory under its path; a forbidden one is one error line, and the rest is listed."""
    result = run("ls", "-R", "10028")
    headings = [line for line in result.stdout.splitlines() if line.endswith(":")]
    assert headings == ["10028:", "10028/data:"]
    assert "\n\n10028/data:\n" in result.stdout
    assert "large.mrc" in result.stdout
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "10028/closed" in result.stderr


def test_recursive_ls_needs_an_entry(server: ScriptedServer) -> None:
    """`ls -R` without an entry is a usage error without a request."""
    result = run("ls", "-R")
    assert result.exit_code == 2
    assert "name an entry" in result.stderr
    assert server.requests == []


def test_sizes_for_people_are_short(server: ScriptedServer) -> None:
    """`ls -lh` shows every size as short as the server's listing does, an exact one too."""
    run("stat", "10028/data/large.mrc")
    (exact,) = [line for line in run("ls", "-l", "10028/data").stdout.splitlines() if "large" in line]
    (short,) = [line for line in run("ls", "-lh", "10028/data").stdout.splitlines() if "large" in line]
    assert exact.split()[0] == "9000000"
    assert short.split()[0] == "8.6M"


def test_all_names_are_shown_with_and_without_a(server: ScriptedServer) -> None:
    """`ls -a` prints what `ls` prints."""
    assert run("ls", "-a", "10028").stdout == run("ls", "10028").stdout


def test_an_absolute_path_outside_any_mount_is_refused(server: ScriptedServer, tmp_path: Path) -> None:
    """An absolute path outside every mount is one error line that says so, and status 1."""
    result = run("ls", str(tmp_path))
    assert result.exit_code == 1
    assert "is not in a mount of empiarfs" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["ls", "stat", "cat"])
@pytest.mark.parametrize("path", ["10028/none", "10028/none/deeper", "99999", "readme", "10028/10028.xml/x"])
def test_what_is_not_there_is_one_line_and_status_1(server: ScriptedServer, command: str, path: str) -> None:
    """A missing path is one error line that names it, and status 1."""
    result = run(command, path)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {path}: ")


@pytest.mark.parametrize("command", ["ls", "stat", "cat"])
def test_a_server_that_is_away_is_one_line_and_status_1(server: ScriptedServer, command: str) -> None:
    """A failing server is one error line with its status, and exit status 1, at once with a patience of 0."""
    server.answer = lambda _: Reply("500 Internal Server Error", {"Content-Length": "0"})
    result = run(command, "10028/data/large.mrc")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "500" in line


def test_a_directory_closed_to_listings_is_one_line(server: ScriptedServer) -> None:
    """`ls` of a forbidden directory is one error line, and its files can be read."""
    result = run("ls", "10028/closed")
    assert result.exit_code == 1
    assert "403" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert run("cat", "10028/closed/x").stdout == "x"


ODD_SHOWN = "a\\x1b[31m\\n\\xff\\u202e.mrc"


def test_control_characters_of_a_name_are_escaped(server: ScriptedServer) -> None:
    """Control characters of a name are escaped in output and in errors, so that it stays on its line."""
    path = os.fsdecode(ODD)
    assert ODD_SHOWN in run("ls", "10028/data").stdout.splitlines()
    stat = run("stat", path)
    assert stat.stdout.splitlines()[0] == f"path:     10028/data/{ODD_SHOWN}"
    error = run("cat", path + "x")
    assert error.stderr.splitlines() == [f"Error: 10028/data/{ODD_SHOWN}x: No such file or directory"]
    outside = run("cat", "http://evil/\x1b[2J\n")
    assert "\x1b" not in outside.stderr


def test_bytes_of_an_odd_file_are_not_escaped(server: ScriptedServer) -> None:
    """`cat` escapes nothing."""
    assert run("cat", os.fsdecode(ODD)).stdout_bytes == b"escape"


ANY_TEXT = st.text(st.characters(codec=None, categories=["L", "N", "P", "S", "Z", "C"]), max_size=30)


@given(ANY_TEXT)
def test_printable_leaves_nothing_that_is_not(text: str) -> None:
    """`printable` returns text without controls, surrogates or direction marks, which can be encoded."""
    shown = printable(text)
    assert not [one for one in shown if unicodedata.category(one) in {"Cc", "Cs", "Zl", "Zp"}]
    assert not [one for one in shown if unicodedata.bidirectional(one) in {"LRE", "RLE", "LRO", "RLO", "PDF"}]
    assert not [one for one in shown if unicodedata.bidirectional(one) in {"LRI", "RLI", "FSI", "PDI"}]
    shown.encode()


@given(ANY_TEXT, ANY_TEXT)
def test_printable_tells_names_apart(one: str, other: str) -> None:
    """`printable` returns the same text for two names only if they are equal."""
    assert (printable(one) == printable(other)) == (one == other)


@given(st.text(st.characters(categories=["L", "N"]), max_size=30))
def test_printable_leaves_plain_text_as_it_is(text: str) -> None:
    """`printable` returns letters and digits of every script unchanged."""
    assert printable(text) == text


PAGE = "https://www.ebi.ac.uk/empiar/EMPIAR-10028/"


def test_the_web_page_of_an_entry_is_a_path(server: ScriptedServer) -> None:
    """`ls`, `stat` and `cat` accept the address of an entry's web page."""
    assert run("ls", PAGE).stdout.splitlines() == ["10028.xml", "data/", "closed/"]
    assert run("stat", PAGE).stdout.splitlines()[0] == "path:     10028"
    assert run("cat", PAGE).stderr == "Error: 10028: Is a directory\n"


@pytest.mark.usefixtures("sample")
def test_the_embedded_archive_is_listed_measured_and_read() -> None:
    """With `--sample` every command works without a network."""
    entries = run("ls", "--sample").stdout.splitlines()
    assert entries
    assert all(entry.rstrip("/").isdigit() for entry in entries)
    names = run("ls", "--sample", entries[0]).stdout.splitlines()
    (xml,) = [name for name in names if name.endswith(".xml")]
    path = entries[0] + xml
    size = run("stat", "--sample", path).stdout.splitlines()[2]
    content = run("cat", "--sample", path).stdout_bytes
    assert size == f"size:     {len(content)} bytes"
    assert b"<" in content[:100]


@pytest.mark.usefixtures("sample")
def test_the_embedded_archive_says_what_it_does_not_have() -> None:
    """A missing entry of the sample is one error line and status 1."""
    result = run("ls", "--sample", "10002")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1


def program(*words: str) -> list[str]:
    """Return the command that starts empiarfs in a process."""
    return [sys.executable, "-W", "error", "-m", "empiarfs", *words]


def test_cat_into_a_closed_pipe_is_quiet(server: ScriptedServer) -> None:
    """`cat` into a pipe whose reader is gone prints nothing and ends with the status of SIGPIPE."""
    with subprocess.Popen(
        program("cat", "10028/data/large.mrc"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == CONTENT[:5]
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141


def test_ls_into_a_closed_pipe_is_quiet(server: ScriptedServer) -> None:
    """`ls` into a pipe whose reader is gone prints nothing and ends with the status of SIGPIPE."""
    site = Website({f"10028/{number:06}".encode(): b"" for number in range(20_000)})
    server.answer = site
    with subprocess.Popen(program("ls", "10028"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"000000\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 141


def test_a_process_gives_the_bytes_and_the_status(server: ScriptedServer) -> None:
    """A process writes the bytes to standard output and exits with 0, or writes one error line and exits with 1."""
    good = subprocess.run(program("cat", "10028/10028.xml"), capture_output=True, check=False, timeout=60)
    assert (good.stdout, good.stderr, good.returncode) == (b"<entry/>\n", b"", 0)
    bad = subprocess.run(program("cat", "10028/none"), capture_output=True, check=False, timeout=60)
    assert (bad.stdout, bad.returncode) == (b"", 1)
    assert bad.stderr == b"Error: 10028/none: No such file or directory\n"
