"""The rules of reading listed sizes and dates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empiarfs.empiar.autoindex_fields import seconds, size_range


def apache_size(size: int) -> str:
    """Write `size` as apr_strfsize does."""
    if size < 973:
        return f"{size:3d} "
    for unit in "KMGTPE":
        size, remain = divmod(size, 1024)
        if size >= 973:
            continue
        if size < 9 or (size == 9 and remain < 973):
            tenth = (remain * 5 + 256) // 512
            return f"{size + 1}.0{unit}" if tenth >= 10 else f"{size}.{tenth}{unit}"
        return f"{size + (remain >= 512):3d}{unit}"
    raise AssertionError(size)


@pytest.mark.parametrize(
    ("size", "listed"),
    [(67_109_888, "64M"), (65_481_294, "62M"), (30_228_000, "29M"), (1 << 30, "1.0G"), (569_560_224, "543M")],
)
def test_sizes_of_the_archive_lie_in_the_range_of_their_text(size: int, listed: str) -> None:
    """Known sizes of the archive lie within the range of their listed text."""
    found = size_range(listed)
    assert apache_size(size).strip() == listed
    assert found is not None
    assert size in found
    assert len(found) < 0.21 * size


@given(
    st.integers(min_value=0, max_value=63).flatmap(lambda bits: st.integers(min_value=0, max_value=(1 << bits) - 1))
)
def test_a_size_lies_in_the_range_of_its_text(size: int) -> None:
    """The range of a text that Apache writes holds the size it is written for."""
    found = size_range(apache_size(size))
    assert found is not None
    assert found.start <= size < found.stop


@pytest.mark.parametrize("listed", ["", "-", "  - ", "1.2", "5X", "K", "1.2.3K", "1.25K", "-1"])
def test_a_text_that_is_no_size_has_no_range(listed: str) -> None:
    """A text that is no size has no range."""
    assert size_range(listed) is None


@pytest.mark.parametrize("number", [0, 650, 1_288_490_189])
def test_a_number_without_a_unit_is_exact(number: int) -> None:
    """A number without a unit is that many bytes."""
    assert size_range(f" {number} ") == range(number, number + 1)


@pytest.mark.parametrize(
    ("listed", "moment"),
    [
        ("2025-02-07 19:49", 1_738_957_740),
        ("07-Feb-2025 19:49", 1_738_957_740),
        (" 2025-02-07 19:49:30  ", 1_738_957_770),
        ("29-Nov-2005 16:27", 1_133_281_620),
        ("2024-02-29 00:00", 1_709_164_800),
    ],
)
def test_a_listed_date_is_taken_as_utc(listed: str, moment: int) -> None:
    """Both forms of a date become seconds since 1970 in UTC."""
    assert seconds(listed) == moment


@pytest.mark.parametrize(
    "listed",
    [
        "",
        "-",
        "yesterday",
        "2025-02-30 10:00",
        "2025-13-01 10:00",
        "2025-02-07 24:61",
        "01-Foo-2025 10:00",
        "2025-02-07",
        "0000-01-01 00:00",
        "2025-02-07T19:49",
        "٢٠٢٥-02-07 19:49",
    ],
)
def test_a_date_that_is_not_understood_is_none(listed: str) -> None:
    """A text that is no valid date becomes None."""
    assert seconds(listed) is None
