"""The rules of reading an index page."""

import html
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from empiarfs.empiar import autoindex
from empiarfs.empiar.autoindex import NotAListing, Row, nodes, rows
from empiarfs.errors import Unavailable
from empiarfs.model import Directory, Stub

HERE = "https://ftp.ebi.ac.uk/empiar/world_availability/10002/data/"
DATE = "2025-02-07 19:49"
APACHE_KEEPS = b"$-_.+!*'(),:;=~&@" + b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
ROOT = Path(__file__).parents[2]
CAPTURES = Path(os.environ.get("EMPIARFS_TEST_DATA", ROOT.parent / "shared" / "data")) / "archive"


def href_of(name: bytes, *, is_directory: bool = False) -> str:
    """Escape a name as mod_autoindex does: os_escape_path, then escape_html."""
    path = "".join(chr(byte) if byte in APACHE_KEEPS else f"%{byte:02x}" for byte in name)
    path = f"./{path}" if ":" in path else path
    return html.escape(path, quote=False) + ("/" if is_directory else "")


def ebi_row(href: str, *, text: str = "text", date: str = f"{DATE}  ", size: str = "543M") -> str:
    """Write a row as ftp.ebi.ac.uk does."""
    return (
        f'<tr><td valign="top"><img src="/icons/unknown.gif" alt="[   ]"></td><td><a href="{href}">{text}</a></td>'
        f'<td align="right">{date}</td><td align="right">{size}</td><td>&nbsp;</td></tr>\n'
    )


PARENT = ebi_row("/empiar/world_availability/10002/", text="Parent Directory", date="&nbsp;", size="  - ")


def ebi_head(above: str = "") -> str:
    """Write all that stands above the rows, with `above` as the text of a HEADER file."""
    sort = "".join(f'<th><a href="?C={key};O=A">{key}</a></th>' for key in "NMSD")
    return (
        '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">\n<html>\n <head>\n'
        "  <title>Index of /empiar/x</title>\n </head>\n <body>\n"
        f'<h1>Index of /empiar/x</h1>\n{above}  <table>\n   <tr><th valign="top"><img src="/icons/blank.gif" '
        f'alt="[ICO]"></th>{sort}</tr>\n   <tr><th colspan="5"><hr></th></tr>\n{PARENT}'
    )


def ebi_foot(below: str = "") -> str:
    """Write all that stands below the rows, with `below` as the text of a README file."""
    return f'   <tr><th colspan="5"><hr></th></tr>\n</table>\n{below}</body></html>\n'


def ebi_page(*lines: str, above: str = "", below: str = "") -> bytes:
    """Write a page as ftp.ebi.ac.uk does."""
    return (ebi_head(above) + "".join(lines) + ebi_foot(below)).encode()


def pre_page(*hrefs: str) -> bytes:
    """Write Apache's FancyIndexing without HTMLTable."""
    icon = '<img src="/icons/unknown.gif" alt="[   ]">'
    lines = [f'{icon} <a href="{href}">n</a>      {DATE}  1.2G  A 7 of 9\n' for href in hrefs]
    return (
        "<html><head><title>Index of /x</title></head><body><h1>Index of /x</h1>\n"
        f'<pre>{icon} <a href="?C=N;O=D">Name</a>  <a href="?C=S;O=A">Size</a><hr>'
        f'{icon} <a href="/empiar/world_availability/10002/">Parent Directory</a>                   -   \n'
        f"{''.join(lines)}<hr></pre>\n</body></html>\n"
    ).encode()


def ul_page(*hrefs: str) -> bytes:
    """Write Apache's plain list."""
    items = "".join(f'<li><a href="{href}"> n</a>\n</li>\n' for href in hrefs)
    return (
        "<html><head><title>Index of /x</title></head><body><h1>Index of /x</h1>\n"
        f'<ul><li><a href="/empiar/world_availability/10002/"> Parent Directory</a></li>\n'
        f"{items}</ul>\n</body></html>"
    ).encode()


def nginx_page(*hrefs: str) -> bytes:
    """Write a page as nginx does."""
    columns = "            29-Nov-2005 16:27             1288490189\r\n"
    lines = [f'<a href="{href}">n</a>{columns}' for href in hrefs]
    return (
        "<html>\r\n<head><title>Index of /x/</title></head>\r\n<body>\r\n<h1>Index of /x/</h1><hr>"
        f'<pre><a href="../">../</a>\r\n{"".join(lines)}</pre><hr></body>\r\n</html>\r\n'
    ).encode()


