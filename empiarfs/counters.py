"""The statistics of an archive at one moment: numbers, each with its kind and its description."""

from dataclasses import dataclass, field
from typing import Any


def _total(says: str) -> Any:
    """Return the field of a counter: it only grows while the archive is open."""
    return field(default=0, metadata={"kind": "counter", "says": says})


def _now(says: str) -> Any:
    """Return the field of a gauge: it rises and falls."""
    return field(default=0, metadata={"kind": "gauge", "says": says})


@dataclass(frozen=True, slots=True)
class Counters:
    """The statistics of one archive, with their descriptions."""

    base_url: str = ""  # without user name and password
    blocks_read: int = _total("Blocks that readers requested.")
    blocks_from_memory: int = _total("Blocks that readers requested and that were in memory.")
    blocks_from_disk: int = _total("Blocks that were not in memory and came from disk, for readers or prefetch.")
    blocks_fetched: int = _total("Blocks that were in neither and came from the server, for readers or prefetch.")
    fetched_bytes: int = _total("Bytes of files that came from the server.")
    requests: int = _total("Requests sent to the server.")
    retries: int = _total("Requests sent again because the first one failed.")
    hedged_requests: int = _total("Requests sent a second time while the first one was silent for too long.")
    stalls: int = _total("Requests given up because the server was silent.")
    dropped_writes: int = _total("Blocks not written to disk because the disk was too slow.")
    corrupt_blocks: int = _total("Blocks on disk that were damaged, and fetched again.")
    connections_busy: int = _now("Connections in use now.")
    connections_open: int = _now("Connections open now, in use or idle.")
    connections_peak: int = _now("The most connections in use at once since the mount.")
    connections_allowed: int = _now("Connections that may be in use now; fewer while the server throttles.")
    connections_limit: int = _now("Connections that may be in use at most.")
    memory_bytes: int = _now("Bytes of blocks in memory.")
    memory_limit_bytes: int = _now("Bytes of blocks in memory at most.")
    disk_bytes: int = _now("Bytes of the disk cache, of all mounts that share it.")
    disk_limit_bytes: int = _now("Bytes of the disk cache at most.")
    readers_waiting: int = _now("Requests of readers that wait for a connection.")
    blocks_in_flight: int = _now("Blocks being loaded from disk or from the server.")
    background_queue_length: int = _now("Prefetch tasks that are queued.")
    write_queue_bytes: int = _now("Bytes of blocks that wait to be written to disk.")
    first_byte_seconds: float = _now("Seconds to the first byte of a reply, the median; 0 if not known yet.")
    slow_first_byte_seconds: float = _now(
        "Seconds to the first byte of a reply, the 95th percentile; 0 if not known yet."
    )
    connection_bytes_per_second: float = _now("Bytes a second over one connection; 0 if not known yet.")
