"""Parses the sizes and dates of an index page from the text behind each link."""

import re
from datetime import datetime
from typing import Final

KIB: Final = 1 << 10
LONGEST_DATE: Final = 64  # characters; no server writes a longer date, and every row stores it
_DATE: Final = re.compile(
    r"(\d{4}-(?:\d\d|[A-Za-z]{3})-\d\d|\d\d?-[A-Za-z]{3}-\d{4})\s+(\d\d:\d\d(?::\d\d)?)", re.ASCII
)
_CLOCK: Final = re.compile(r"\d:\d\d", re.ASCII)  # in a date of any format
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_SIZE: Final = re.compile(r"(\d{1,20})(?:\.(\d))?([KMGTPE]?)", re.ASCII)


def columns(cells: list[str]) -> tuple[str, str]:
    """Return the listed size and date from the texts behind a link, the first of which ends its own cell."""
    # preformatted text has no cells
    texts = [*filter(None, map(str.strip, cells[1:] or re.split(r"\s{2,}|\n", cells[0].strip()))), ""]
    date = texts.pop(0) if _CLOCK.search(texts[0]) else ""
    return texts[0] if _SIZE.fullmatch(texts[0]) else "", date if len(date) <= LONGEST_DATE else ""


def size_range(listed: str) -> range | None:
    """Return the sizes in bytes that a server may write as `listed`; None for a text that is no size.

    These are the sizes within one unit of the last digit shown, either way: Apache and nginx round
    (`apr_strfsize` in apr/strings/apr_strings.c, `ngx_http_autoindex_html`), lighttpd truncates, and its tenths are
    hundreds of 1024 (`http_list_directory_sizefmt` in mod_dirlisting.c). A number without a unit is exact: Apache
    writes one below 973, nginx by default.
    """
    match = _SIZE.fullmatch(listed.strip())
    if not match:
        return None
    whole, tenth, unit = int(match[1]), match[2], match[3]
    if not unit:
        return None if tenth else range(whole, whole + 1)
    scale = KIB ** ("KMGTPE".index(unit) + 1)
    shown, parts = (10 * whole + int(tenth), 10) if tenth else (whole, 1)  # in `parts` of the unit
    return range(max(0, (shown - 1) * scale // parts + 1), -(-(shown + 1) * scale // parts))


def seconds(listed_date: str) -> int | None:
    """Parse a listed date as UTC; return seconds since 1970, None if it has another format.

    The formats are `2025-02-07 19:49`, of older Apaches and of nginx `29-Nov-2005 16:27`, and of lighttpd
    `2005-Nov-29 16:27:30`.
    """
    match = _DATE.fullmatch(listed_date.strip())
    if not match:
        return None
    day, clock = match.groups()
    try:
        first, month, last = day.split("-")
        year, number = (first, last) if len(first) == len("2005") else (last, first)
        if not month.isdecimal():  # not strptime, whose month names depend on the locale
            month = f"{_MONTHS.index(month.lower()) + 1:02}"
        day = f"{year}-{month}-{number:0>2}"
        return int(datetime.fromisoformat(f"{day}T{clock}+00:00").timestamp())
    except ValueError:  # no such month, day or hour
        return None
