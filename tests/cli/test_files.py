"""`ls`, `stat` and `cat`: looking without a mount, over a server and over the embedded archive."""

import os
import pty
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from commands import isolated, run
from hypothesis import given
from hypothesis import strategies as st
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
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A good server, which the settings name."""
    isolated(tmp_path, monkeypatch)
    with ScriptedServer(Website(FILES, closed=(b"10028/closed",))) as server:
        monkeypatch.setenv("EMPIARFS_BASE_URL", server.base_url)
        yield server


@pytest.fixture(scope="module")
def sample_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the embedded archive is made, once for all tests."""
    return tmp_path_factory.mktemp("sample")


@pytest.fixture
def sample(sample_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and a cache that has the embedded archive."""
    isolated(tmp_path, monkeypatch)
    monkeypatch.setenv("EMPIARFS_CACHE_DIR", str(sample_cache))
    monkeypatch.setenv("EMPIARFS_BASE_URL", "http://127.0.0.1:9/nobody/listens/here")


def test_ls_shows_one_name_a_line(server: ScriptedServer) -> None:
    """In the server's order; directories end in a slash; no file is measured."""
    result = run("ls", "10028")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["10028.xml", "data/", "closed/"]
    assert [request.method for request in server.requests] == ["GET"]


def test_ls_without_a_path_shows_the_entries(server: ScriptedServer) -> None:
    """The root is the list of entries."""
    assert run("ls").stdout.splitlines() == ["10028/", "10029/"]


def test_ls_of_a_file_shows_the_file(server: ScriptedServer) -> None:
    """As ls does."""
    result = run("ls", "10028/10028.xml")
    assert (result.exit_code, result.stdout) == (0, "10028.xml\n")


def test_ls_long_marks_sizes_that_are_rounded(server: ScriptedServer) -> None:
    """A listed size has a tilde, a measured one is exact and its date is UTC; the columns are aligned."""
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


def test_a_listing_is_kept_between_commands(server: ScriptedServer) -> None:
    """The second `ls` costs no request."""
    run("ls", "10028")
    asked = len(server.requests)
    assert run("ls", "10028").exit_code == 0
    assert len(server.requests) == asked


def test_stat_tells_kind_size_date_and_address(server: ScriptedServer) -> None:
    """The size is exact, the date the server's, in UTC."""
    assert run("stat", "EMPIAR-10028/data/large.mrc").stdout.splitlines() == [
        "path:     10028/data/large.mrc",
        "kind:     file",
        "size:     9000000 bytes",
        "modified: 2023-11-14 22:13:20 UTC",
        "address:  empiar://10028/data/large.mrc",
    ]


def test_stat_of_a_directory_tells_that_it_is_one(server: ScriptedServer) -> None:
    """And has no size."""
    lines = run("stat", "10028/data").stdout.splitlines()
    assert lines[:2] == ["path:     10028/data", "kind:     directory"]
    assert not any(line.startswith("size") for line in lines)


def test_stat_of_the_root(server: ScriptedServer) -> None:
    """It is a directory, and called a slash."""
    assert run("stat", "empiar://").stdout.splitlines()[:2] == ["path:     /", "kind:     directory"]


@pytest.mark.parametrize("name", ["large.mrc", "empty", "a b#%41.mrc", "-rf"])
def test_cat_writes_the_bytes(server: ScriptedServer, name: str) -> None:
    """All of them, and nothing else."""
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
    """It says what it is, and writes nothing."""
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
    """All of them are the same file; only in a URL are escapes undone."""
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
    """Another server, another directory of it, another scheme, or `..`: a usage error, and no request."""
    host = server.base_url.removesuffix("/empiar/world_availability")
    result = run("ls", form.format(base=server.base_url, host=host))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr
    assert server.requests == []


def test_several_paths_are_listed_as_ls_lists_them(server: ScriptedServer) -> None:
    """Files come first, then each directory below its own heading."""
    result = run("ls", "10029", "10028/10028.xml", "10028")
    assert result.stdout == "10028/10028.xml\n\n10029:\nx\n\n10028:\n10028.xml\ndata/\nclosed/\n"


def test_a_path_that_fails_keeps_no_other_from_being_listed(server: ScriptedServer) -> None:
    """Each failure is a line on standard error, and the status at the end is 1."""
    result = run("ls", "10029/none", "10029", "https://elsewhere.example/x")
    assert (result.exit_code, result.stdout) == (1, "10029:\nx\n")
    first, second = result.stderr.splitlines()
    assert first.startswith("Error: 10029/none: ")
    assert "elsewhere.example" in second


def test_a_directory_is_listed_with_all_below(server: ScriptedServer) -> None:
    """`ls -R` shows each directory below its path; one that is closed is an error, and the rest goes on."""
    result = run("ls", "-R", "10028")
    headings = [line for line in result.stdout.splitlines() if line.endswith(":")]
    assert headings == ["10028:", "10028/data:"]
    assert "\n\n10028/data:\n" in result.stdout
    assert "large.mrc" in result.stdout
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "10028/closed" in result.stderr


def test_all_of_empiar_is_not_listed_by_a_slip(server: ScriptedServer) -> None:
    """`ls -R` without an entry would ask for millions of listings: it asks for none."""
    result = run("ls", "-R")
    assert result.exit_code == 2
    assert "name an entry" in result.stderr
    assert server.requests == []


def test_sizes_for_people_are_short(server: ScriptedServer) -> None:
    """`ls -lh` shows sizes like the server's; one that is exactly known is rounded too."""
    run("stat", "10028/data/large.mrc")
    (exact,) = [line for line in run("ls", "-l", "10028/data").stdout.splitlines() if "large" in line]
    (short,) = [line for line in run("ls", "-lh", "10028/data").stdout.splitlines() if "large" in line]
    assert exact.split()[0] == "9000000"
    assert short.split()[0] == "8.6M"


def test_all_names_are_shown_with_and_without_a(server: ScriptedServer) -> None:
    """`ls -a`, which people type, shows what `ls` shows."""
    assert run("ls", "-a", "10028").stdout == run("ls", "10028").stdout


def test_an_absolute_path_outside_any_mount_is_refused(server: ScriptedServer, tmp_path: Path) -> None:
    """It cannot be a path in the archive; the error says how to write one."""
    result = run("ls", str(tmp_path))
    assert result.exit_code == 1
    assert "is not in a mount of empiarfs" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["ls", "stat", "cat"])
