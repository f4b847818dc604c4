"""Faults in a row on one file: right bytes, or an error of the table."""

import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fault_proxy import FaultProxy
from support.fault_table import DATA, FAULTS, HEAD, Plan
from support.fault_trial import HITS, MUCH_PATIENCE, SIZES, FaultTrial, Truth, opened
from support.mounting import eventually

from empiarfs.errors import ArchiveError

pytestmark = pytest.mark.slow  # waits on purpose, or repeats for long

FILE = HITS[HEAD]
SLOW = ("silence", "one byte a second", "Retry-After")  # each costs a second or two
QUICK = [name for name, fault in FAULTS.items() if DATA in fault.seen and not any(word in name for word in SLOW)]
LIES = [name for name, fault in FAULTS.items() if HEAD in fault.seen and not any(word in name for word in SLOW)]
# clear answers, and lies that are believed when they are told twice in a row
FINAL = {name for name in FAULTS if FAULTS[name].kept or any(seen.once for seen in FAULTS[name].seen.values())}
SPANS = st.tuples(st.integers(0, SIZES[FILE]), st.integers(0, SIZES[FILE] // 2))


@settings(
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    measured=st.lists(st.sampled_from(LIES), max_size=2),
    read=st.lists(st.sampled_from(QUICK), min_size=2, max_size=5),
    spans=st.lists(SPANS, min_size=1, max_size=4),
)
def test_any_faults_in_a_row_give_right_bytes_or_a_clear_error(
    truth: Truth, server: FaultProxy, measured: list[str], read: list[str], spans: list[tuple[int, int]]
) -> None:
    """After any faults in a row the bytes are right, or the error is a clear answer, and the file recovers."""
    content = truth.content(FILE)
    allowed = {FAULTS[name].seen[DATA].lasting for name in read if name in FINAL}
    allowed |= {FAULTS[name].seen[HEAD].lasting for name in measured if name in FINAL}
    with (
        tempfile.TemporaryDirectory() as folder,
        FaultTrial(truth, server, Path(folder) / "cache", patience=MUCH_PATIENCE) as trial,
        server.rule(FILE, Plan([FAULTS[name].act for name in read]), method="GET"),
        server.rule(FILE, Plan([FAULTS[name].act for name in measured]), method="HEAD"),
    ):
        for start, size in spans:
            try:
                data = opened(trial.archive, FILE).read_at(start, size)
            except ArchiveError as error:
                assert error.errno in allowed  # noqa: PT017 - and nothing else is raised
            else:
                assert data == content[start : start + size]
        if not {"404", "410"} & set(measured):  # a name that was missing is not asked for again
            eventually(lambda: not trial.observe(lambda: trial.check(FILE)).number, "the file is right in the end")


@settings(
    max_examples=40,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(faults=st.lists(st.sampled_from(QUICK), min_size=1, max_size=4), span=SPANS)
def test_a_file_that_is_opened_among_faults_gives_right_bytes_or_an_error(
    truth: Truth, server: FaultProxy, faults: list[str], span: tuple[int, int]
) -> None:
    """Where one GET brings the size and the first bytes, no fault of it gives a wrong size or wrong bytes."""
    content = truth.content(FILE)
    start, size = span
    with (
        tempfile.TemporaryDirectory() as folder,
        FaultTrial(truth, server, Path(folder) / "cache", patience=MUCH_PATIENCE) as trial,
        server.rule(FILE, Plan([FAULTS[name].act for name in faults]), method="GET"),
        suppress(ArchiveError),
    ):
        file = trial.archive.open(FILE)
        assert file.size == len(content)
        assert file.read_at(start, size) == content[start : start + size]
