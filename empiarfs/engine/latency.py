"""How soon and how fast this server usually answers, learnt from its newest replies."""

import threading
from collections import deque

from empiarfs.engine.readahead import MIN_REQUEST
from empiarfs.units import KIB

SAMPLES = 64
RATES = 15
INITIAL_TTFB = 0.5  # seconds to the first byte, before anything was learnt
MIN_READ_TIMEOUT = 2.0  # seconds; EBI's requests that hang, hang for minutes
MAX_READ_TIMEOUT = 12.0
MAX_BACKED_OFF_TIMEOUT = 60.0  # of a server that has not answered in less
TIMEOUT_FACTOR = 4.0
MAX_DOUBLINGS = 5  # times; two seconds are a minute then
HEDGE_FACTOR = 1.1  # of the 95th percentile: a second asking is then rarer than one in twenty
MIN_HEDGE_DELAY = 0.25
INITIAL_RATE = 5e6  # bytes a second of one connection, before anything was learnt
RATED_BYTES = 32 * KIB  # what comes in fewer says nothing of the rate
SPLIT_SHARE = 0.4  # of the time to the first byte, that a part must take to be fetched over a line of its own
REQUEST_SECONDS = 1.5
SMALLEST_MAX_REQUEST = 512 * KIB


class LatencyEstimator:
    """The times from a request to the first byte of its reply, and how fast bytes come then; safe for threads.

    Args:
        most: the longest request there is to be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rate = 0.0  # of one connection, bytes a second; 0 before anything was learnt
        self._lock = threading.Lock()
        self._rates: deque[float] = deque(maxlen=RATES)
        self._times: deque[float] = deque(maxlen=SAMPLES)
        self._ttfb_p95 = self._ttfb_median = INITIAL_TTFB
        self._stalls: dict[str, int] = {}  # requests of a kind that were given up since one was answered

    @property
    def has_samples(self) -> bool:
        """Whether any reply came yet."""
        return bool(self._times)

    @property
    def ttfb_median(self) -> float:
        """The seconds to the first byte, as a rule."""
        return self._ttfb_median

    @property
    def ttfb_p95(self) -> float:
        """The seconds to the first byte of the 95th reply of 100."""
        return self._ttfb_p95

    @property
    def rate(self) -> float:
        """The bytes a second of one connection; 0 before anything was learnt."""
        return self._rate

    def __repr__(self) -> str:
        return f"<LatencyEstimator ttfb_p95={self._ttfb_p95:.3f} s read_timeout={self.read_timeout():.1f} s>"

    def record(self, seconds: float, kind: str = "") -> None:
        """Take in how long one reply took to begin; that of a HEAD says little of cold data."""
        with self._lock:
            self._stalls.pop(kind, None)
            self._times.append(seconds)
            ordered = sorted(self._times)
            learnt = ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)]
            self._ttfb_median = ordered[len(ordered) // 2]
            # a few replies prove little: the less was seen, the more is allowed
            self._ttfb_p95 = learnt if len(ordered) >= SAMPLES // 8 else max(learnt, INITIAL_TTFB)

    def record_rate(self, count: int, seconds: float) -> None:
        """Record that `count` bytes of one reply came in `seconds`, its first bytes left out."""
        if count >= RATED_BYTES:
            with self._lock:
                self._rates.append(count / max(seconds, 0.001))
                self._rate = sorted(self._rates)[len(self._rates) // 2]  # a burst or a stall says little

    def request_size_bounds(self) -> tuple[int, int]:
        """Return how long requests ahead should be at least, and at most.

        The shortest one takes twice as long to come as to begin; the longest ends within a second or two, of which
        waiting for it to begin is a small part.
        """
        rate = self._rate or INITIAL_RATE
        longest = min(max(int(rate * REQUEST_SECONDS), SMALLEST_MAX_REQUEST), self._most)
        return min(max(int(2 * rate * self._ttfb_median), MIN_REQUEST), longest), longest

    def worth_splitting(self, count: int) -> bool:
        """Return whether `count` bytes come sooner over two connections than over one."""
        return self._rate > 0 and count / self._rate > SPLIT_SHARE * self._ttfb_median

    def record_timeout(self, kind: str) -> None:
        """Record that a request of `kind` was given up for silence: the server may only be slow."""
        with self._lock:
            self._stalls[kind] = min(self._stalls.get(kind, 0) + 1, MAX_DOUBLINGS)

    def read_timeout(self, kind: str = "") -> float:
        """Give after how many seconds of silence a request is given up; more while none of its kind is answered."""
        usual = min(max(TIMEOUT_FACTOR * self._ttfb_p95, MIN_READ_TIMEOUT), MAX_READ_TIMEOUT)
        return min(usual * (1 << self._stalls.get(kind, 0)), MAX_BACKED_OFF_TIMEOUT)

    def hedge_delay(self) -> float:
        """Return after how many seconds of silence a request that somebody waits for is sent a second time."""
        return max(HEDGE_FACTOR * self._ttfb_p95, MIN_HEDGE_DELAY)
