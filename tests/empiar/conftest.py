"""What all tests of the network share: a client of the server that a test scripts."""

from collections.abc import Iterator

import pytest
from support.scripted import Client, Hasty, ScriptedServer


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    """A client of `server` that waits half a second for a byte; at the end all its connections are released."""
    with Client(server.base_url, Hasty()) as client:
        yield client
    assert client.slots == 0, "a connection was not released"
