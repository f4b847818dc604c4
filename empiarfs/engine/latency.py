"""The latency and the rate of a server, estimated from its newest responses."""

import threading
from collections import deque

from empiarfs.engine.readahead import MIN_REQUEST
from empiarfs.units import KIB

SAMPLES = 64
RATES = 15
INITIAL_TTFB = 0.5  # seconds to the first byte, before there are samples
MIN_READ_TIMEOUT = 2.0  # seconds; EBI's requests that hang, hang for minutes
MAX_READ_TIMEOUT = 12.0
MAX_BACKED_OFF_TIMEOUT = 60.0  # after timeouts of the same kind of request
TIMEOUT_FACTOR = 4.0
MAX_DOUBLINGS = 5  # of the timeout; two seconds become a minute
HEDGE_FACTOR = 1.1  # times the 95th percentile: hedges are then rarer than one in twenty
MIN_HEDGE_DELAY = 0.25
INITIAL_RATE = 5e6  # bytes a second of one connection, before there are samples
RATED_BYTES = 32 * KIB  # a shorter response says nothing about the rate
SPLIT_SHARE = 0.4  # a span is split if its transfer takes longer than this share of the time to the first byte
SPLIT_SECONDS = 0.02  # a shorter transfer is not worth the work of a second request
REQUEST_SECONDS = 1.5
SMALLEST_MAX_REQUEST = 512 * KIB


class LatencyEstimator:
    """Estimates the time to the first byte of a response, and the rate of one connection; thread-safe.

    Args:
        most: the most bytes of one request.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rate = 0.0  # of one connection, bytes a second; 0 before there are samples
        self._lock = threading.Lock()
        self._rates: deque[float] = deque(maxlen=RATES)
        self._times: deque[float] = deque(maxlen=SAMPLES)
        self._ttfb_p95 = self._ttfb_median = INITIAL_TTFB
        self._stalls: dict[str, int] = {}  # timeouts since the last response, by kind of request

    @property
    def has_samples(self) -> bool:
        """Whether there was any response yet."""
        return bool(self._times)

    @property
    def ttfb_median(self) -> float:
        """The median of the seconds to the first byte."""
        return self._ttfb_median

    @property
    def ttfb_p95(self) -> float:
        """The 95th percentile of the seconds to the first byte."""
        return self._ttfb_p95

    @property
    def rate(self) -> float:
        """The bytes a second of one connection; 0 before there are samples."""
        return self._rate

    def __repr__(self) -> str:
        return f"<LatencyEstimator ttfb_p95={self._ttfb_p95:.3f} s read_timeout={self.read_timeout():.1f} s>"

    def record(self, seconds: float, kind: str = "") -> None:
        """Record that the first byte of a response to a request of `kind` came after `seconds`."""
        with self._lock:
            self._stalls.pop(kind, None)
            self._times.append(seconds)
            ordered = sorted(self._times)
            learnt = ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)]
            self._ttfb_median = ordered[len(ordered) // 2]
            # with few samples the estimate is not below the initial one
            self._ttfb_p95 = learnt if len(ordered) >= SAMPLES // 8 else max(learnt, INITIAL_TTFB)

    def record_rate(self, count: int, seconds: float) -> None:
        """Record that `count` bytes of one response, those after its first bytes, came in `seconds`."""
        if count >= RATED_BYTES:
            with self._lock:
                self._rates.append(count / max(seconds, 0.001))
                self._rate = sorted(self._rates)[len(self._rates) // 2]  # robust against bursts and stalls

    def request_size_bounds(self) -> tuple[int, int]:
        """Return the least and the most bytes of a prefetch request.

        The transfer of the shortest takes twice the time to its first byte; that of the longest about
        `REQUEST_SECONDS`.
        """
        rate = self._rate or INITIAL_RATE
        longest = min(max(int(rate * REQUEST_SECONDS), SMALLEST_MAX_REQUEST), self._most)
        return min(max(int(2 * rate * self._ttfb_median), MIN_REQUEST), longest), longest

    def worth_splitting(self, count: int) -> bool:
        """Return whether `count` bytes arrive sooner over two connections than over one."""
        return self._rate > 0 and count / self._rate > max(SPLIT_SHARE * self._ttfb_median, SPLIT_SECONDS)

    def record_timeout(self, kind: str) -> None:
        """Record that a request of `kind` timed out: the server may only be slow."""
        with self._lock:
            self._stalls[kind] = min(self._stalls.get(kind, 0) + 1, MAX_DOUBLINGS)

    def read_timeout(self, kind: str = "") -> float:
        """Return the seconds of silence after which a request times out, doubled by each timeout of its `kind`."""
        usual = min(max(TIMEOUT_FACTOR * self._ttfb_p95, MIN_READ_TIMEOUT), MAX_READ_TIMEOUT)
        return min(usual * (1 << self._stalls.get(kind, 0)), MAX_BACKED_OFF_TIMEOUT)

    def hedge_delay(self) -> float:
        """Return the seconds of silence after which a request that a caller waits for is hedged."""
        return max(HEDGE_FACTOR * self._ttfb_p95, MIN_HEDGE_DELAY)
