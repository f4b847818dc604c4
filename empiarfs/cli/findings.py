"""One result of `empiarfs doctor`: a state, a line, advice."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        state: `"bad"` where a mount will not work.
        what: one line.
        advice: what to do; empty if nothing is to be done.
    """

    state: State
    what: str
    advice: str = ""


Findings = Iterator[Finding]
