"""Loads settings from flags or keywords, the environment, and the configuration file, which nothing else reads."""

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from empiarfs.settings import PREFIX, ROWS, BadSetting, Row, Settings

_NO_SETTINGS = ("CONFIG", "FUSE")  # variables that name the configuration file and the FUSE binding
_UNQUOTED = re.compile(r"^\s*\w+\s*=\s*\d[\d.]*\s*[A-Za-z]", re.ASCII | re.MULTILINE)


def _read(name: str, value: object, where: str) -> Any:
    if not isinstance(value, str | int | float | bool):
        raise BadSetting(f"{where}: expected one value")
    try:
        return ROWS[name].parse(str(value))
    except ValueError as error:
        raise BadSetting(f"{where}: {error}") from error


def _from_file(text: str, where: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        advice = '; sizes and times are written in quotes, like "50G"' if _UNQUOTED.search(text) else ""
        raise BadSetting(f"{where}: {error}{advice}") from error
    for name in table:
        if name not in ROWS:
            raise BadSetting(f"{where}: there is no setting {name!r}; there are {', '.join(ROWS)}")
    return {name: _read(name, value, f"{where}: {name}") for name, value in table.items()}


def _check_variables(environ: Mapping[str, str]) -> None:
    """Raise BadSetting for a variable that resembles a setting: a mistyped one would have no effect."""
    known = [*(name.upper() for name in ROWS), *_NO_SETTINGS]
    for variable in environ:
        name = variable.removeprefix(PREFIX)
        meant = difflib.get_close_matches(name, known, 1, 0.8) if name not in {variable, *known} else []
        if meant:
            raise BadSetting(f"{variable}: there is no such setting; {PREFIX}{meant[0]} is one")


def _flag_of(row: Row) -> str:
    return row.flag


def load(
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    file_text: str = "",
    file_name: str = "",
    defaults: Settings | None = None,
    label: Callable[[Row], str] = _flag_of,
) -> Settings:
    """Return the settings; the precedence is flag, `EMPIARFS_*` variable, file, default.

    Args:
        flags: by the names of `Settings`; None if a flag was not given.
        environ: the environment.
        file_text: the content of the configuration file, TOML; empty if there is none.
        file_name: its name, for messages.
        defaults: the defaults; None for those of the program.
        label: returns the name of a setting of `flags` in messages.

    Raises:
        BadSetting: a value is invalid, or a variable is mistyped; the message names the flag, the variable, or the
            line of the file.
    """
    chosen = _from_file(file_text, file_name)
    _check_variables(environ)
    for name, row in ROWS.items():
        if row.variable in environ:
            chosen[name] = _read(name, environ[row.variable], row.variable)
        given = flags.get(name)
        if given is not None:
            chosen[name] = _read(name, given, label(row))
    return dataclasses.replace(defaults or Settings(), **chosen)


def config_file() -> Path:
    """Return the path of the configuration file, which need not exist."""
    named = os.environ.get("EMPIARFS_CONFIG")
    return Path(named) if named else Path(platformdirs.user_config_dir("empiarfs")) / "config.toml"


def load_here(
    given: Mapping[str, str | None], defaults: Settings | None = None, label: Callable[[Row], str] = _flag_of
) -> Settings:
    """Return the settings of this process: those `given`, then its environment, then its file; see `load`.

    Raises:
        BadSetting: a value is invalid, or the file cannot be read.
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
    """Return the settings of this process with those of `keywords`, given in Python.

    Args:
        keywords: by the names of `Settings`, text as in the environment or a value: `"50G"`, `50 * 2**30`, `True`,
            a path. None leaves a setting to the environment, the file and the default.

    Raises:
        BadSetting: a name is not a setting, or a value is invalid; the message names it.
    """
    for name in keywords:
        if name not in ROWS:
            raise BadSetting(_no_setting(name))
    given = {name: None if value is None else _as_text(name, value) for name, value in keywords.items()}
    return load_here(given, label=lambda row: row.name)


def _no_setting(name: str) -> str:
    close = difflib.get_close_matches(name, ROWS, 1, 0.6)
    meant = f"{close[0]} is one" if close else f"there are {', '.join(ROWS)}"
    return f"{name}: there is no such setting; {meant}"


def _as_text(name: str, value: object) -> str:
    match value:
        case os.PathLike():
            return os.fsdecode(value)
        case str() | bool() | int() | float():
            return str(value)
        case _:
            raise BadSetting(f"{name}: {value!r} is not a setting; write text, a number, True or False")
