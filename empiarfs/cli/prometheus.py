"""The statistics of mounts in the text format of Prometheus, version 0.0.4."""

from collections.abc import Sequence
from dataclasses import fields

from empiarfs.counters import Counters
from empiarfs.mount.probe import ProbeResult

_OF_THE_MOUNT = (
    ("served_bytes", "counter", "Bytes returned to the kernel."),
    ("reads", "counter", "Reads of the kernel that were answered."),
    ("open_files", "gauge", "Files that programs have open."),
    ("names_waiting", "gauge", "Lookups, opens and listings that programs wait for."),
    ("reads_waiting", "gauge", "Reads that programs wait for."),
)
_OF_THE_ARCHIVE = tuple(
    (one.name, str(one.metadata["kind"]), str(one.metadata["says"])) for one in fields(Counters) if one.metadata
)


def exposition(results: Sequence[ProbeResult]) -> str:
    """Return all statistics of all mounts, labelled by mount point; `empiarfs_up` is 0 for one that is down."""
    answered = [(one.mountpoint, one.status) for one in results if one.status is not None]
    answers = [(labels(mountpoint=one.mountpoint), int(one.status is not None)) for one in results]
    abouts = [
        (labels(mountpoint=point, version=of.version, binding=of.binding, base_url=of.counters.base_url), 1)
        for point, of in answered
    ]
    since = [(labels(mountpoint=point), of.since) for point, of in answered]
    lines = [
        *_family("up", "gauge", "Whether the mount answers.", answers),
        *_family("info", "gauge", "What is mounted, and by what.", abouts),
        *_family("start_time_seconds", "gauge", "When it was mounted, in seconds since 1970.", since),
    ]
    for name, kind, says in _OF_THE_MOUNT:
        lines += _family(
            name, kind, says, [(labels(mountpoint=point), getattr(of, name)) for point, of in answered]
        )
    for name, kind, says in _OF_THE_ARCHIVE:
        values = [(labels(mountpoint=point), getattr(of.counters, name)) for point, of in answered]
        lines += _family(name, kind, says, values)
    return "".join(f"{line}\n" for line in lines)


def _family(name: str, kind: str, says: str, values: Sequence[tuple[str, float]]) -> list[str]:
    """Return the lines of one statistic; none if no mount has it."""
    full = f"empiarfs_{name}{'_total' if kind == 'counter' else ''}"
    lines = [f"{full}{{{label}}} {value}" for label, value in values]
    return [f"# HELP {full} {says}", f"# TYPE {full} {kind}", *lines] if lines else []


def labels(**values: str) -> str:
    """Return `values` as labels, escaped."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items())


def _escaped(value: str) -> str:
    """Return the value of a label. The format is UTF-8: other bytes of a name are escaped."""
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
