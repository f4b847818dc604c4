"""The figures of scripts/bench: stored whole, and shown as they are."""

import json
from pathlib import Path

from benchmark.figures import Figure, Run, for_readme, from_json, tables
from benchmark.jobs import JOBS, groups


def figure(tool: str, seconds: float, *, job: str = "`ls`", failed: str = "") -> Figure:
    """Return a figure."""
    return Figure(
        tool,
        "near",
        job,
        seconds=seconds,
        worst=0.25,
        requests=7,
        megabytes=1.5,
        needed_mb=4.0,
        asked_mb=6.5,
        failed=failed,
    )


def run(*figures: Figure) -> Run:
    """Return a run with `figures`."""
    return Run("scripts/bench --quick", "2026-11-22", "2 cores", {"rclone": "rclone v1.75.2"}, list(figures))


def test_a_run_is_read_as_it_was_kept(tmp_path: Path) -> None:
    """A run is equal after a round trip through one line of JSON."""
    file = tmp_path / "run.json"
    made = run(figure("rclone", 1.0), figure("empiarfs", 0.5, failed="no"))
    file.write_text(made.as_json())
    assert len(made.as_json().splitlines()) == 1
    assert json.loads(made.as_json())["figures"][0]["seconds"] == 1.0
    assert from_json(file) == made


def test_a_table_shows_medians_and_their_span() -> None:
    """A table shows the median of three turns with the fastest and the slowest."""
    lines = list(tables([figure("empiarfs", seconds) for seconds in (3.0, 1.0, 11.0)]))
    assert "20 ms" in lines[1]
    assert lines[-1] == "| `ls` | empiarfs | 3.00 (1.00-11.0) | 0.25 | 7 | 4.0 | 6.5 | 1.5 | 0 | 0.00 | 0 |"


def test_the_published_table_has_a_column_for_each_program() -> None:
    """The table has a column for each program, a reason for a failed job, and a dash for one not tried."""
    first = run(figure("empiarfs", 0.5), figure("rclone", 9.0, failed="not done in 9 s"))
    second = run(figure("empiarfs", 2.0, job="`cp`"))
    lines = list(for_readme([first, second]))
    assert "`scripts/bench --quick` on 2026-11-22; 2 cores; " in lines[0]
    assert "rclone v1.75.2" in lines[0]
    assert lines[1].startswith("near 20 ms")
    assert lines[3:] == [
        "| job | network | rclone | empiarfs | requests | MB | connections | worst read |",
        "|---|---|---|---|---|---|---|---|",
        "| `ls` | near | not done in 9 s | 0.50 | 7 | 1.5 | 0 | 0.25 |",
        "| `cp` | near | - | 2.00 | 7 | 1.5 | 0 | 0.25 |",
        "",
        "`-` = not measured.",
    ]


def test_jobs_that_go_on_with_a_cache_stay_together() -> None:
    """Each group begins with an independent job, followed by those that use its cache."""
    found = groups(JOBS)
    assert [job for group in found for job in group] == list(JOBS)
    assert all(not group[0].after and all(job.after for job in group[1:]) for group in found)
