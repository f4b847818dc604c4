"""A server between empiarfs and Apache that keeps silent, refuses, or leaves things out, as a test says."""

import http.client
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote_to_bytes, urlsplit

PIECE = 256 * 1024
LONGEST_HOLD = 100.0  # seconds; a test that fails leaves no thread behind for longer
_KEPT = {"content-length", "content-range", "content-type", "last-modified", "location", "etag", "accept-ranges"}


@dataclass
class Rule:
    """What happens to the requests that it matches.

    Attributes:
        method: only these; all where it is empty.
        path: a pattern that must match the whole path below the numbered entries.
        after: bytes of the body that are let through before it keeps silent.
        held: whether a reply waits until `release`.
        status: the answer in place of Apache's; 0 for Apache's.
        edit: changes a body.
        times: how often it still works; None for ever.
        waiting: how many requests it has met that are waiting now.
        ranges: of the requests whose replies it has cut in two, the Range headers.
    """

    method: str
    path: str
    after: int | None = None
    held: bool = False
    status: int = 0
    edit: Callable[[bytes], bytes] | None = None
    times: int | None = None
    waiting: int = 0
    ranges: list[str] = field(default_factory=list)
    _open: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let what waits go on, and hold no more."""
        self._open.set()

    def matches(self, method: str, path: str) -> bool:
        """Tell whether it is about this request, and count it."""
        if self.method not in {"", method} or not re.fullmatch(self.path, path) or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def wait(self) -> None:
        """Keep silent until `release`."""
        self.waiting += 1
        self._open.wait(LONGEST_HOLD)
        self.waiting -= 1


class Gate:
    """The server; what no rule is about goes to Apache and back as it is.

    Args:
        target: the URL of Apache's numbered entries.
    """

    def __init__(self, target: str) -> None:
        split = urlsplit(target)
        self.upstream = split.netloc
        self.base = split.path
        self.seen: list[tuple[str, str]] = []  # method and path, in the order of arrival
        self._rules: list[Rule] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.gate = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="gate")
        self._thread.start()

    @property
    def url(self) -> str:
        """The URL of the numbered entries, through the gate."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{self.base}"

    @contextmanager
    def rule(self, rule: Rule) -> Iterator[Rule]:
        """Keep `rule`, before older ones, for as long as the block lasts; release what it holds at the end."""
        self._rules.insert(0, rule)
        try:
            yield rule
        finally:
            self._rules.remove(rule)
            rule.release()

    def hold(self, path: str, *, method: str = "", after: int | None = None) -> AbstractContextManager[Rule]:
        """Keep silent on what matches: before the reply, or after so many bytes of its body."""
        return self.rule(Rule(method, path, after=after, held=True))

    def answer(
        self, path: str, status: int, *, method: str = "", times: int | None = None
    ) -> AbstractContextManager[Rule]:
        """Answer what matches with `status`."""
        return self.rule(Rule(method, path, status=status, times=times))

    def edit(
        self, path: str, change: Callable[[bytes], bytes], *, times: int | None = None
    ) -> AbstractContextManager[Rule]:
        """Change the bodies of what matches."""
        return self.rule(Rule("GET", path, edit=change, times=times))

    def count(self, method: str, path: str) -> int:
        """Tell how many requests came."""
        return sum(one == method and re.fullmatch(path, where) is not None for one, where in self.seen)

    def close(self) -> None:
        """Stop listening, and let everyone go."""
        for rule in self._rules:
            rule.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def ruled(self, method: str, path: str) -> Rule | None:
        """Give the rule for this request."""
        return next((rule for rule in self._rules if rule.matches(method, path)), None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    gate: Gate

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away in the middle are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._line: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        if self._line is not None:
            self._line.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's signature
        """Say nothing."""

    def do_GET(self) -> None:
        """Hand it on, or do as a rule says."""
        gate = self.server.gate
        path = unquote_to_bytes(self.path.removeprefix(gate.base).removeprefix("/")).decode(
            "utf-8", "surrogateescape"
        )
        gate.seen.append((self.command, path))
        rule = gate.ruled(self.command, path)
        if rule is not None and rule.held and rule.after is None:
            rule.wait()
        if rule is not None and rule.status:
            self._reply(rule.status, {"content-length": "0"})
            return
        with self._asked() as response:
            headers = {name.lower(): value for name, value in response.getheaders() if name.lower() in _KEPT}
            if rule is not None and rule.edit is not None:
                body = rule.edit(response.read())
                headers["content-length"] = str(len(body))
                self._reply(response.status, headers)
                self.wfile.write(body)
                return
            if "content-length" not in headers:  # Apache sends long listings in chunks
                headers["connection"] = "close"
            self._reply(response.status, headers)
            if rule is not None and rule.after is not None and rule.after < (response.length or 0):
                self.wfile.write(response.read(rule.after))
                rule.ranges.append(self.headers["Range"] or "")
                rule.wait()
            while piece := response.read(PIECE):
                self.wfile.write(piece)

    do_HEAD = do_GET  # noqa: N815 - the library's names

    def _asked(self) -> http.client.HTTPResponse:
        self._line = self._line or http.client.HTTPConnection(self.server.gate.upstream, timeout=LONGEST_HOLD)
        wanted = {"Range": self.headers["Range"]} if "Range" in self.headers else {}
        self._line.request(self.command, self.path, headers=wanted)
        return self._line.getresponse()

    def _reply(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
