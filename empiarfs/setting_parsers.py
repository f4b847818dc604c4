"""Parsers of the text that users write for a setting; each raises ValueError with a message for a person."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from empiarfs.units import KIB, MIB, byte_count


def yes_or_no(text: str) -> bool:
    """Parse `"yes"`, `"on"`, `"1"`, `"no"` and the like; empty text is no.

    Raises:
        ValueError: it is neither.
    """
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError(f"{text!r} is neither yes nor no")


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`."""

    def number(text: str) -> int:
        if not re.fullmatch(r"\s*\d+\s*", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return number


def size_from(low: int) -> Callable[[str], int]:
    """Return a parser of sizes of at least `low` bytes."""

    def size(text: str) -> int:
        count = byte_count(text)
        if count < low:
            raise ValueError(f"{text!r} is too small; at least {low // MIB}M")
        return count

    return size


def cache_size(text: str) -> int:
    """Parse a size of 1 MiB or more, or 0.

    Raises:
        ValueError: it is neither; a smaller one most likely lacks its unit, and would hold no block.
    """
    count = byte_count(text)
    if 0 < count < MIB:
        raise ValueError(f"{text!r} is too small; at least 1M, or 0 for nothing")
    return count


def block_size(text: str) -> int:
    """Parse the size of a block.

    Raises:
        ValueError: it is not a multiple of 4 KiB from 64 KiB to 4 MiB.
    """
    size = byte_count(text)
    if not 64 * KIB <= size <= 4 * MIB or size % (4 * KIB):
        raise ValueError(f"{text!r} is not a block size; a multiple of 4K from 64K to 4M")
    return size


def path(text: str) -> Path:
    """Parse a path, and make it absolute: a daemon changes its directory.

    Raises:
        ValueError: it is empty, or in the home directory of an unknown user.
    """
    if not text.strip():
        raise ValueError("an empty path")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{text!r}: there is no such user") from error


def cache_folder(text: str) -> Path:
    """Parse the path of a folder for diskcache.

    Raises:
        ValueError: as `path`; or it contains a `$`, which diskcache would expand as an environment variable.
    """
    if "$" in text:
        raise ValueError(f"{text!r} has a $ in it; choose a folder without one")
    return path(text)


def certificates(text: str) -> Path:
    """Parse the path of a file of certificates, and check the file before anything starts.

    Raises:
        ValueError: as `path`; or it cannot be read, or holds no certificates in PEM form.
    """
    import ssl  # noqa: PLC0415 - a rare setting; `--help` need not load OpenSSL

    file = path(text)
    try:
        ssl.create_default_context(cafile=os.fspath(file))
    except ssl.SSLError as error:
        raise ValueError(f"{os.fspath(file)!r} holds no certificates in PEM form ({error.reason})") from error
    except OSError as error:
        raise ValueError(f"{os.fspath(file)!r} cannot be read: {error.strerror}") from error
    return file
