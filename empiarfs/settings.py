"""Everything a user may choose; one frozen value, read from flags, the environment, a file, or its default."""

import dataclasses
import difflib
import hashlib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from empiarfs.units import GIB, KIB, MIB, byte_count, seconds
from empiarfs.urls import BASE_URL, ftp_address, web_address, without_credentials

SAMPLE = "sample"  # what the cache knows the embedded archive by: its port is another each time

_VARIABLE = "EMPIARFS_"
_NO_SETTINGS = ("CONFIG", "FUSE")  # variables that say where the settings are, and which binding mounts
_UNQUOTED = re.compile(r"^\s*\w+\s*=\s*\d[\d.]*\s*[A-Za-z]", re.ASCII | re.MULTILINE)


class BadSetting(ValueError):
    """A setting that cannot be understood; its text says where it stands and what would do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user may choose.

    Attributes:
        base_url: the directory that holds the numbered entries.
        ftp_url: the same directory on FTP, whose lists tell exact sizes; derived from `base_url` where it is empty.
        no_ftp: whether FTP is left alone.
        cache_dir: where blocks and the index are kept; 0700, shared by all mounts of the user.
        cache_size: the most bytes of blocks on disk; 0 keeps none.
        memory_cache_size: the most bytes of blocks in memory, those on their way to the disk included.
        max_connections: the most connections to the server at once.
        patience: seconds a read waits for a server that does not answer before it fails with EIO.
        offline: whether the network is left alone: the index and the disk cache are all there is.
        ca_bundle: the file of the certificate authorities to trust; None for those the machine trusts.
        listing_ttl: seconds for which a listing is not asked for again.
        block_size: bytes of one block.
        kernel_readahead: KiB that the kernel reads ahead, set by root; 0 leaves the kernel's 128.
        allow_other: whether users other than the one who mounts may read.
        log_file: where a mount in the background writes its log.
        verbose: whether every request is logged.
    """

    base_url: str = BASE_URL
    ftp_url: str = ""
    no_ftp: bool = False
    cache_dir: Path = Path(platformdirs.user_cache_dir("empiarfs"))
    cache_size: int = 20 * GIB  # a day's work with one entry; a home quota still holds it
    memory_cache_size: int = 256 * MIB  # two movies of 128 MiB
    max_connections: int = 10  # EBI refuses above about 16 and bans above 25
    patience: float = 300.0  # RELION and MotionCor3 compute on after a read error: waiting is cheaper
    offline: bool = False
    ca_bundle: Path | None = None
    listing_ttl: float = 86400.0  # entries hardly change once they are public
    block_size: int = 128 * KIB  # what the kernel asks for at once; scripts/bench --blocks
    kernel_readahead: int = 0  # random readers pay for a larger one
    allow_other: bool = False
    log_file: Path | None = None
    verbose: bool = False


def archive_name(base_url: str) -> str:
    """Return what the cache knows the archive at `base_url` by, whoever logs in there."""
    return hashlib.blake2b(without_credentials(base_url).encode(), digest_size=8).hexdigest()


def _flag(text: str) -> bool:
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError(f"{text!r} is neither yes nor no")


