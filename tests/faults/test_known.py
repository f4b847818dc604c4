"""What is known stays known: listings, names and versions while servers err, disagree, or the clock jumps."""

import errno
import random
import time
from pathlib import Path

import pytest
from support.fault_proxy import FaultProxy
from support.fault_table import ALL, DATA, FAULTS, LISTING, NAME, by_turns, version
from support.fault_trial import HITS, PATIENCE, FaultTrial, Truth, causing, opened, pattern
from support.mounting import eventually

from empiarfs.errors import ArchiveError, Forbidden, NotFound
from empiarfs.model import File, base_name

YEARS = 10 * 365 * 86_400.0


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if LISTING in fault.seen])
def test_a_known_listing_survives_any_fault(name: str, truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """A directory whose refresh fails shows its known listing, without an error."""
    with FaultTrial(truth, server, tmp_path / "cache", patience=0.0, fresh=0.0) as trial:
        trial.list()
        with server.rule(pattern(LISTING), FAULTS[name].act) as rule:
            trial.list()
            eventually(lambda: rule.met, "the listing is asked for anew")
            for _ in range(20):
                trial.list()
                trial.archive.stat("10028/listed/a.mrc")


@pytest.mark.parametrize("jump", [YEARS, -YEARS], ids=["ahead", "back"])
@pytest.mark.parametrize("name", ["500", "403", "404", "503, Retry-After as a date"])
def test_a_clock_that_jumps_changes_nothing(
    name: str, jump: float, truth: Truth, server: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a jump of the clock refused and missing names are requested again, and no wait takes longer."""
    shift = 0.0
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + shift)
    with FaultTrial(truth, server, tmp_path / "cache", patience=PATIENCE) as trial:
        with causing(server, FAULTS[name], once=False):
            seen = trial.observe_all(ALL, others=not FAULTS[name].pause)
            assert all(sight.number == FAULTS[name].seen[what].lasting for what, sight in seen.items())
            shift = jump
            assert all(trial.observe(trial.work_on(what)).seconds < PATIENCE + 10 for what in ALL)
        shift = 0.0 if jump > 0 else 2 * jump  # and once more: neither what was noted before nor since holds
        trial.check_recovered(ALL if name != "404" else (DATA, LISTING))


def test_an_absent_name_is_requested_when_the_clock_is_set_back(
    truth: Truth, server: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent names and forbidden directories are requested again when the clock is set back by years."""
    shift = YEARS
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + shift)
    with FaultTrial(truth, server, tmp_path / "cache", patience=PATIENCE) as trial:
        with causing(server, FAULTS["404"], once=False), pytest.raises(NotFound):
            trial.archive.stat(HITS[NAME])
        with causing(server, FAULTS["403"], once=False), pytest.raises(Forbidden):
            trial.archive.listdir(HITS[LISTING])
        shift = 0.0
        trial.check(HITS[NAME])
        trial.list()


OTHERS = {  # versions that a second server has: length, and date after the first's
    "of another length": (450_000, 0),
    "of another date": (400_001, 5_000),
    "of both": (350_000, 5_000),
    "that is empty": (0, 5_000),
}


@pytest.mark.parametrize("other", OTHERS)
def test_two_servers_that_disagree_are_never_mixed(
    other: str, truth: Truth, server: FaultProxy, tmp_path: Path
) -> None:
    """Replies of two versions in turn give one version or an error, never both."""
    size, later = OTHERS[other]
    content, modified = random.Random(size).randbytes(size), truth.file(HITS[DATA]).modified or 0
    truth.others = {File(HITS[DATA], size, modified + later): content}
    numbers = set()
    try:
        with FaultTrial(truth, server, tmp_path / "cache", patience=PATIENCE) as trial:
            with server.rule(pattern(DATA), by_turns(version(content, modified + later))):
                for _ in range(20):
                    try:
                        file = opened(trial.archive, HITS[DATA])
                        data = b"".join(file.read_at(start, 50_000) for start in range(0, file.size, 50_000))
                    except ArchiveError as error:
                        numbers.add(error.errno)
                    else:
                        assert data in {content, truth.content(HITS[DATA])}
            opened(trial.archive, HITS[DATA])
            eventually(lambda: not trial.observe(lambda: trial.check(HITS[DATA])).number, "one server is enough")
    finally:
        truth.others = {}
    assert numbers <= {errno.ESTALE, errno.EIO}


def test_names_survive_a_listing_that_lost_half_of_them(truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """A whole listing that lacks a name removes it only when a second one lacks it too."""

    def without_a(page: bytes) -> bytes:
        return b"\n".join(line for line in page.split(b"\n") if b"a.mrc" not in line)

    with FaultTrial(truth, server, tmp_path / "cache", patience=PATIENCE, fresh=0.0) as trial:
        trial.list()
        with server.edit(pattern(LISTING), without_a, times=1):
            trial.list()
            eventually(lambda: server.ruled("GET", "10028/listed/") is None, "it was listed anew")
        trial.list()
        assert {base_name(one.path) for one in trial.archive.listdir(HITS[LISTING])} == {"a.mrc", "b.mrc"}


def test_a_file_of_a_directory_that_cannot_be_listed_is_never_missing(
    truth: Truth, server: FaultProxy, tmp_path: Path
) -> None:
    """A name in a directory that cannot be listed is EIO, never ENOENT."""
    with FaultTrial(truth, server, tmp_path / "cache", patience=0.0) as trial:
        for name, fault in FAULTS.items():
            if LISTING not in fault.seen or fault.seen[LISTING].lasting != errno.EIO or "silence" in name:
                continue
            if fault.pause or name == "one byte a second":
                continue
            with server.rule(pattern(LISTING), fault.act):
                for path in ("10028/listed/a.mrc", "10028/listed/nothing.mrc"):
                    with pytest.raises(ArchiveError) as caught:
                        trial.archive.stat(path)
                    assert caught.value.errno == errno.EIO, name