@pytest.mark.parametrize("path", ["10028/none", "10028/none/deeper", "99999", "readme", "10028/10028.xml/x"])
def test_what_is_not_there_is_one_line_and_status_1(server: ScriptedServer, command: str, path: str) -> None:
    """The line names the path; nothing goes to standard output."""
    result = run(command, path)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {path}: ")


@pytest.mark.parametrize("command", ["ls", "stat", "cat"])
def test_a_server_that_is_away_is_one_line_and_status_1(server: ScriptedServer, command: str) -> None:
    """With no patience it says so at once."""
    server.answer = lambda _: Reply("500 Internal Server Error", {"Content-Length": "0"})
    result = run(command, "10028/data/large.mrc")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "500" in line


def test_a_directory_closed_to_listings_is_one_line(server: ScriptedServer) -> None:
    """And its files are read all the same."""
    result = run("ls", "10028/closed")
    assert result.exit_code == 1
    assert "403" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert run("cat", "10028/closed/x").stdout == "x"


ODD_SHOWN = "a\\x1b[31m\\n\\xff\\u202e.mrc"


def test_control_characters_of_a_name_are_escaped(server: ScriptedServer) -> None:
    """No name moves the cursor, turns the line around, or makes a second line: neither on success nor in errors."""
    path = os.fsdecode(ODD)
    assert ODD_SHOWN in run("ls", "10028/data").stdout.splitlines()
    stat = run("stat", path)
    assert stat.stdout.splitlines()[0] == f"path:     10028/data/{ODD_SHOWN}"
    error = run("cat", path + "x")
    assert error.stderr.splitlines() == [f"Error: 10028/data/{ODD_SHOWN}x: No such file or directory"]
    outside = run("cat", "http://evil/\x1b[2J\n")
    assert "\x1b" not in outside.stderr


def test_bytes_of_an_odd_file_are_not_escaped(server: ScriptedServer) -> None:
    """`cat` is about bytes."""
    assert run("cat", os.fsdecode(ODD)).stdout_bytes == b"escape"


ANY_TEXT = st.text(st.characters(codec=None, categories=["L", "N", "P", "S", "Z", "C"]), max_size=30)


@given(ANY_TEXT)
def test_printable_leaves_nothing_that_is_not(text: str) -> None:
    """Whatever goes in: no control, no surrogate, no mark of direction comes out, and it can be written."""
    shown = printable(text)
    assert not [one for one in shown if unicodedata.category(one) in {"Cc", "Cs", "Zl", "Zp"}]
    assert not [one for one in shown if unicodedata.bidirectional(one) in {"LRE", "RLE", "LRO", "RLO", "PDF"}]
    assert not [one for one in shown if unicodedata.bidirectional(one) in {"LRI", "RLI", "FSI", "PDI"}]
    shown.encode()


@given(ANY_TEXT, ANY_TEXT)
def test_printable_tells_names_apart(one: str, other: str) -> None:
    """Two names are shown alike only if they are the same."""
    assert (printable(one) == printable(other)) == (one == other)


@given(st.text(st.characters(categories=["L", "N"]), max_size=30))
def test_printable_leaves_plain_text_as_it_is(text: str) -> None:
    """Letters and digits of every script are not touched."""
    assert printable(text) == text


PAGE = "https://www.ebi.ac.uk/empiar/EMPIAR-10028/"


def test_the_web_page_of_an_entry_is_a_path(server: ScriptedServer) -> None:
    """`ls`, `stat` and `cat` take the address that stands in the browser for the entry."""
    assert run("ls", PAGE).stdout.splitlines() == ["10028.xml", "data/", "closed/"]
    assert run("stat", PAGE).stdout.splitlines()[0] == "path:     10028"
    assert run("cat", PAGE).stderr == "Error: 10028: Is a directory\n"


@pytest.mark.usefixtures("sample")
def test_the_embedded_archive_is_listed_measured_and_read() -> None:
    """With --sample every command works without a network."""
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
    """One line and status 1, as for the real one."""
    result = run("ls", "--sample", "10002")
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1


def program(*words: str) -> list[str]:
    """Return the command that starts empiarfs as a process of its own."""
    return [sys.executable, "-W", "error", "-m", "empiarfs", *words]


def test_cat_into_a_closed_pipe_is_quiet(server: ScriptedServer) -> None:
    """`empiarfs cat ... | head -c 5` says nothing and ends, as cat does."""
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
    """The same for names."""
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
    """As a shell sees it: bytes on standard output, nothing on standard error, 0; or one line, and 1."""
    good = subprocess.run(program("cat", "10028/10028.xml"), capture_output=True, check=False, timeout=60)
    assert (good.stdout, good.stderr, good.returncode) == (b"<entry/>\n", b"", 0)
    bad = subprocess.run(program("cat", "10028/none"), capture_output=True, check=False, timeout=60)
    assert (bad.stdout, bad.returncode) == (b"", 1)
    assert bad.stderr == b"Error: 10028/none: No such file or directory\n"
