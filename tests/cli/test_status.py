"""`empiarfs status`, as people, programs and Prometheus read it; and the value behind it."""

import json
import logging
import re
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import run

from empiarfs.cli import prometheus
from empiarfs.cli import status as command
from empiarfs.cli.text import size
from empiarfs.counters import Counters
from empiarfs.mount import mount_table, probe
from empiarfs.mount.probe import ProbeResult
from empiarfs.mount.status import (
    MAX_WARNINGS,
    MOST_ENTRIES,
    NAME,
    LoggedWarning,
    MountStats,
    RecentWarnings,
    Status,
    as_text,
    flat,
    from_text,
)
from empiarfs.units import GIB, MIB
from empiarfs.urls import without_credentials

COUNTERS = Counters(
    base_url="https://ftp.ebi.ac.uk/empiar/world_availability",
    blocks_read=98304,
    blocks_from_memory=90000,
    blocks_from_disk=200,
    blocks_fetched=600,
    fetched_bytes=3 * GIB // 2,
    requests=1310,
    retries=12,
    hedged_requests=3,
    stalls=9,
    dropped_writes=4,
    corrupt_blocks=1,
    connections_busy=7,
    connections_open=8,
    connections_peak=10,
    connections_allowed=5,
    connections_limit=10,
    memory_bytes=200 * MIB,
    memory_limit_bytes=256 * MIB,
    disk_bytes=3 * GIB,
    disk_limit_bytes=20 * GIB,
    readers_waiting=2,
    blocks_in_flight=64,
    background_queue_length=31,
    write_queue_bytes=17 * MIB,
    first_byte_seconds=0.021,
    slow_first_byte_seconds=0.045,
    connection_bytes_per_second=40 * MIB,
)
STATUS = Status(
    mountpoint="/home/me/empiar",
    version="0.1.0",
    binding="mfusepy on libfuse 3",
    pid=4711,
    since=1_795_000_000.0,
    now=1_795_011_520.0,
    entries=("10934", "10028"),
    open_files=3,
    reads=98304,
    served_bytes=12 * GIB,
    names_waiting=5,
    reads_waiting=21,
    warnings=tuple(
        LoggedWarning(1_795_000_000.0 + n, f"10028/data/{n}.mrc: the server went silent") for n in range(8)
    ),
    counters=COUNTERS,
)
# a line of Prometheus's text: a comment, or a name, labels in which \ " and line ends are escaped, and a number
LINE = re.compile(
    r"# HELP [a-z_]+ [^\n]+|# TYPE [a-z_]+ (?:counter|gauge)|"
    r'([a-z_]+)\{[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\[\\"n])*")*\} [0-9.e+-]+'
)


def rows(text: str) -> dict[str, str]:
    """Return the text beside each label of a table."""
    found: dict[str, str] = {}
    label = ""
    for line in text.splitlines()[1:]:
        label = line[: command.LABEL].strip() or label
        found[label] = f"{found.get(label, '')} {line[command.LABEL :]}".strip()
    return found


def test_the_table_shows_all_of_a_mount() -> None:
    """The table shows each number of a mount in words, with units, under its mount point."""
    text = command.table(ProbeResult("/home/me/empiar", STATUS))
    assert text.splitlines()[0] == "/home/me/empiar"
    told = rows(text)
    assert told.pop("mounted").endswith(", 3 h 12 min ago; process 4711")
    assert told.pop("warnings").count("the server went silent") == command.WARNINGS_SHOWN
    assert told == {
        "version": "0.1.0, mfusepy on libfuse 3",
        "archive": "https://ftp.ebi.ac.uk/empiar/world_availability",
        "entries": "10934 10028",
        "read": "12.0 GiB in 98,304 reads; 3 open files",
        "fetched": "1.5 GiB in 1,310 requests 12 retries, 3 hedged, 9 timeouts",
        "blocks": "91.6 % of 98,304 read were in memory 25.0 % of 800 loaded into memory came from disk "
        "75.0 % came from the network",
        "connections": "7 in use, 10 at most so far, 8 open 5 of 10 allowed now",
        "server": "first byte after 0.021 s (median), 0.045 s (95 %) 40.0 MiB/s over a connection",
        "memory": "200.0 MiB of 256.0 MiB",
        "disk": "3.0 GiB of 20.0 GiB 4 blocks not written in time, 1 found damaged",
        "waiting": "programs wait for 5 names and 21 reads 2 requests for a connection "
        "64 blocks in flight, 31 tasks queued 17.0 MiB to be written to disk",
    }