def _between(low: int, high: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not re.fullmatch(r"\s*\d+\s*", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return number


def _at_least(low: int) -> Callable[[str], int]:
    def size(text: str) -> int:
        count = byte_count(text)
        if count < low:
            raise ValueError(f"{text!r} is too small; at least {low // MIB}M")
        return count

    return size


def _cache_size(text: str) -> int:
    count = byte_count(text)
    if 0 < count < MIB:  # who forgot the unit; a block would not fit
        raise ValueError(f"{text!r} is too small; at least 1M, or 0 for nothing")
    return count


def _folder(text: str) -> Path:
    if not text.strip():
        raise ValueError("an empty path")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # ~someone who is nobody here
        raise ValueError(f"{text!r}: there is no such user") from error


def _certificates(text: str) -> Path:
    import ssl  # noqa: PLC0415 - a setting that few make; `--help` need not wait for OpenSSL

    file = _folder(text)
    try:
        ssl.create_default_context(cafile=os.fspath(file))
    except ssl.SSLError as error:
        raise ValueError(f"{os.fspath(file)!r} holds no certificates in PEM form ({error.reason})") from error
    except OSError as error:
        raise ValueError(f"{os.fspath(file)!r} cannot be read: {error.strerror}") from error
    return file


def _cache_folder(text: str) -> Path:
    if "$" in text:  # diskcache would put a variable of the environment in its place
        raise ValueError(f"{text!r} has a $ in it; choose a folder without one")
    return _folder(text)


def _block(text: str) -> int:
    size = byte_count(text)
    if not 64 * KIB <= size <= 4 * MIB or size % (4 * KIB):
        raise ValueError(f"{text!r} is not a block size; a multiple of 4K from 64K to 4M")
    return size


READERS: dict[str, Callable[[str], Any]] = {
    "base_url": web_address,
    "ftp_url": ftp_address,
    "no_ftp": _flag,
    "cache_dir": _cache_folder,
    "cache_size": _cache_size,
    "memory_cache_size": _at_least(16 * MIB),
    "max_connections": _between(1, 12),  # 12 is as far as an address may go without risking EBI's ban
    "patience": seconds,
    "offline": _flag,
    "ca_bundle": _certificates,
    "listing_ttl": seconds,
    "block_size": _block,
    "kernel_readahead": _between(0, 16384),
    "allow_other": _flag,
    "log_file": _folder,
    "verbose": _flag,
}


def _read(name: str, value: object, where: str) -> Any:
    if not isinstance(value, str | int | float | bool):
        raise BadSetting(f"{where}: one value is wanted here")
    try:
        return READERS[name](str(value))
    except ValueError as error:
        raise BadSetting(f"{where}: {error}") from error


def _from_file(text: str, where: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        advice = '; sizes and times are written in quotes, like "50G"' if _UNQUOTED.search(text) else ""
        raise BadSetting(f"{where}: {error}{advice}") from error
    for name in table:
        if name not in READERS:
            raise BadSetting(f"{where}: there is no setting {name!r}; there are {', '.join(READERS)}")
    return {name: _read(name, value, f"{where}: {name}") for name, value in table.items()}


def _check_variables(environ: Mapping[str, str]) -> None:
    """Raise BadSetting for a variable that is nearly a setting: who mistypes `EMPIARFS_OFFLINE` is not offline."""
    known = [*(name.upper() for name in READERS), *_NO_SETTINGS]
    for variable in environ:
        name = variable.removeprefix(_VARIABLE)
        meant = difflib.get_close_matches(name, known, 1, 0.8) if name not in {variable, *known} else []
        if meant:
            raise BadSetting(f"{variable}: there is no such setting; {_VARIABLE}{meant[0]} is one")


def _flag_name(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def load(
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    file_text: str = "",
    file_name: str = "",
    defaults: Settings | None = None,
    label: Callable[[str], str] = _flag_name,
) -> Settings:
    """Return the settings: a flag before `EMPIARFS_*`, that before the file, that before the default.

    Args:
        flags: by the names of `Settings`; None where a flag was not given.
        environ: the environment.
        file_text: the content of the configuration file, TOML; empty where there is none.
        file_name: its name, for messages.
        defaults: what stands where nothing was chosen; the program's where it is None.
        label: returns what messages call a setting of `flags`.

    Raises:
        BadSetting: a value makes no sense, or a variable is mistyped; the text names the flag, the variable, or the
            line of the file.
    """
    chosen = _from_file(file_text, file_name)
    _check_variables(environ)
    for name in READERS:
        variable = f"{_VARIABLE}{name.upper()}"
        if variable in environ:
            chosen[name] = _read(name, environ[variable], variable)
        given = flags.get(name)
        if given is not None:
            chosen[name] = _read(name, given, label(name))
    return dataclasses.replace(defaults or Settings(), **chosen)


def config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the configuration file is looked for."""
    named = environ.get("EMPIARFS_CONFIG")
    return Path(named) if named else Path(platformdirs.user_config_dir("empiarfs")) / "config.toml"


def load_here(
    given: Mapping[str, str | None], defaults: Settings | None = None, label: Callable[[str], str] = _flag_name
) -> Settings:
    """Return the settings of this process: what was given before its environment, that before its file; see `load`.

    Raises:
        BadSetting: a value makes no sense, or the file cannot be read.
    """
    file = config_file()
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if os.environ.get("EMPIARFS_CONFIG"):
            raise BadSetting(f"EMPIARFS_CONFIG: there is no file {file}") from error
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{file}: cannot be read: {error}") from error
    return load(given, os.environ, text, str(file), defaults, label)


def from_keywords(keywords: Mapping[str, object]) -> Settings:
    """Return the settings of this process; those in `keywords` are as a program in Python writes them.

    Args:
        keywords: by the names of `Settings`, text as in the environment or a value: `"50G"`, `50 * 2**30`, `True`,
            a path. None leaves a setting to the environment, the file and the default.

    Raises:
        BadSetting: a name is none of the settings', or a value makes no sense; the text names it.
    """
    for name in keywords:
        if name not in READERS:
            raise BadSetting(_no_setting(name))
    given = {name: None if value is None else _as_text(name, value) for name, value in keywords.items()}
    return load_here(given, label=str)


def _no_setting(name: str) -> str:
    close = difflib.get_close_matches(name, READERS, 1, 0.6)
    meant = f"{close[0]} is one" if close else f"there are {', '.join(READERS)}"
    return f"{name}: there is no such setting; {meant}"


def _as_text(name: str, value: object) -> str:
    match value:
        case os.PathLike():
            return os.fsdecode(value)
        case str() | bool() | int() | float():
            return str(value)
        case _:
            raise BadSetting(f"{name}: {value!r} is not a setting; write text, a number, True or False")
