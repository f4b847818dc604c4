"""The forms in which a user may write a path of the archive."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empiarfs.paths import archive_path, entry_number, entry_of

BASE = "https://host/base"
PAGES = [
    "https://www.ebi.ac.uk/empiar/EMPIAR-10028/",
    "https://www.ebi.ac.uk/empiar/EMPIAR-10028",
    "http://www.ebi.ac.uk/empiar/EMPIAR-10028/",
    "HTTPS://WWW.EBI.AC.UK/empiar/empiar-10028//",
    "https://ebi.ac.uk/empiar/EMPIAR-10028/",
    "https://www.ebi.ac.uk/empiar/EMPIAR-10028/?from=search#images",
    "https://www.ebi.ac.uk/empiar/entry/10028/",
    "https://www.ebi.ac.uk/pdbe/emdb/empiar/entry/10028/",
    "https://www.ebi.ac.uk/pdbe/emdb/empiar/entry/10028",
    "https://doi.org/10.6019/EMPIAR-10028",
    "http://dx.doi.org/10.6019/empiar-10028",
]
NO_PAGES = [
    "https://www.ebi.ac.uk/empiar/",
    "https://www.ebi.ac.uk/empiar/EMPIAR-/",
    "https://www.ebi.ac.uk/empiar/EMPIAR-10028x/",
    "https://www.ebi.ac.uk/empiar/EMPIAR-10028/data",
    "https://www.ebi.ac.uk/emdb/EMD-2660",
    "https://www.ebi.ac.uk.example.org/empiar/EMPIAR-10028/",
    "https://example.org/www.ebi.ac.uk/empiar/EMPIAR-10028/",
    "https://example.org/?www.ebi.ac.uk/empiar/EMPIAR-10028/",
    "https://wwwxebi.ac.uk/empiar/EMPIAR-10028/",
    "https://www.ebi.ac.uk:8443/empiar/EMPIAR-10028/",
    "https://doi.org/10.6019/10028",
    "https://doi.org/10.1038/nmeth.3806",
    "ftp://www.ebi.ac.uk/empiar/EMPIAR-10028/",
    "https://www.ebi.ac.uk/empiar/EMPIAR-\uff11\uff10/",
]


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("EMPIAR-10028", "10028"),
        ("empiar-10028", "10028"),
        ("EmPiAr-1", "1"),
        ("10028", None),
        ("EMPIAR-", None),
        ("EMPIAR-10028x", None),
        ("EMPIAR-\uff11\uff10", None),
        ("EMP\u0131AR-10028", None),
        ("xEMPIAR-10028", None),
        ("EMPIAR10028", None),
        ("EMPIAR-10028\n", None),
    ],
)
def test_an_accession_stands_for_its_number(name: str, entry: str | None) -> None:
    """An accession in any case of letters names its entry, and nothing else does."""
    assert entry_of(name) == entry


@pytest.mark.parametrize("page", PAGES)
def test_the_web_page_of_an_entry_is_the_entry(page: str) -> None:
    """The address of an entry's page, an older one, and the DOI name the entry."""
    assert archive_path(page, BASE) == "10028"
    assert entry_number(page, BASE) == "10028"


@pytest.mark.parametrize("text", NO_PAGES)
def test_another_web_page_is_no_entry(text: str) -> None:
    """A web page that is not an entry's page is refused."""
    with pytest.raises(ValueError, match="write it like"):
        archive_path(text, BASE)


def test_what_is_below_the_base_url_is_a_path_also_where_it_looks_like_a_page() -> None:
    """An address below the base URL is a path, even if it looks like a page of EMPIAR."""
    assert archive_path("https://www.ebi.ac.uk/empiar/entry/7/x", "https://www.ebi.ac.uk/empiar") == "entry/7/x"


@pytest.mark.parametrize(
    "text",
    ["10028/a b@c.mrc", "EMPIAR-10028//./a b@c.mrc/", "empiar://10028/a b@c.mrc", f"{BASE}/10028/a%20b%40c.mrc"],
)
def test_a_name_may_have_an_at_sign(text: str) -> None:
    """An @ separates credentials in a web address only."""
    assert archive_path(text, BASE) == "10028/a b@c.mrc"


@pytest.mark.parametrize("base", [BASE, "https://me:secret@host/base"])
@pytest.mark.parametrize("text", [f"{BASE}/10028", "https://you:secret@host/base/10028"])
def test_a_user_name_in_an_address_does_not_matter(text: str, base: str) -> None:
    """Credentials do not change whether an address is below the base URL."""
    assert archive_path(text, base) == "10028"


@pytest.mark.parametrize(
    "text",
    [
        "https://me:secret@elsewhere/10028", "https://me:secret@host/base/..", "https://me:secret@[/",
        "s3://me:secret@bucket/10028",
    ],
)  # fmt: skip
def test_no_message_shows_a_password(text: str) -> None:
    """No error shows a password of the URL or of the base URL."""
    with pytest.raises(ValueError, match=r"URL|write") as error:
        archive_path(text, "https://me:secret@host/base")
    assert "secret" not in str(error.value)


@given(
    st.binary(min_size=1, max_size=30).filter(lambda name: not set(name) & {0, 47} and name not in {b".", b".."})
)
def test_a_url_of_any_name_is_that_name(name: bytes) -> None:
    """A name of any bytes is decoded from a URL exactly."""
    url = f"{BASE}/10028/" + "".join(f"%{byte:02x}" for byte in name)
    assert archive_path(url, BASE) == "10028/" + os.fsdecode(name)


@pytest.mark.promise("A path that is typed or passed to the archive must not contain `..` either.")
@pytest.mark.parametrize("text", ["..", "10028/..", "https://host/base/%2e%2e", "https://host/bas"])
def test_climbing_out_is_an_error(text: str) -> None:
    """A path with `..` is refused in whatever form it is written."""
    with pytest.raises(ValueError, match="write"):
        archive_path(text, BASE)


@pytest.mark.parametrize(
    ("text", "number"),
    [("10028", "10028"), ("EMPIAR-10028", "10028"), ("empiar-7", "7"), ("empiar://7", "7"), (f"{BASE}/7/", "7")],
)
def test_an_entry_is_written_as_its_path(text: str, number: str) -> None:
    """A number, an accession or an address gives the number of the entry."""
    assert entry_number(text, BASE) == number


@pytest.mark.parametrize(
    "text", ["", "abc", "10028/data", "..", "\u00b2", "\uff11", "EMPIAR-", "-5", f"{BASE}/7/x", "https://x/7"]
)
def test_anything_else_is_no_entry(text: str) -> None:
    """A text that names no entry is refused, and the error says how to write one."""
    with pytest.raises(ValueError, match=r"write (it like 10028|the path out)"):
        entry_number(text, BASE)
