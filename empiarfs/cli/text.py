"""Text from elsewhere, made fit for a terminal and a log."""

import re

_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\\]"
)


def printable(text: str) -> str:
    """Give `text` with everything escaped that could move a cursor, turn the line around, or is no character."""

    def escaped(match: re.Match[str]) -> str:
        code = ord(match[0])
        if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - surrogate escapes of single bytes, PEP 383
            return f"\\x{code - 0xDC00:02x}"
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}.get(match[0]) or (
            f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004 - what \x can write
        )

    return _UNPRINTABLE.sub(escaped, text)
