"""A hostile server under a mount: programs above it do not notice."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH116, PTH118, PTH208

import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from support.mounting import Mounts
from support.scripted import Reply, Request, ScriptedServer, Website

ODD = "new\nline\x1b[2J\u202e\x9b\udcff"
HREFS = (
    b"..", b"../", b".", b"/", b"%2e%2e", b"%2e%2e%2f", b"..%2f..%2f..%2fetc%2fpasswd", b"/etc/passwd",
    b"a%00b", b"a\0b",
    b"file:///etc/passwd", b"javascript:alert(1)", b"data:text/plain,x", b"//evil.invalid/x", b"http://127.0.0.1:1/x",
    b"http://me:pw@127.0.0.1/x", b"n" * 256, b"x/y", b"?x", b"#x", b"", b"&#46;&#46;/",
)  # fmt: skip
MANY = 100_000
MOST_SECONDS = 60.0  # for what takes five
MOST_KIB = 400 * 1024


def page(hrefs: Iterator[bytes]) -> bytes:
    """Return a listing of these links."""
    rows = b"".join(
        b'<tr><td><a href="%s">x</a></td><td>\x1b[2J 0:00</td><td>1.0K</td></tr>\n' % one for one in hrefs
    )
    return b"<title>Index of /</title><h1>Index of /</h1><table>" + rows + b"</table></body></html>"


class Hostile:
    """A server of 10028 with hostile links and one odd file, of 10029 with odd dates, of 10030 with many names."""

    def __init__(self) -> None:
        self._site = Website({b"10028/" + os.fsencode(ODD): bytes(1000), b"10029/x": b"", b"10030/x": b""})

    def __call__(self, request: Request) -> Reply | None:
        """Answer one request."""
        if request.target.endswith("/10028/"):
            return self._page(page(iter([*HREFS, quote(os.fsencode(ODD)).encode()])))
        if request.target.endswith("/10029/"):
            return self._page(page(iter([b"first", b"last", b"large"])).replace(b"1.0K", b"-"))
        if request.target.endswith("/10030/"):
            return self._page(page(b"FoilHole_%07d_Data_6093696_20201107_003042.tiff" % n for n in range(MANY)))
        name = request.target.rpartition("/")[2]
        dates = {"first": "Wed, 01 Jan 1000 00:00:00 GMT", "last": "Fri, 31 Dec 9999 23:59:59 GMT"}
        sizes = {"first": 1024, "last": 1024, "large": 2**63 - 1}
        if name in sizes:
            date = dates.get(name, "Tue, 14 Nov 2023 22:13:20 GMT")
            return Reply("200 OK", {"Content-Length": str(sizes[name]), "Last-Modified": date})
        return self._site(request)

    def _page(self, body: bytes) -> Reply:
        return Reply("200 OK", {"Content-Type": "text/html", "Content-Length": str(len(body))}, body)


@pytest.fixture
def website() -> Hostile:
    """A hostile site."""
    return Hostile()


def walked(root: str) -> list[str]:
    """Return all paths below `root`."""
    found = []
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            os.lstat(path)
            found.append(os.path.relpath(path, root))
    return found


@pytest.mark.promise(
    "A name is a child of the directory that was listed: links that lead upwards (`..`, `%2e%2e`), to another "
    "host, port or scheme, or that hold a slash or a NUL once they are decoded, are ignored."
)
def test_no_name_leaves_the_mount(mount: Mounts, server: ScriptedServer, binding: str) -> None:
    """Links that climb or lead elsewhere are no names, and a name with line ends and escapes is kept."""
    mounted = mount("10028", base_url=server.base_url, binding=binding)
    assert mounted.call(walked, mounted / "10028") == [ODD]
    assert all(request.target.startswith("/empiar/world_availability/10028") for request in server.requests)


@pytest.mark.promise(
    "Names, dates and messages of a server reach a terminal or a log without control characters, one line each."
)
def test_ls_shows_printable_lines(mount: Mounts, server: ScriptedServer) -> None:
    """`ls` shows one printable line a name, of the archive and of a mount."""
    mounted = mount("10028", base_url=server.base_url)
    for place in ("10028", str(mounted / "10028")):
        done = mounted.account.empiarfs("ls", "-l", f"--base-url={server.base_url}", place)
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.decode().splitlines()
        assert line.isprintable()


def times_of(folder: str) -> list[tuple[str, int, int]]:
    """Return name, time and size of each file in `folder`."""
    status = {name: os.stat(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}
    return [(name, int(one.st_mtime), one.st_size) for name, one in status.items()]


def test_dates_and_sizes_at_the_end_of_all_numbers_are_shown(
    mount: Mounts, server: ScriptedServer, binding: str
) -> None:
    """A file of the first or the last year, or of the largest size, is shown."""
    mounted = mount("10029", base_url=server.base_url, binding=binding)
    assert mounted.call(times_of, mounted / "10029") == [
        ("first", -30_610_224_000, 1024),
        ("large", 1_700_000_000, 2**63 - 1),
        ("last", 253_402_300_799, 1024),
    ]
    assert mounted.run("ls", "-l", mounted / "10029").returncode == 0


def listed(folder: str) -> tuple[int, float, float]:
    """List `folder` twice; return the number of names and the seconds of each."""
    begun = time.monotonic()
    found = os.listdir(folder)
    first = time.monotonic() - begun
    os.listdir(folder)
    return len(set(found)), first, time.monotonic() - begun - first


def test_a_hundred_thousand_names_are_listed(mount: Mounts, server: ScriptedServer) -> None:
    """A directory of a hundred thousand names is listed within seconds and in bounded memory."""
    mounted = mount("10030", base_url=server.base_url)
    count, first, again = mounted.call(listed, mounted / "10030")
    assert count == MANY
    assert first + again < MOST_SECONDS
    status = Path(f"/proc/{mounted.daemon()}/status").read_text(encoding="ascii")
    assert int(status.split("VmHWM:")[1].split()[0]) < MOST_KIB
