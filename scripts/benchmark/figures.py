"""What was measured, kept as JSON, and the tables of it."""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from support.relay import Line

from benchmark.jobs import MB
from benchmark.served import LINES

EXACT_BELOW_SECONDS = 10.0  # such times are shown with two decimals


@dataclass(frozen=True, slots=True)
class Figure:
    """One job, done once.

    Attributes:
        tool, profile, job: the program, the network and the job.
        seconds: how long it took.
        worst: seconds of the worst single read; 0 where it is not made of single reads.
        requests: at the server.
        megabytes: that the server sent, heads of replies included; millions of bytes.
        needed_mb: that the program takes; 0 where that is not compared.
        asked_mb: that the kernel requested; 0 of a program that does not tell.
        connections: the most at once.
        cpu: seconds of the program that mounts.
        peak_mb: its peak memory in the job.
        failed: what went wrong; empty where nothing did.
    """

    tool: str
    profile: str
    job: str
    seconds: float = 0.0
    worst: float = 0.0
    requests: int = 0
    megabytes: float = 0.0
    connections: int = 0
    cpu: float = 0.0
    peak_mb: int = 0
    needed_mb: float = 0.0
    asked_mb: float = 0.0
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of scripts/bench.

    Attributes:
        command: as it was called.
        date: when, as 2026-11-22.
        machine: on what.
        versions: of the programs, by their names.
        figures: all of them, in the order in which they were made.
    """

    command: str
    date: str
    machine: str
    versions: dict[str, str]
    figures: list[Figure] = field(default_factory=list)

    def as_json(self) -> str:
        """Return it on one line."""
        return json.dumps(asdict(self))


def from_json(file: Path) -> Run:
    """Read a run."""
    read = json.loads(file.read_text(encoding="utf-8"))
    return Run(**{**read, "figures": [Figure(**figure) for figure in read["figures"]]})


def tables(figures: Sequence[Figure]) -> Iterator[str]:
    """Yield the lines of a table for each profile: medians, and the span of the seconds."""
    for profile in dict.fromkeys(figure.profile for figure in figures):
        here = [figure for figure in figures if figure.profile == profile]
        yield from ("", f"### {profile}: {described(LINES[profile])}", "")
        yield (
            "| job | tool | seconds | worst read, s | requests | MB needed | MB the kernel asked | MB "
            "| connections | CPU, s | peak MB |"
        )
        yield "|---|---|---|---|---|---|---|---|---|---|---|"
        for job, tool in dict.fromkeys((figure.job, figure.tool) for figure in here):
            same = [figure for figure in here if (figure.job, figure.tool) == (job, tool)]
            worst = _middle(same, lambda figure: figure.worst)
            cells = [
                job,
                tool,
                _seconds(same),
                f"{worst:.2f}" if worst else "",
                f"{_middle(same, lambda figure: figure.requests):.0f}",
                f"{needed:.1f}" if (needed := _middle(same, lambda figure: figure.needed_mb)) else "",
                f"{asked:.1f}" if (asked := _middle(same, lambda figure: figure.asked_mb)) else "",
                f"{_middle(same, lambda figure: figure.megabytes):.1f}",
                f"{_middle(same, lambda figure: figure.connections):.0f}",
                f"{_middle(same, lambda figure: figure.cpu):.2f}",
                f"{_middle(same, lambda figure: figure.peak_mb):.0f}",
            ]
            yield f"| {' | '.join(cells)} |"


def for_readme(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the lines of the table of docs/benchmarks.md: a row for each job and network."""
    figures = [figure for run in runs for figure in run.figures]
    names = list(dict.fromkeys(figure.tool for figure in figures))
    versions = {name: version for run in runs for name, version in run.versions.items()}
    said = dict.fromkeys(version for name in names if (version := versions.get(name, name)))
    calls = ", ".join(dict.fromkeys(f"`{run.command}` on {run.date}" for run in runs))
    yield f"{calls}; {runs[0].machine}; {', '.join(said)}. Seconds (fastest-slowest), with fresh caches; networks:"
    lines = [name for name in LINES if any(figure.profile == name for figure in figures)]
    yield f"{'; '.join(f'{name} {described(LINES[name])}' for name in lines)}."
    yield ""
    columns = [
        *(name for name in names if name != "empiarfs"),
        "empiarfs",
        "requests",
        "MB",
        "connections",
        "worst read",
    ]
    yield f"| job | network | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 2) + "|"
    order = {
        (figure.job, figure.profile): None for profile in LINES for figure in figures if figure.profile == profile
    }
    for job, profile in order:
        by_tool = {
            name: [one for one in figures if (one.tool, one.job, one.profile) == (name, job, profile)]
            for name in names
        }
        ours = by_tool.get("empiarfs", [])
        worst = _middle(ours, lambda figure: figure.worst)
        cells = [
            job,
            profile,
            *(_seconds(by_tool[name]) for name in columns if name in by_tool),
            f"{_middle(ours, lambda figure: figure.requests):.0f}",
            f"{_middle(ours, lambda figure: figure.megabytes):.1f}",
            f"{_middle(ours, lambda figure: figure.connections):.0f}",
            f"{worst:.2f}" if worst else "",
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield "`-` = not measured."


def described(line: Line) -> str:
    """Return the round trip, the rates and the faults of an emulated network, in words."""
    if line == Line():
        return "loopback"
    words = (
        f"{line.round_trip * 1000:.0f} ms, {line.connection_rate / MB:g} MB/s each, {line.total_rate / MB:g} in all"
    )
    return words + (f", {line.silent_share:.0%} silent" if line.silent_share else "")


def _middle(figures: Sequence[Figure], key: Callable[[Figure], float]) -> float:
    return statistics.median(key(figure) for figure in figures) if figures else 0.0


def _seconds(figures: Sequence[Figure]) -> str:
    """Return the median and the span of the seconds, or what went wrong."""
    if not figures:
        return "-"
    failed = [figure.failed for figure in figures if figure.failed]
    if failed:
        return failed[0]
    times = [figure.seconds for figure in figures]
    middle = _short(statistics.median(times))
    return f"{middle} ({_short(min(times))}-{_short(max(times))})" if len(times) > 1 else middle


def _short(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= EXACT_BELOW_SECONDS else f"{seconds:.2f}"