def test_the_table_ends_with_the_newest_warning() -> None:
    """The table ends with the newest warning."""
    assert command.table(ProbeResult("/mnt", STATUS)).endswith("10028/data/7.mrc: the server went silent")


@given(
    numbers=st.fixed_dictionaries({one.name: st.integers(0, 10**15) for one in fields(Counters) if one.metadata}),
    text=st.text(max_size=200),
)
def test_a_table_is_80_columns_wide(numbers: dict[str, Any], text: str) -> None:
    """The table is 80 columns wide for any numbers, except for long names, and contains no control character."""
    of = replace(STATUS, warnings=(LoggedWarning(0.0, text),), counters=replace(COUNTERS, **numbers))
    lines = command.table(ProbeResult("/mnt", of)).splitlines()
    assert not any(re.search(r"[\x00-\x1f\x7f-\x9f]", line) for line in lines)
    assert all(len(line) <= 80 or len(line.split()) <= 3 for line in lines)


def test_a_mount_that_did_nothing_yet_has_a_table() -> None:
    """The table of a new mount says that there are no entries, warnings, reads or answers yet."""
    told = rows(command.table(ProbeResult("/mnt", Status(mountpoint="/mnt"))))
    assert told["entries"] == "none opened yet"
    assert told["warnings"] == "none"
    assert "none of 0" in told["blocks"]
    assert "has not answered yet" in told["server"]


def test_a_mount_without_status_is_shown_with_the_reason() -> None:
    """A mount without status is one line with the reason, its name escaped."""
    text = command.table(ProbeResult("/mnt/\x1b[31mred", None, "is dead: its process ended"))
    assert text == "/mnt/\\x1b[31mred is dead: its process ended"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (MIB, "1.0 MiB"),
        (5 * GIB // 2, "2.5 GiB"),
        (2**41, "2.0 TiB"),
    ],
)
def test_sizes_are_short(count: int, text: str) -> None:
    """A size is shown in the largest unit that it fills."""
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3600, "1 h 0 min"), (90061, "1 d 1 h")],
)
def test_times_are_short(seconds: float, text: str) -> None:
    """A duration is shown in the two largest units that it fills."""
    assert command.duration(seconds) == text


def test_prometheus_gets_every_number() -> None:
    """Every number is exposed with its help and type, counters end in `_total`, and all digits are kept."""
    text = prometheus.exposition([ProbeResult("/mnt", replace(STATUS, served_bytes=12345678901234567))])
    lines = text.splitlines()
    assert text.endswith("\n")
    assert all(LINE.fullmatch(line) for line in lines), lines
    assert 'empiarfs_served_bytes_total{mountpoint="/mnt"} 12345678901234567' in lines
    assert 'empiarfs_first_byte_seconds{mountpoint="/mnt"} 0.021' in lines
    for one in fields(Counters):
        if one.metadata:
            name = f"empiarfs_{one.name}" + ("_total" if one.metadata["kind"] == "counter" else "")
            assert f"# HELP {name} {one.metadata['says']}" in lines
            assert f"# TYPE {name} {one.metadata['kind']}" in lines
            assert f'{name}{{mountpoint="/mnt"}} {getattr(COUNTERS, one.name)}' in lines


def test_prometheus_gets_each_number_of_all_mounts_together() -> None:
    """The samples of one metric are contiguous over all mounts, and a dead mount has only `empiarfs_up 0`."""
    text = prometheus.exposition(
        [ProbeResult("/a", STATUS), ProbeResult("/b", None, "is dead"), ProbeResult("/c", STATUS)]
    )
    assert text.count("# TYPE empiarfs_requests_total ") == 1
    assert [line for line in text.splitlines() if "/b" in line] == ['empiarfs_up{mountpoint="/b"} 0']
    names = [match[1] for line in text.splitlines() if (match := LINE.fullmatch(line)) and match[1]]
    assert [name for n, name in enumerate(names) if name not in names[:n]] == list(dict.fromkeys(names))
    assert all(
        names[n] == name or name not in names[n + 1 :]
        for n, name in enumerate(names[:-1], 1)
        for name in [names[n - 1]]
    )


