"""Each fault of the network, once and lasting: right bytes, or the errno of the table."""

from pathlib import Path

import pytest
from support.fault_proxy import FaultProxy
from support.fault_table import FAULTS
from support.fault_trial import Truth, try_fault


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes_is_not_seen(name: str, truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """A fault that happens once is retried unless it is a clear answer, and nothing of it is left."""
    fault = FAULTS[name]
    seen = try_fault(truth, server, tmp_path / "cache", fault, once=True)
    assert {what: sight.number for what, sight in seen.items()} == {
        what: expected.once for what, expected in fault.seen.items()
    }


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_lasts_is_a_clear_error(name: str, truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """A fault that lasts is the errno of the table after the patience, and everything is right when it ends."""
    fault = FAULTS[name]
    seen = try_fault(truth, server, tmp_path / "cache", fault, once=False)
    assert {what: sight.number for what, sight in seen.items()} == {
        what: expected.lasting for what, expected in fault.seen.items()
    }
