"""What an archive may know of the tree, by SEMANTICS.md alone: the reference that the model compares it with; pure.

For each name there is a set of what may be known of it. It holds one element, but after a kill, which may or may
not have come before something was written down.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from empiarfs.model import join, parent_path
from support.model.server import Begun, Event, Listed, Measured, Missed, Version

DAY = 86_400.0
HOUR = 3600.0
MISSES = 2  # "shown until a second listing lacks it too"


@dataclass(frozen=True, slots=True)
class Name:
    """What is known of one name.

    Attributes:
        stamp: what the listing shows of it; empty where it was found by asking, None for a directory.
        version: as it was measured; None where it was not.
        missed: listings in a row that lacked it.
    """

    stamp: str | None
    version: Version | None = None
    missed: int = 0


May = frozenset[Name | None]
NOTHING: May = frozenset({None})


@dataclass
class Knowledge:
    """What may be known.

    Attributes:
        names: of each path.
        scanned: when each directory was listed; None: perhaps never.
        absent: when each path was said not to be there; None: perhaps never.
    """

    names: dict[str, May] = field(default_factory=dict)
    scanned: dict[str, frozenset[float | None]] = field(default_factory=dict)
    absent: dict[str, frozenset[float | None]] = field(default_factory=dict)

    def copy(self) -> "Knowledge":
        """Return one that changes by itself."""
        return Knowledge(dict(self.names), dict(self.scanned), dict(self.absent))

    def of(self, path: str) -> May:
        """Return what may be known of `path`."""
        return self.names.get(path, NOTHING)

    def is_listed(self, directory: str) -> bool:
        """Return whether `directory` was listed for sure."""
        return None not in self.scanned.get(directory, {None})

    def is_fresh(self, directory: str, now: float) -> bool:
        """Return whether its listing is, for sure, of today."""
        return self.is_listed(directory) and all(now - (when or 0.0) < DAY for when in self.scanned[directory])

    def may_be_absent(self, path: str, now: float) -> bool:
        """Return whether `path` may have been missed within the hour."""
        return any(when is not None and now - when < HOUR for when in self.absent.get(path, ()))

    def is_absent(self, path: str, now: float) -> bool:
        """Return whether `path` was missed within the hour, for sure."""
        return all(when is not None and now - when < HOUR for when in self.absent.get(path, {None}))

    def take(self, event: Event, now: float, *, surely: bool = True) -> None:
        """Take in what the server said; what may or may not have come through leaves both open."""
        match event:
            case Listed(directory, rows):
                known = {path for path in self.names if parent_path(path) == directory}
                for path in known | {join(directory, name) for name in rows}:
                    name = path.removeprefix(f"{directory}/")
                    self._change(path, partial(_listed, rows=rows, name=name), surely=surely)
                self.scanned[directory] = frozenset({now}) | (
                    frozenset() if surely else self.scanned.get(directory, frozenset({None}))
                )
            case Measured(path, version):
                # a length that the listing cannot have rounded is not believed before a new listing
                doubtful = version is not None and any(
                    one is not None and one.stamp and one.stamp != version.stamp for one in self.of(path)
                )
                self._change(path, lambda one: {_measured(one, version)}, surely=surely and not doubtful)
                self.absent[path] = frozenset({None})
            case Begun(path, version):
                self._change(path, lambda one: {_measured(one, version)}, surely=False)
                self.absent[path] = self.absent.get(path, frozenset()) | {None}
            case Missed():
                pass  # of whom it was said to, tells whether it counts

    def take_all(self, events: Sequence[Event], now: float) -> None:
        """Take in what the server said, in this order."""
        for event in events:
            self.take(event, now)

    def add(self, other: "Knowledge") -> None:
        """Record that it may as well be as `other` says."""
        for path, may in other.names.items():
            self.names[path] = self.of(path) | may

    def gone(self, path: str, now: float, *, surely: bool = True) -> None:
        """Record that a caller got NotFound for `path`."""
        self._change(path, lambda _: {None}, surely=surely)
        self.absent[path] = frozenset({now}) | (frozenset() if surely else self.absent.get(path, frozenset({None})))

    def changed(self, path: str, version: Version) -> None:
        """Record that a reader got Stale for `version`."""
        self._change(
            path, lambda one: {replace(one, version=None) if one and one.version == version else one}, surely=True
        )

    def settle(self, path: str, holds: Callable[[Name | None], bool]) -> None:
        """Keep what agrees with what was seen."""
        self.names[path] = frozenset(one for one in self.of(path) if holds(one))

    def _change(self, path: str, new: Callable[[Name | None], set[Name | None]], *, surely: bool) -> None:
        before = self.of(path)
        after = frozenset(result for one in before for result in new(one))
        self.names[path] = after if surely else after | before


def _listed(one: Name | None, rows: dict[str, str | None], name: str) -> set[Name | None]:
    """Return what may be known of `name` after a listing that showed `rows`."""
    if name not in rows:
        if one is None or one.stamp == "":  # found by asking
            return {one}
        return {replace(one, missed=one.missed + 1) if one.missed + 1 < MISSES else None}
    stamp = rows[name]
    if one is None or (stamp is None) != (one.stamp is None):
        return {Name(stamp)}
    if one.stamp in {"", stamp}:
        return {replace(one, stamp=stamp, missed=0)}
    new: set[Name | None] = {Name(stamp)}
    if one.version is not None and one.version.stamp == stamp:  # measured before its listing came, and kept or not
        new.add(Name(stamp, one.version))
    return new


def _measured(one: Name | None, version: Version | None) -> Name:
    if version is None:
        return Name(None)
    return Name("", version) if one is None else replace(one, version=version)
