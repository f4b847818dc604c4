"""Each fault of the line, once and for ever: right bytes, or the errno that the table says."""

from pathlib import Path

import pytest
from support.fault_proxy import FaultProxy
from support.fault_table import FAULTS
from support.fault_trial import Truth, tried


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes_is_not_seen(name: str, truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """One that happens once is asked over, unless it is a clear answer; nothing of it is left."""
    fault = FAULTS[name]
    seen = tried(truth, server, tmp_path / "cache", fault, once=True)
    assert {what: sight.number for what, sight in seen.items()} == {
        what: expected.once for what, expected in fault.seen.items()
    }


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_lasts_is_a_clear_error(name: str, truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """At the end of patience there is the errno of the table, and no byte; when it ends, all is right again."""
    fault = FAULTS[name]
    seen = tried(truth, server, tmp_path / "cache", fault, once=False)
    assert {what: sight.number for what, sight in seen.items()} == {
        what: expected.lasting for what, expected in fault.seen.items()
    }
