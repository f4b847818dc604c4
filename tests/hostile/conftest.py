"""A process whose children meet hostile servers and are measured."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from support.raw_server import Meetings


@pytest.fixture(scope="session")
def met() -> Iterator[Meetings]:
    """Lets a client meet a server that speaks raw bytes; returns its outcome, seconds and memory."""
    with closing(Meetings()) as meetings:
        yield meetings
