"""Units of size and time, and parsers for what users write; pure."""

import re
from decimal import Decimal

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

LARGEST = 2**63 - 1  # the largest integer of SQLite and the kernel
LONGEST_SECONDS = 1e9  # 30 years; much longer waits overflow the system's timeouts

_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1024 * GIB}
# ASCII: else digits of other scripts match, and the kelvin sign matches K
_SIZE = re.compile(r"(\d{1,99}(?:\.\d{1,99})?)\s*([KMGT]?)(?:I?B)?", re.ASCII | re.IGNORECASE)
_TIME = re.compile(r"(\d{1,99}(?:\.\d{1,99})?)\s*([smhd]?)", re.ASCII)


def byte_count(text: str) -> int:
    """Parse `"20G"`, `"512 MiB"` or `"4096"` as bytes; K, M, G and T are powers of 1024.

    Raises:
        ValueError: it is not such a size, or too large.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size; write it like 512M or 20G")
    count = int(Decimal(match[1]) * _UNITS[match[2].upper()])
    if count > LARGEST:
        raise ValueError(f"{text!r} is too large")
    return count


def seconds(text: str) -> float:
    """Parse `"300"`, `"5m"`, `"24h"` or `"1d"` as seconds.

    Raises:
        ValueError: it is not such a time, or too long.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a time; write it like 300s, 5m, 24h or 1d")
    count = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    if count > LONGEST_SECONDS:
        raise ValueError(f"{text!r} is too long")
    return count
