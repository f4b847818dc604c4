"""Parses the sizes and dates of an index page from the text behind each link."""

import re
from datetime import datetime
from typing import Final

KIB: Final = 1 << 10
LONGEST_DATE: Final = 64  # characters; no server writes a longer date, and every row stores it
_DATE: Final = re.compile(r"(\d{4}-\d\d-\d\d|\d\d?-[A-Za-z]{3}-\d{4})\s+(\d\d:\d\d(?::\d\d)?)", re.ASCII)
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
    """Return the sizes in bytes that Apache writes as `listed`; None for a text that it never writes.

    This inverts `apr_strfsize` (apr/strings/apr_strings.c), which divides by 1024, dropping the remainder, until
    fewer than 973 are left, then rounds by the last remainder alone, to tenths below 9 + 973/1024, else to a whole
    number. A number without a unit is exact: Apache writes one below 973, nginx always.
    """
    match = _SIZE.fullmatch(listed.strip())
    if not match:
        return None
    whole, tenth, unit = int(match[1]), match[2], match[3]
    if not unit:
        return None if tenth else range(whole, whole + 1)
    # in 1/1024 of the unit, the value that Apache rounds
    if tenth:
        tenths = 10 * whole + int(tenth)
        first, last = max(-((256 - 512 * tenths) // 5), 973), min((512 * tenths + 255) // 5, 9 * KIB + 972)
    else:
        first, last = max(KIB * whole - 512, 9 * KIB + 973), min(KIB * whole + 511, 973 * KIB - 1)
    scale = KIB ** "KMGTPE".index(unit)
    return range(first * scale, (last + 1) * scale) if first <= last else None


def seconds(listed_date: str) -> int | None:
    """Parse a listed date as UTC; return seconds since 1970, None if it has neither format.

    The formats are `2025-02-07 19:49` and, of older Apaches and of nginx, `29-Nov-2005 16:27`.
    """
    match = _DATE.fullmatch(listed_date.strip())
    if not match:
        return None
    day, clock = match.groups()
    try:
        if not day[:4].isdecimal():
            number, month, year = day.split("-")
            # not strptime, whose month names depend on the locale
            day = f"{year}-{_MONTHS.index(month.lower()) + 1:02}-{number:0>2}"
        return int(datetime.fromisoformat(f"{day}T{clock}+00:00").timestamp())
    except ValueError:  # no such month, day or hour
        return None