@given(value=st.text(st.characters(codec=None)))
def test_any_mount_point_is_a_legal_label(value: str) -> None:
    """A mount point of any bytes is a valid label: quoted, on one line, in UTF-8."""
    label = prometheus.labels(mountpoint=value.encode("utf-8", "ignore").decode() + "\udcff")
    label.encode()
    assert re.fullmatch(r'mountpoint="(?:[^"\\\n]|\\[\\"n])*"', label)


def test_quotes_backslashes_and_line_ends_are_escaped() -> None:
    """Quotes, backslashes and line ends of a label are escaped."""
    assert prometheus.labels(a='"', b="\\", c="\n") == r'a="\"",b="\\",c="\n"'


def test_nothing_mounted_is_nothing_for_prometheus() -> None:
    """Without mounts the exposition is empty."""
    assert prometheus.exposition([]) == ""


def test_a_status_comes_back_from_its_text() -> None:
    """A status is equal after a round trip through its text, which is ASCII for any name."""
    odd = replace(STATUS, mountpoint="/mnt/\udcff\nGrüße")
    assert as_text(odd).isascii()
    assert from_text(as_text(odd)) == odd


def test_a_status_of_another_version_is_read_as_far_as_it_is_known() -> None:
    """Missing fields of a status are zero, and unknown ones are ignored."""
    values = flat(STATUS) | {"of_tomorrow": 1, "warnings": [{"time": 1.0, "text": "x", "kind": "y"}]}
    del values["requests"]
    assert from_text(json.dumps(values)) == replace(
        STATUS, warnings=(LoggedWarning(1.0, "x"),), counters=replace(COUNTERS, requests=0)
    )


@pytest.mark.parametrize("text", ["", "[]", "1", "null", '{"warnings": 1}', '{"warnings": [1]}', "{"])
def test_what_is_no_status_is_refused(text: str) -> None:
    """Text that is no status raises ValueError."""
    with pytest.raises(ValueError, match=r".*"):
        from_text(text)


def test_recent_warnings_are_the_newest() -> None:
    """The recent warnings are bounded in number and length, one line each, and name the exception."""
    log = logging.getLogger("tests.warnings")
    log.propagate = False
    recent_warnings = RecentWarnings()
    log.addHandler(recent_warnings)
    log.setLevel(logging.DEBUG)
    try:
        log.info("all is well")
        assert recent_warnings.newest() == ()
        for number in range(MAX_WARNINGS + 5):
            log.warning("warning %d\nin two lines", number)
        assert [one.text for one in recent_warnings.newest()] == [
            f"warning {number} in two lines" for number in range(5, MAX_WARNINGS + 5)
        ]
        log.warning("x" * 10_000)
        assert len(recent_warnings.newest()[-1].text) == 1000
        log.error("read %s", "10028/a", exc_info=ZeroDivisionError("by nothing"))
        assert recent_warnings.newest()[-1].text == "read 10028/a: ZeroDivisionError: by nothing"
        assert abs(recent_warnings.newest()[-1].time - time.time()) < 60
    finally:
        log.removeHandler(recent_warnings)


def test_entries_are_shown_newest_first() -> None:
    """The entries of a status are bounded in number, each once, the newest first."""
    stats = MountStats("/mnt", RecentWarnings())
    for number in (*range(MOST_ENTRIES + 5), 50):
        stats.record_open(f"{number}/data/a.mrc")
    entries = stats.status().entries
    assert entries[:3] == ("50", "104", "103")
    assert len(entries) == len(set(entries)) == MOST_ENTRIES


