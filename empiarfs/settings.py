"""The settings: one row each, with its default, its parser and its texts."""

# ruff: noqa: RUF009 - what a row returns is a field, made for each setting
import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from empiarfs.setting_parsers import (
    block_size,
    cache_folder,
    cache_size,
    certificates,
    path,
    size_from,
    whole_number,
    yes_or_no,
)
from empiarfs.units import GIB, KIB, MIB, seconds
from empiarfs.urls import BASE_URL, ftp_address, web_address, without_credentials

SAMPLE = "sample"  # the name of the built-in archive in the cache: its port differs each time
PROMPT_PATIENCE = 30.0  # seconds; a person at a prompt can repeat a command, the programs behind a mount cannot

PREFIX = "EMPIARFS_"  # of the environment variables

T = TypeVar("T")


class BadSetting(ValueError):
    """A setting is invalid; the message names its source and what is valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The description of one setting; see `Settings`.

    Attributes:
        name: its name in Python and in the configuration file.
        parse: parses the text that a user writes; raises ValueError.
        summary: a sentence for `--help`.
        note: a description for the table in the documentation.
        takes: the commands with a flag for it: "archive" for all that open one, "mount" for that only, "" for none.
        metavar: the name of the flag's value; empty for a switch.
        short: a short name of the flag.
        otherwise: what applies if nothing is set, in addition to the default or in its place.
    """

    name: str = ""
    parse: Callable[[str], Any]
    summary: str
    note: str
    takes: str = "archive"
    metavar: str = ""
    short: str = ""
    otherwise: str = ""

    @property
    def variable(self) -> str:
        """The name of the environment variable."""
        return PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The flag of the command line, if there is one."""
        return f"--{self.name.replace('_', '-')}"


def _row(default: T, parse: Callable[[str], T], summary: str, note: str, **more: str) -> T:
    """Return the field of a setting; see `Row`."""
    row = Row(parse=parse, summary=summary, note=note, **more)
    return dataclasses.field(default=default, metadata={"row": row})


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings; sizes in bytes, times in seconds.

    Each row defines a setting completely: its default, its parser, and its texts for the help and the table in the
    documentation. Flags, environment variables and names in the file are derived from it.
    """

    base_url: str = _row(
        BASE_URL,
        web_address,
        "The directory that holds the numbered entries.",
        "the directory that holds the entries",
        metavar="URL",
    )
    ftp_url: str = _row(
        "",
        ftp_address,
        "The same directory on FTP, for exact sizes in bulk.",
        "the same directory on FTP, where one list gives the exact sizes of a directory; derived if the host name "
        "begins with `ftp.`",
        metavar="URL",
        otherwise="derived if the host name begins with ftp.",
    )
    no_ftp: bool = _row(False, yes_or_no, "Do not use FTP for sizes.", "do not use FTP; data never come over FTP")
    cache_dir: Path = _row(
        Path(platformdirs.user_cache_dir("empiarfs")),
        cache_folder,
        "Folder of cached blocks and listings.",
        "blocks and listings, shared by all your mounts",
        metavar="DIR",
    )
    cache_size: int = _row(  # a day's work with one entry, and still within most quotas of a home directory
        20 * GIB,
        cache_size,
        "Maximum disk cache (LRU); 0 disables it.",
        "maximum disk cache (LRU); 0 disables it",
        metavar="SIZE",
    )
    memory_cache_size: int = _row(  # two movies of 128 MiB, with the write queue
        256 * MIB,
        size_from(16 * MIB),
        "Maximum memory for cached blocks.",
        "maximum memory for cached blocks",
        metavar="SIZE",
    )
    max_connections: int = _row(  # EBI refuses above about 16; 12 is as far as an address may go without risk
        10,
        whole_number(1, 12),
        "Maximum number of connections at once, 1 to 12.",
        "at once, at most 12: EBI bans an address above 25",
        metavar="N",
    )
    patience: float = _row(  # RELION and MotionCor3 compute on after a read error: waiting is cheaper
        300.0,
        seconds,
        "How long to keep retrying an unresponsive server.",
        "how long to keep retrying an unresponsive server, before a read fails with EIO (names: 30 s, until the "
        "server has answered once); `ls`, `stat`, `cat` and `cache verify`: 30 s",
        metavar="TIME",
        otherwise=f"at a prompt {PROMPT_PATIENCE:.0f}s",
    )
    offline: bool = _row(
        False,
        yes_or_no,
        "Use no network; serve only what is cached.",
        "no network at all: what is cached is served, the rest fails with EHOSTUNREACH at once",
    )
    ca_bundle: Path | None = _row(
        None,
        certificates,
        "Certificate authorities to trust, a PEM file.",
        "the certificate authorities to trust, a PEM file; takes precedence over `REQUESTS_CA_BUNDLE`",
        metavar="FILE",
        otherwise="certifi's",
    )
    listing_ttl: float = _row(  # entries hardly change once they are public
        86400.0,
        seconds,
        "How long a listing is used before it is requested again.",
        "how long a listing is used before it is requested again",
        takes="",
    )
    block_size: int = _row(  # the largest request of the kernel; scripts/bench --blocks
        128 * KIB,
        block_size,
        "Bytes of a cached block.",
        "bytes of a cached block",
        takes="",
    )
    kernel_readahead: int = _row(  # random readers pay for a larger one
        0,
        whole_number(0, 16384),
        "Kernel readahead in KiB; needs root.",
        "KiB, for root: faster sequential reads on a fast network, slower random access to mapped files",
        takes="mount",
        metavar="KIB",
        otherwise="the kernel's own 128",
    )
    allow_other: bool = _row(
        False,
        yes_or_no,
        "Let other users read; needs user_allow_other in /etc/fuse.conf.",
        "let other users read (cryoSPARC's account, batch jobs); keep [updatedb](running.md#running-empiarfs) out",
        takes="mount",
    )
    log_file: Path | None = _row(
        None,
        path,
        "Log file of a mount in the background.",
        "the log of a mount in the background",
        takes="mount",
        metavar="FILE",
        otherwise="in ~/.local/state/empiarfs/log",
    )
    verbose: bool = _row(False, yes_or_no, "Log every request.", "log every request", short="-v")


ROWS: dict[str, Row] = {
    field.name: dataclasses.replace(field.metadata["row"], name=field.name)
    for field in dataclasses.fields(Settings)
}


def archive_name(base_url: str) -> str:
    """Return the name of the archive at `base_url` in the cache, which does not depend on the login."""
    return hashlib.blake2b(without_credentials(base_url).encode(), digest_size=8).hexdigest()
