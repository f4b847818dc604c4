"""A line with a round trip, rates, silent requests and a limit of connections, between a client and a real server.

The kernel here cannot delay packets, so bytes are held back in user space. Both directions are delayed by half a
round trip; a new connection waits one round trip more, as a handshake would.
"""

import asyncio
import contextlib
import random
import socket
import threading
from dataclasses import dataclass, field

PIECE = 64 * 1024
WINDOW = 4 * 1024 * 1024  # bytes of one connection on their way at once
END_OF_HEAD = b"\r\n\r\n"
ESTABLISHED = 1  # of tcp_states.h


@dataclass(frozen=True)
class Line:
    """What a line is like; nothing is limited where a value is 0."""

    round_trip: float = 0.0  # seconds
    connection_rate: float = 0.0  # bytes a second of one connection
    total_rate: float = 0.0  # bytes a second of all of them
    silent_share: float = 0.0  # of the requests, that get no answer
    silent_seconds: float = 100.0
    most_connections: int = 0  # beyond these, new ones are reset


@dataclass
class Counts:
    """What went over the line.

    Attributes:
        requests: how many.
        sent: bytes of replies.
        highest: the most connections at once.
        heads: of each request its first bytes.
    """

    requests: int = 0
    sent: int = 0
    highest: int = 0
    heads: list[bytes] = field(default_factory=list)


class Relay:
    """Listens on a free port of 127.0.0.1 and hands on to `target`, as `line` says; in a thread of its own."""

    def __init__(self, target: tuple[str, int], line: Line, seed: int = 1) -> None:
        self.counts = Counts()
        self._target = target
        self._line = line
        self._chance = random.Random(seed)
        self._connections: set[socket.socket] = set()
        self._total_free = 0.0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()
        self._started.wait()

    def close(self) -> None:
        """Stop listening, and drop every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def reset_counts(self) -> Counts:
        """Reset the counts; return the old ones."""
        counts, self.counts = self.counts, Counts(highest=self._open())
        return counts

    def _open(self) -> int:
        """Return the number of connected clients, without those that have closed their end."""
        return sum(_is_established(connection) for connection in tuple(self._connections))

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=4 * PIECE))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._line.most_connections and self._open() >= self._line.most_connections:
            writer.transport.abort()
            return
        connection: socket.socket = writer.get_extra_info("socket")
        self._connections.add(connection)
        self.counts.highest = max(self.counts.highest, self._open())
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target, limit=4 * PIECE)
            up = asyncio.create_task(self._up(reader, there_writer))
            down = asyncio.create_task(self._down(there_reader, writer))
            try:
                await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            finally:
                up.cancel()
                down.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
                there_writer.transport.abort()
        except (OSError, asyncio.CancelledError):  # the latter at the end; asyncio would print it
            pass
        finally:
            self._connections.discard(connection)
            with contextlib.suppress(OSError):
                writer.close()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand requests on, half a round trip late once hands are shaken; a silent one and what follows later."""
        connected = self._loop.time() + self._line.round_trip
        while True:
            data = await reader.read(PIECE)
            if not data:
                return
            self.counts.heads.append(data[:300])
            requests = data.split(END_OF_HEAD)
            self.counts.requests += len(requests) - 1
            silent = [self._chance.random() < self._line.silent_share for _ in requests[1:]]
            await asyncio.sleep(max(0.0, connected - self._loop.time()) + self._line.round_trip / 2)
            if True in silent:
                answered = END_OF_HEAD.join([*requests[: silent.index(True)], b""])
                writer.write(answered)
                data = data[len(answered) :]
                await asyncio.sleep(self._line.silent_seconds)
            writer.write(data)

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand replies on, half a round trip late and no faster than the line."""
        line = self._line
        loop = asyncio.get_running_loop()
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=WINDOW // PIECE)

        async def arrive() -> None:
            while True:
                data = await reader.read(PIECE)
                await on_the_way.put((loop.time() + line.round_trip / 2, data))
                if not data:
                    return

        arriving = asyncio.create_task(arrive())
        free = 0.0
        try:
            while True:
                due, data = await on_the_way.get()
                if not data:
                    return
                if line.connection_rate:
                    free = max(free, due) + len(data) / line.connection_rate
                    due = free
                if line.total_rate:
                    self._total_free = max(self._total_free, loop.time()) + len(data) / line.total_rate
                    due = max(due, self._total_free)
                delay = due - loop.time()
                if delay > 0:
                    await asyncio.sleep(delay)
                self.counts.sent += len(data)
                writer.write(data)
                await writer.drain()
        finally:
            arriving.cancel()


def _is_established(connection: socket.socket) -> bool:
    try:
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED
    except OSError:  # closed
        return False
