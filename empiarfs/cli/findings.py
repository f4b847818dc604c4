"""What `empiarfs doctor` finds: a state, a line, an advice."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look has found.

    Attributes:
        state: `"bad"` where a mount will not work.
        what: one line.
        advice: what to do; empty where nothing is to be done.
    """

    state: State
    what: str
    advice: str = ""


Findings = Iterator[Finding]
