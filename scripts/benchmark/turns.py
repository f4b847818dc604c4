"""One group of jobs, done once with one program over one line; every wait in it ends."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark import tools
from benchmark.figures import Figure
from benchmark.jobs import ALL, MB, THERE, Job
from benchmark.served import DATA, Served, Way

START_SECONDS = 5.0  # for Python to start
STUCK_SECONDS = 5.0  # for a process that was killed; one that hangs in a mount may only go when that does
SETTLE_SECONDS = 0.3  # for what was asked ahead to be counted with the job that caused it


Process = subprocess.Popen[bytes]


@dataclass(frozen=True, slots=True)
class Case:
    """The program, the network, and the turn."""

    tool: tools.Tool
    profile: str
    turn: int


def figures(case: Case, group: Sequence[Job], served: Served, folder: Path, limit: float) -> Iterator[Figure]:
    """Do the jobs of `group` with a fresh cache; yield a figure for each.

    Args:
        case: by whom, over which line, in which turn.
        group: jobs that share a cache.
        served: the servers.
        folder: where caches are made.
        limit: seconds for one job.
    """
    cache = Path(tempfile.mkdtemp(dir=folder))
    left = list(group)
    failed = ""
    try:
        # the same requests get no answer for all tools, and others in each turn
        with served.way(case.profile, seed=ALL.index(group[0]) + len(ALL) * case.turn) as way:
            for mounts in _between_remounts(group):
                for figure in _mounted(case, mounts, way, cache, limit):
                    left.pop(0)
                    failed = figure.failed
                    yield figure
                if failed:
                    break
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    for job in left:
        yield Figure(case.tool.name, case.profile, job.name, failed=f"not tried: {failed}")


def _between_remounts(group: Sequence[Job]) -> list[list[Job]]:
    """Return the jobs of each mount."""
    starts = [number for number, job in enumerate(group) if job.remount or not number]
    return [list(group[start:stop]) for start, stop in itertools.pairwise([*starts, len(group)])]


def _mounted(case: Case, jobs: Sequence[Job], way: Way, cache: Path, limit: float) -> Iterator[Figure]:
    """Mount once, and do `jobs`; the first that fails is the last."""
    ftp_url = "" if jobs[0].no_ftp else way.ftp_url
    try:
        with tools.mounted(case.tool, way.url, ftp_url, cache) as (point, process):
            _, _, failed = _done(THERE, point / DATA, limit)
            for job in jobs:
                figure = Figure(case.tool.name, case.profile, job.name, failed=failed)
                if not failed:
                    figure = _measured(figure, job, way, point, process, limit)
                if figure.failed:
                    process.kill()  # who hangs would not end by himself
                    yield figure
                    return
                yield figure
    except tools.NotMounted as error:
        yield Figure(case.tool.name, case.profile, jobs[0].name, failed=str(error))


def _measured(figure: Figure, job: Job, way: Way, point: Path, process: Process, limit: float) -> Figure:
    """Do `job`, and complete its figure."""
    if job.drop:
        os.sync()  # dirty pages cannot be dropped
        Path("/proc/sys/vm/drop_caches").write_text("1")
    tools.forget_peak(process.pid)
    way.counts()
    before, _ = tools.cost(process.pid)
    asked = tools.served_bytes(point)
    seconds, singles, failed = _done(job, point / DATA, limit)
    time.sleep(SETTLE_SECONDS)
    counts = way.counts()
    after, peak = tools.cost(process.pid)
    asked = 0 if failed else tools.served_bytes(point) - asked
    if failed and process.poll() is not None:
        failed = f"the program ended with status {process.returncode}"
    return replace(
        figure,
        seconds=round(seconds, 3),
        worst=round(max(singles, default=0.0), 3),
        requests=counts.requests,
        megabytes=round(counts.sent / MB, 1),
        connections=counts.highest,
        cpu=round(after - before, 2),
        peak_mb=round(peak),
        needed_mb=round(job.needed / MB, 1),
        asked_mb=round(asked / MB, 1),
        failed=failed,
    )


def _done(job: Job, data: Path, limit: float) -> tuple[float, list[float], str]:
    """Do `job`; return its seconds, those of its single reads, and its error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark.jobs", str(ALL.index(job)), data],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True,
        env=os.environ | {"PYTHONPATH": os.fspath(Path(__file__).resolve().parent.parent)},
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=limit + START_SECONDS)
    except subprocess.TimeoutExpired:
        return limit, [], f"not done in {limit:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STUCK_SECONDS)
    if process.returncode:
        return 0.0, [], (err.strip() or "failed").splitlines()[-1]
    seconds, singles = json.loads(out)
    return seconds, singles, ""