def table_page(*hrefs: str) -> bytes:
    """Write a page as ftp.ebi.ac.uk does, a row for each href."""
    return ebi_page(*(ebi_row(href) for href in hrefs))


WRITERS = pytest.mark.parametrize("write", [table_page, pre_page, ul_page, nginx_page])


def names(page: bytes, url: str = HERE) -> list[str]:
    """Return the names on a page."""
    return [row.name for row in rows([page], url)]


def names_of(*hrefs: str, url: str = HERE) -> list[str]:
    """Return the names on a page with these hrefs."""
    return names(table_page(*hrefs), url)


@WRITERS
def test_every_kind_of_index_gives_its_names_and_kinds(write: Callable[..., bytes]) -> None:
    """Apache's table, preformatted text and list, and nginx's page, yield names and types in order."""
    found = rows([write("b.mrc", "a.mrc/", "c%20d")], HERE)
    assert [(row.name, row.is_directory) for row in found] == [("b.mrc", False), ("a.mrc", True), ("c d", False)]


@pytest.mark.parametrize(
    ("page", "size", "date"),
    [
        (table_page("x"), "543M", DATE),
        (pre_page("x"), "1.2G", DATE),
        (nginx_page("x"), "1288490189", "29-Nov-2005 16:27"),
        (ul_page("x"), "", ""),
        (ebi_page(ebi_row("x", size="650 ")), "650", DATE),
        (ebi_page(ebi_row("x", size=" 17K")), "17K", DATE),
        (ebi_page(ebi_row("x", size="  - ")), "", DATE),
        (ebi_page(ebi_row("x", date="&nbsp;")), "543M", ""),
        (ebi_page(ebi_row("x", size="12 angry men")), "", DATE),
        (ebi_page(ebi_row("x", date="7 Feb 2025, 19:49")), "543M", "7 Feb 2025, 19:49"),
        (ebi_page(ebi_row("x").replace("&nbsp;", "A 7 of 9</td><td>more")), "543M", DATE),
    ],
)
def test_size_and_date_are_as_written(page: bytes, size: str, date: str) -> None:
    """Size and date are what the page writes, stripped, and empty where it writes none."""
    assert rows([page], HERE) == [Row(name="x", is_directory=False, listed_size=size, listed_date=date)]


def test_suppressed_columns_do_not_shift_the_others() -> None:
    """Without the column of dates (SuppressLastModified) the size is still found."""
    line = '<tr><td></td><td><a href="x">x</a></td><td>543M</td><td>1998-01-01 00:00</td></tr>'
    assert rows([ebi_page(line)], HERE) == [Row(name="x", is_directory=False, listed_size="543M", listed_date="")]


@pytest.mark.parametrize(
    "line",
    [
        '<TR class="odd"><TD><A class="n" title="t" HREF=x >t</A></TD><TD>2025-02-07 19:49</TD><TD>543M</TD></TR>',
        "<tr><td/><td class='indexcolname'><a href='x' id=1>t</a><td>\n 2025-02-07 19:49\n<td><b>543M</b> <br />",
        '<tr><td><a href="x"><img src="i.gif" /></a></td><td><a href="x">t</a></td><td>2025-02-07 19:49<td>543M',
    ],
)
def test_any_spelling_of_a_row_is_understood(line: str) -> None:
    """Case, quotes, attributes, cells that are never closed, and linked icons make no difference."""
    assert rows([ebi_page(line)], HERE) == [Row(name="x", is_directory=False, listed_size="543M", listed_date=DATE)]


def test_a_name_is_read_from_the_href() -> None:
    """The text of a link, which may be cut, is not the name."""
    assert names(ebi_page(ebi_row("a_long_name.mrc", text="a_lon..&gt;"))) == ["a_long_name.mrc"]


@pytest.mark.parametrize(
    ("href", "name"),
    [
        ("a%2525", "a%25"),
        ("a&amp;b", "a&b"),
        ("a%26amp;b", "a&amp;b"),
        ("./a:b", "a:b"),
        ("12:30.tif", "12:30.tif"),
        ("a%5cb", "a\\b"),
        ("a\\b", "a\\b"),
        ("a%0ab", "a\nb"),
        ("a%3fb%23c", "a?b#c"),
        ("a%20b;", "a b;"),
        ("100%", "100%"),
        (".hidden", ".hidden"),
        ("caf%c3%a9", "café"),
        ("%ff", "\udcff"),
        ("&#x4e2d;", "中"),
        ("../data/x", "x"),
        ("/empiar/world%5favailability/10002/data/x", "x"),
        ("//FTP.ebi.ac.uk/empiar/world_availability/10002/data/x", "x"),
        ("HTTP://ftp.ebi.ac.uk:80/empiar/world_availability/10002/data/x", "x"),
        (" x\n", "x"),
        ("n" * 255, "n" * 255),
        ("%6e" * 255, "n" * 255),
    ],
)
def test_a_link_to_a_child_gives_its_name(href: str, name: str) -> None:
    """A link to a direct child yields its name, decoded once, in whatever form it is written."""
    assert names_of(href) == [name]