def test_a_mount_that_is_not_open_yet_has_a_status() -> None:
    """A mount that is not open yet has a status with zero counters."""
    assert MountStats("/mnt", RecentWarnings()).status().counters == Counters()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://me:se%40cret@host:8080/a/b", "https://host:8080/a/b"),
        ("https://me@host/a", "https://host/a"),
        ("https://me:a@b@host/a", "https://host/a"),
        ("ftp://host/a@b", "ftp://host/a@b"),
        ("http://[::1]:80/", "http://[::1]:80/"),
    ],
)
def test_credentials_are_left_out_of_an_address(url: str, told: str) -> None:
    """User name and password are removed from an address, and nothing else is."""
    assert without_credentials(url) == told


def test_nothing_mounted_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` without mounts exits with 0 and says how to mount; `--json` prints an empty list."""
    monkeypatch.setattr(mount_table, "table", list)
    done = run("status")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "empiarfs mount" in done.stderr
    assert (run("status", "--json").stdout, run("status", "--json").stderr) == ("[]\n", "")
    assert run("status", "--prometheus").output == ""


def test_a_place_that_is_no_mount_is_refused(tmp_path: Path) -> None:
    """`status` of another directory is an error, and `--json` with `--prometheus` is a usage error."""
    done = run("status", str(tmp_path))
    assert done.exit_code == 1
    assert "is not a mount of empiarfs" in done.stderr
    assert run("status", "--json", "--prometheus").exit_code == 2


def test_only_accessible_mounts_are_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only mounts that the user may read are probed, not hidden ones nor those of other programs."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    def mounted(point: str, *options: str, kind: str = mount_table.KIND) -> mount_table.Mounted:
        return mount_table.Mounted(point, kind, frozenset({"ro", *options}))

    table = [
        mounted("/mine", "user_id=1000"),
        mounted("/others", "user_id=10001"),
        mounted("/all", "user_id=0", "allow_other"),
        mounted("/hidden", "user_id=1000"),
        mounted("/hidden", kind="tmpfs"),
        mounted("/sshfs", "user_id=1000", kind="fuse.sshfs"),
    ]
    monkeypatch.setattr(mount_table, "table", lambda: table)
    assert probe.mounts() == ["/mine", "/all"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "older empiarfs"), (b"{}", ""), (b"no status", "another version of empiarfs"), (b"\xff", "another")],
)
def test_an_invalid_status_file_is_a_reason(tmp_path: Path, content: bytes | None, words: str) -> None:
    """A mount whose status file is missing or invalid is reported with the reason."""
    if content is not None:
        (tmp_path / NAME).write_bytes(content)
    (one,) = probe.probe_all([str(tmp_path)])
    assert words in one.trouble
    assert (one.status is None) == bool(words)


def test_one_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    """Mounts are probed at once with one time limit, and one that hangs does not delay the others."""
    hanging, sound = tmp_path / "hanging", tmp_path / "sound"
    hanging.mkdir()
    sound.mkdir()
    subprocess.run(["mkfifo", hanging / NAME], check=True)  # opening it waits for a writer that never comes
    (sound / NAME).write_text(as_text(STATUS))
    begun = time.monotonic()
    first, second, third = probe.probe_all([str(hanging), str(sound), str(hanging)], seconds=2.0)
    assert time.monotonic() - begun < 10
    assert "does not answer within 2 s" in first.trouble
    assert third == first
    assert second == ProbeResult(str(sound), STATUS)


def test_help_is_light() -> None:
    """`empiarfs status` loads neither the network nor FUSE."""
    program = (
        "import sys; from empiarfs.cli import status; "
        "sys.exit(bool({'requests', 'lxml', 'mfusepy', 'fuse', 'diskcache'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_server_that_never_answered_has_no_numbers() -> None:
    """The table says that the server has not answered yet, or that the mount is offline."""
    silent = replace(COUNTERS, first_byte_seconds=0.0)
    assert "has not answered yet" in command.table(ProbeResult("/mnt", replace(STATUS, counters=silent)))
    offline = command.table(ProbeResult("/mnt", replace(STATUS, counters=replace(silent, connections_limit=0))))
    assert len(re.findall("(server|connections) +offline", offline)) == 2
