"""Text for people: strings made safe for a terminal and a log, sizes, counts, times."""

import re
import time

from empiarfs.errors import ArchiveError
from empiarfs.units import GIB, KIB, MIB

_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\\]"
)


def printable(text: str) -> str:
    """Return `text` with everything escaped that could move a cursor, reverse the line, or is not a character."""

    def escaped(match: re.Match[str]) -> str:
        code = ord(match[0])
        if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - surrogate escapes of single bytes, PEP 383
            return f"\\x{code - 0xDC00:02x}"
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}.get(match[0]) or (
            f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - what \x can write
        )

    return _UNPRINTABLE.sub(escaped, text)


def size(count: float) -> str:
    """Return `count` bytes in the largest unit that they fill, like 1.2 GiB."""
    for unit, name in ((1024 * GIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} B"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return `count` and its noun: 1 file, 2,000 files; `plural` where it is not `noun` with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def short_size(count: int) -> str:
    """Return `count` bytes as the server's listings and `ls -h` write them, like 1.2G; at most 4 characters."""
    value, unit = float(count), ""
    for unit in ("", "K", "M", "G", "T", "P"):  # noqa: B007 - the last one is used
        if value < 1000:  # noqa: PLR2004 - three digits fit
            break
        value /= 1024
    return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{value:.0f}{unit}"  # noqa: PLR2004 - 10 has two digits


def reason(error: OSError) -> str:
    """Return the message of `error` in one line."""
    if isinstance(error, ArchiveError):
        return printable(str(error))
    where = f"{error.filename}: " if error.filename else ""
    return printable(f"{where}{error.strerror or error}")


def local_time(seconds: float) -> str:
    """Return the time `seconds` since 1970 in the local time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