@pytest.mark.parametrize(
    "href",
    [
        "",
        "?C=N;O=D",
        "?C=N&amp;O=D",
        "x?C=N",
        "#top",
        "x#top",
        ".",
        "..",
        "./",
        "../",
        "/",
        "%2e%2e",
        "%2e%2E/",
        "%2e",
        "%2e%2e/data/x",
        "../x",
        "x/../../y",
        "x/y",
        "x/y/",
        "x%2fy",
        "x%2Fy",
        "%2fx",
        "x%00",
        "a:b",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "mailto:a",
        "data:text/plain,x",
        "http:x",
        "ftp://ftp.ebi.ac.uk/empiar/world_availability/10002/data/x",
        "https://example.org/empiar/world_availability/10002/data/x",
        "//example.org/empiar/world_availability/10002/data/x",
        "https://ftp.ebi.ac.uk:8080/empiar/world_availability/10002/data/x",
        "https://a@ftp.ebi.ac.uk/empiar/world_availability/10002/data/x",
        "https://[/x",
        "/empiar/world_availability/10002/data2/x",
        "/empiar/world_availability/10002%2fdata/x",
        "n" * 256,
        "%6e" * 256,
        "%c3%a9" * 128,
    ],
)
def test_a_link_to_anything_else_is_dropped(href: str) -> None:
    """A link to anything but a direct child on this host, with a valid name, is ignored."""
    assert names_of(href, "kept") == ["kept"]


def test_the_port_and_case_of_the_pages_own_host_make_no_difference() -> None:
    """The page's own URL may name the default port and write its host in capitals."""
    here = "http://FTP.ebi.ac.uk:80/empiar/"
    assert names_of("https://ftp.ebi.ac.uk/empiar/x", "//ftp.ebi.ac.uk/y", url=here) == ["x"]


def test_a_name_that_stands_twice_is_kept_twice() -> None:
    """A repeated name yields two rows, unless the first is the row of a linked icon."""
    first, second = ebi_row("x", size="1.0K"), ebi_row("x", size="2.0K")
    assert [row.listed_size for row in rows([ebi_page(first, second)], HERE)] == ["1.0K", "2.0K"]
    assert [row.is_directory for row in rows([ul_page("x/", "x")], HERE)] == [True, False]


def test_a_raw_nul_gives_no_name() -> None:
    """A link with a NUL yields no name; an older libxml2 ends there, and the page is no listing."""
    try:
        assert names_of("x\0y", "kept") == ["kept"]
    except NotAListing:
        assert names_of("kept") == ["kept"]


@pytest.mark.parametrize("href", ["x", "./x", "%78", "/x", "../x", "https://h/x"])
def test_a_page_at_the_root_has_children_too(href: str) -> None:
    """The root of a server is read as any other directory."""
    assert names_of(href, "/", url="https://h/") == ["x"]


def test_the_page_may_lie_in_an_escaped_directory() -> None:
    """An absolute link is compared with the page's own URL after decoding both."""
    assert names_of("/a%20%5bb%5D/x", "/a%20b/y", url="http://h/a%20[b]/") == ["x"]


def test_raw_bytes_in_an_href_are_the_name() -> None:
    """Bytes that are not escaped are decoded as UTF-8 with surrogate escapes."""
    raw = b"\xc3\xa9\x80\x99\xff"
    page = ebi_page(ebi_row("HREF")).replace(b"HREF", raw).replace(b"<head>", b"<head><meta charset=utf-16>")
    assert [os.fsencode(name) for name in names(page)] == [raw]


def test_text_around_the_listing_adds_nothing() -> None:
    """Links in the text around the listing and in descriptions yield no names, unless they name children."""
    text = '<p><a href="elsewhere">x</a> <a href="https://example.org/y">y</a></p><pre>read <i>me</i></pre>'
    described = ebi_row("a").replace("<td>&nbsp;", '<td>see <a href="https://example.org/b">b</a>')
    assert names(ebi_page(described, ebi_row("c"), above=text, below=text)) == ["a", "c"]


