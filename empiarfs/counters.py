"""What an archive tells of itself at one moment: numbers, each with its kind and what it says."""

from dataclasses import dataclass, field
from typing import Any


def _total(says: str) -> Any:
    """Return a number that only grows, as long as the archive is open."""
    return field(default=0, metadata={"kind": "counter", "says": says})


def _now(says: str) -> Any:
    """Return a number that comes and goes."""
    return field(default=0, metadata={"kind": "gauge", "says": says})


@dataclass(frozen=True, slots=True)
class Counters:
    """The numbers of one archive; what each says stands beside it."""

    base_url: str = ""  # without user name and password
    blocks_read: int = _total("Blocks that readers asked for.")
    blocks_from_memory: int = _total("Blocks that readers asked for and that were in memory.")
    blocks_from_disk: int = _total("Blocks that were not in memory and came from the disk, for readers or ahead.")
    blocks_fetched: int = _total("Blocks that were in neither and came from the server, for readers or ahead.")
    fetched_bytes: int = _total("Bytes of files that came from the server.")
    requests: int = _total("Requests sent to the server.")
    retries: int = _total("Requests that were asked again because the first did not work out.")
    hedged_requests: int = _total("Requests sent a second time beside the first, which was silent for too long.")
    stalls: int = _total("Requests given up because the server was silent.")
    dropped_writes: int = _total("Blocks not kept on disk because the disk could not keep up.")
    corrupt_blocks: int = _total("Blocks on disk that were damaged, and fetched again.")
    connections_busy: int = _now("Connections in use now.")
    connections_open: int = _now("Connections open now, used or not.")
    connections_peak: int = _now("The most connections in use at once since the mount.")
    connections_allowed: int = _now("Connections that may be in use now; fewer where the server is overloaded.")
    connections_limit: int = _now("Connections that may be in use at most.")
    memory_bytes: int = _now("Bytes of blocks in memory.")
    memory_limit_bytes: int = _now("Bytes of blocks in memory at most.")
    disk_bytes: int = _now("Bytes of the cache on disk, of all mounts that share it.")
    disk_limit_bytes: int = _now("Bytes of the cache on disk at most.")
    readers_waiting: int = _now("Requests of readers that wait for a connection.")
    blocks_in_flight: int = _now("Blocks on their way from the disk or the server.")
    background_queue_length: int = _now("Tasks ahead of the readers that wait for their turn.")
    write_queue_bytes: int = _now("Bytes of blocks that wait to be written to the disk.")
    first_byte_seconds: float = _now("Seconds to the first byte of a reply, as a rule; 0 if not known yet.")
    slow_first_byte_seconds: float = _now(
        "Seconds to the first byte of a reply, the 95th of 100; 0 if not known yet."
    )
    connection_bytes_per_second: float = _now("Bytes a second over one connection, as a rule; 0 if not known yet.")