@WRITERS
def test_an_empty_directory_is_an_empty_list(write: Callable[..., bytes]) -> None:
    """A page with the parent alone yields no rows."""
    assert rows([write()], HERE) == []


@WRITERS
def test_a_truncated_page_is_refused(write: Callable[..., bytes]) -> None:
    """A page that is cut before its container ends is no listing; after it, it yields all rows or is none."""
    page = write("a", "b%20c/", "d&amp;e")
    whole = rows([page], HERE)
    end = max(page.rfind(tag) for tag in (b"</table>", b"</pre>", b"</ul>"))
    for length in range(len(page)):
        try:
            found = rows([page[:length]], HERE)
        except NotAListing:
            continue
        assert length > end, f"believed when cut to {length} bytes"
        assert found == whole


def test_a_page_cut_after_its_header_text_is_refused() -> None:
    """A closed list or table in the text above does not stand for the listing."""
    above = "<table><tr><td>Read me</td></tr></table><pre>text</pre>\n"
    page = ebi_page(ebi_row("a"), above=above)
    with pytest.raises(NotAListing, match="cut"):
        rows([page[: page.index(above.encode()) + len(above)]], HERE)


def test_the_end_of_a_page_in_a_header_text_is_not_the_end_of_the_listing() -> None:
    """The end of a page within a header text is not the end of the listing."""
    page = ebi_page(ebi_row("a"), above="<ul></ul></body></html>")
    with pytest.raises(NotAListing, match="cut"):
        rows([page[: page.rindex(b"<tr>")]], HERE)


@pytest.mark.parametrize("inside", [b"<!-- ", b'<a href="', b"<td "])
def test_a_page_cut_inside_a_tag_is_refused(inside: bytes) -> None:
    """A page that ends within a tag or comment is truncated, even if everything before it was closed."""
    with pytest.raises(NotAListing, match="cut"):
        rows([table_page("a") + inside], HERE)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"\n",
        b'{"EMPIAR-10002": {}}',
        b"\x00\xff\x1f\x8b" * 1000,
        b"<html><title>503 Service Unavailable</title><body><table></table></body></html>",
        b"<html><title>Reindex of</title><body><ul><li><a href='a'>a</a></ul></body></html>",
        b"<html><title>Index of /x</title><body><p>Forbidden</p></body></html>",
    ],
)
def test_a_page_that_is_no_index_is_refused(page: bytes) -> None:
    """An error page, an empty reply, JSON or binary is no listing, and the error is one line."""
    with pytest.raises(NotAListing, match=r"\A[^\n]+\Z"):
        rows([page], HERE)


@pytest.mark.parametrize("tag", ["title", "h1"])
def test_title_or_heading_marks_an_index(tag: str) -> None:
    """An index is recognised by its title or by its first heading, in any case and spacing."""
    assert names(f"<{tag} class=x>\n INDEX &#111;f /x</{tag}><ul><li><a href=a>a</a></ul></body>".encode()) == ["a"]


def test_links_above_the_heading_do_not_hide_it() -> None:
    """A heading behind a trail of links, in a table too, is found."""
    trail = "<table><tr><td><a href='/'>home</a><a href='b'>b</a></td></tr><tr><td><h1>Index of /x</h1></table>"
    assert names(f"{trail}<ul><li><a href=a>a</a></ul></body>".encode()) == ["b", "a"]


@given(page=st.binary(max_size=300), cut=st.integers(min_value=0, max_value=600))
@example(page=b"\xff\xfe<\x00t\x00", cut=0)
@example(page=b"<a href='http://[", cut=400)
def test_any_bytes_give_rows_or_are_refused(page: bytes, cut: int) -> None:
    """Any bytes, alone or within an index page, yield valid rows or raise NotAListing."""
    index = table_page("a")
    for pieces in ([page], [index[:cut], page, index[cut:]], [b'<table><a href="', page, b'">']):
        try:
            found = rows(pieces, HERE)
        except NotAListing:
            continue
        assert all(row.name and "/" not in row.name for row in found)


TAGS = "<table> </table> <tr> </tr> <td> </td> <pre> </pre> <ul> </ul> <li> </a> <title> </title> </body> <script>"
MARKUP = st.sampled_from([*TAGS.split(), "<!--", "-->", '<a href="a">', "Index of", "&nbsp;", "1.0K", DATE, "\n"])


@given(soup=st.lists(MARKUP, max_size=40), depth=st.integers(min_value=1, max_value=20))
def test_any_soup_of_tags_gives_rows_or_is_refused(soup: list[str], depth: int) -> None:
    """Tags in any order and nesting yield linked names alone or raise NotAListing."""
    try:
        found = rows([f"<title>Index of</title>{''.join(soup) * depth}</table></pre></ul></body>".encode()], HERE)
    except NotAListing:
        return
    assert {row.name for row in found} <= {"a"}


NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & {*name} and name not in {b".", b".."})


@given(tree=st.dictionaries(NAMES, st.booleans(), max_size=8), cut=st.integers(min_value=1, max_value=999))
@example(tree={b"a:b": True, b"%2f": False, b"&lt;": False, b"?": True, b"...": False, b" ": True}, cut=7)
def test_names_come_back_as_apache_escaped_them(tree: dict[bytes, bool], cut: int) -> None:
    """Any names that a file system can hold are returned exactly, however the page is split."""
    page = table_page(*(href_of(name, is_directory=kind) for name, kind in tree.items()))
    found = rows([page[at : at + cut] for at in range(0, len(page), cut)], HERE)
    assert [(os.fsencode(row.name), row.is_directory) for row in found] == list(tree.items())


def test_entries_are_stubs_and_directories_under_their_directory() -> None:
    """A file becomes a stub with its listed fields, a directory has its date in seconds, and paths are full."""
    found = [Row("a", is_directory=False, listed_size="543M", listed_date=DATE), Row("b", True, "", DATE)]
    assert nodes(found, "10002/data") == [
        Stub("10002/data/a", listed_size="543M", listed_date=DATE),
        Directory("10002/data/b", modified=1_738_957_740),
    ]
    assert nodes(found[:1], "") == [Stub("a", listed_size="543M", listed_date=DATE)]


def test_entries_hold_a_name_once() -> None:
    """The first row of a repeated name counts."""
    twice = [Row("a", False, "1.0K", ""), Row("b", False, "", ""), Row("a", False, "2.0K", "")]
    assert nodes(twice, "") == [Stub("a", listed_size="1.0K"), Stub("b")]


@pytest.mark.parametrize("order", [1, -1])
def test_a_directory_wins_over_a_file_of_its_name(order: int) -> None:
    """A name that is listed as a file and as a directory is a directory."""
    both = [Row("a", False, "1.0K", ""), Row("a", True, "", DATE)][::order]
    assert nodes(both, "") == [Directory("a", modified=1_738_957_740)]


def test_a_failure_of_the_pieces_comes_through() -> None:
    """An error while the page is read is raised unchanged."""

    def broken() -> Iterator[bytes]:
        yield ebi_head().encode()
        raise Unavailable("10002/data", "silent for 12 s")

    with pytest.raises(Unavailable, match="silent for 12 s"):
        rows(broken(), HERE)


def endless(page: bytes, opening: bytes) -> Iterator[bytes]:
    """Yield `opening`, then `page` over and over, and fail if that is read for long."""
    yield opening
    yield from repeat(page, 600)
    pytest.fail("read on and on")


@pytest.mark.promise(
    "A listing of a million names is read, in some tens of seconds; a longer one, one of more than 512 MiB, "
    "and one that is mostly something else is `EIO`, and no empty directory."
)
@pytest.mark.parametrize(
    ("opening", "page"),
    [
        (b"", b"\xff" * 65536),
        (b"", b"<p>news</p>" * 6000),
        (ebi_head().encode(), b"<div>" * 12000),
        (ebi_head().encode(), b"x" * 65536),
        (ebi_head().encode() + b"<!--", b"x" * 65536),
        (ebi_head().encode() + b"<a ", b"x=1 " * 16384),
        (ebi_head().encode() + b'<a href="', b"x" * 65536),
    ],
    ids=["binary", "another page", "nesting", "text", "comment", "attributes", "href"],
)
def test_a_page_without_end_is_given_up_early(opening: bytes, page: bytes) -> None:
    """Deep nesting, and a tag or text of over a MiB, end the reading of an endless page."""
    with pytest.raises(NotAListing):
        rows(endless(page, opening), HERE)


def test_a_page_with_too_long_a_link_is_refused() -> None:
    """A link longer than any path of Linux makes the page no listing."""
    with pytest.raises(NotAListing, match="20000 characters"):
        rows([table_page("x" * 20_000)], HERE)


@pytest.mark.promise(
    "A listing of a million names is read, in some tens of seconds; a longer one, one of more than 512 MiB, "
    "and one that is mostly something else is `EIO`, and no empty directory."
)
@pytest.mark.parametrize(("limit", "value"), [("MOST_ROWS", 9), ("MOST_BYTES", 1000)])
def test_a_page_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    """Reading ends above the largest number of rows and of bytes."""
    page = table_page(*map(str, range(100)))
    assert len(names(page)) == 100
    monkeypatch.setattr(autoindex, limit, value)
    with pytest.raises(NotAListing, match="too large"):
        rows([page[at : at + 500] for at in range(0, len(page), 500)], HERE)


@pytest.mark.promise(
    "A listing of a million names is read, in some tens of seconds; a longer one, one of more than 512 MiB, "
    "and one that is mostly something else is `EIO`, and no empty directory."
)
def test_the_limits_are_those_of_the_documents() -> None:
    """The limits are a million rows and half a GiB."""
    assert (autoindex.MOST_ROWS, autoindex.MOST_BYTES) == (1_000_000, 1 << 29)


def test_a_hundred_thousand_rows_are_all_there() -> None:
    """A page of 100,000 rows yields all of them, though pieces end within rows."""
    page = table_page(
        *(f"FoilHole_{number:06d}_Data_6093696_20201107_003042_gain.tiff" for number in range(100_000))
    )
    found = rows([page[at : at + 65_521] for at in range(0, len(page), 65_521)], HERE)
    assert len(found) == 100_000
    assert [found[number].name[9:15] for number in (0, 54_321, 99_999)] == ["000000", "054321", "099999"]


MEASURED = """
from pathlib import Path
from test_autoindex import HERE, ebi_foot, ebi_head, ebi_row
from empiarfs.empiar.autoindex import rows

def peak():  # not getrusage, which counts what the parent held before this program was started
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

def pieces():
    yield ebi_head().encode()
    for _ in range(100):
        yield ebi_row("?" + "x" * 40, text="x" * 40).encode() * 300
    yield ebi_foot().encode()

rows([ebi_head().encode() + ebi_foot().encode()], HERE)
before = peak()
assert rows(pieces(), HERE) == []
print(peak() - before)
"""


def test_the_page_is_not_held_in_memory() -> None:
    """Reading a page of 8 MB takes at most 2 MB of memory besides its rows."""
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", MEASURED],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=True,
        text=True,
    )
    assert int(done.stdout) < 2048


def test_no_text_is_held_in_memory() -> None:
    """Long text behind a link or in a heading takes little memory."""

    def wordy(opening: str) -> Iterator[bytes]:
        yield f"{ebi_head()}{opening}".encode()
        for _ in range(400):
            yield b"x" * 50_000 + b"<b></b>"

    for opening in (ebi_row("x").removesuffix("</td></tr>\n"), "<h1>"):
        tracemalloc.start()
        with pytest.raises(NotAListing, match="cut"):
            rows(wordy(opening), HERE)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="no captured pages beside the repository")
@pytest.mark.parametrize(
    ("capture", "url", "count", "some"),
    [
        (
            "autoindex_ebi_shape_gwas_top.html",
            "https://ftp.ebi.ac.uk/pub/databases/gwas/summary_statistics/X/GCST90000001/",
            5,
            Row("harmonised", True, "", "2025-02-07 19:49"),
        ),
        (
            "autoindex_ebi_shape_gwas_harmonised.html",
            "http://ftp.ebi.ac.uk/pub/databases/gwas/summary_statistics/X/GCST90000001/harmonised/",
            5,
            Row("md5sum.txt", False, "384", "2025-02-07 19:49"),
        ),
        (
            "autoindex_rclone_apache.html",
            "https://example.org/user/pub/",
            None,
            Row("Now 100% better.mp3", False, "0", "2017-08-01 11:41"),
        ),
        (
            "autoindex_rclone_nginx.html",
            "https://example.org/atomic/fedora/",
            6,
            Row("summary", False, "806", "04-May-2017 21:36"),
        ),
    ],
)
def test_pages_of_real_servers_are_understood(capture: str, url: str, count: int | None, some: Row) -> None:
    """Captured pages of real servers yield all rows but the parent."""
    page = (CAPTURES / capture).read_bytes()
    found = rows([page], url)
    assert some in found
    assert len(found) == (count or page.count(b"<td><a href=") - 1)
