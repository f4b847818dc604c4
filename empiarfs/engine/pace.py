"""How soon and how fast this server usually answers, learnt from its newest replies."""

import threading
from collections import deque

from empiarfs.engine.readahead import SHORTEST_SHARE
from empiarfs.settings import KIB

SAMPLES = 64
RATES = 15
USUAL = 0.5  # seconds to the first byte, before anything was learnt
SHORTEST_SILENCE = 2.0  # seconds; EBI's requests that hang, hang for minutes
LONGEST_SILENCE = 12.0
LAST_SILENCE = 60.0  # of a server that has not answered in less
SILENCE_FACTOR = 4.0
MOST_DOUBLED = 5  # times; two seconds are a minute then
SECOND_FACTOR = 1.1  # of the 95th percentile: a second asking is then rarer than one in twenty
SOONEST_SECOND = 0.25
USUAL_RATE = 5e6  # bytes a second of one connection, before anything was learnt
RATED_BYTES = 32 * KIB  # what comes in fewer says nothing of the rate
WORTH = 0.4  # of the time to the first byte, that a part must take to be fetched over a line of its own
RUN_SECONDS = 1.5
SHORTEST_RUN = 512 * KIB


class Pace:
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
        self._slow = self._usual = USUAL
        self._stalls: dict[str, int] = {}  # requests of a kind that were given up since one was answered

    @property
    def is_learnt(self) -> bool:
        """Whether any reply came yet."""
        return bool(self._times)

    @property
    def usual(self) -> float:
        """The seconds to the first byte, as a rule."""
        return self._usual

    @property
    def slow(self) -> float:
        """The seconds to the first byte of the 95th reply of 100."""
        return self._slow

    @property
    def rate(self) -> float:
        """The bytes a second of one connection; 0 before anything was learnt."""
        return self._rate

    def __repr__(self) -> str:
        return f"<Pace slow={self._slow:.3f} s silence={self.silence():.1f} s>"

    def note(self, seconds: float, kind: str = "") -> None:
        """Take in how long one reply took to begin; that of a HEAD says little of cold data."""
        with self._lock:
            self._stalls.pop(kind, None)
            self._times.append(seconds)
            ordered = sorted(self._times)
            learnt = ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)]
            self._usual = ordered[len(ordered) // 2]
            # a few replies prove little: the less was seen, the more is allowed
            self._slow = learnt if len(ordered) >= SAMPLES // 8 else max(learnt, USUAL)

    def note_rate(self, count: int, seconds: float) -> None:
        """Take in that `count` bytes of one reply came in `seconds`, its first bytes left out."""
        if count >= RATED_BYTES:
            with self._lock:
                self._rates.append(count / max(seconds, 0.001))
                self._rate = sorted(self._rates)[len(self._rates) // 2]  # a burst or a stall says little

    def run_lengths(self) -> tuple[int, int]:
        """Give how long requests ahead should be at least, and at most.

        The shortest one takes twice as long to come as to begin; the longest ends within a second or two, of which
        waiting for it to begin is a small part.
        """
        rate = self._rate or USUAL_RATE
        longest = min(max(int(rate * RUN_SECONDS), SHORTEST_RUN), self._most)
        return min(max(int(2 * rate * self._usual), SHORTEST_SHARE), longest), longest

    def worth_splitting(self, count: int) -> bool:
        """Tell whether `count` bytes come sooner over two connections than over one."""
        return self._rate > 0 and count / self._rate > WORTH * self._usual

    def note_silence(self, kind: str) -> None:
        """Take in that a request of `kind` was given up for silence: the server may only be slow."""
        with self._lock:
            self._stalls[kind] = min(self._stalls.get(kind, 0) + 1, MOST_DOUBLED)

    def silence(self, kind: str = "") -> float:
        """Give after how many seconds of silence a request is given up; more while none of its kind is answered."""
        usual = min(max(SILENCE_FACTOR * self._slow, SHORTEST_SILENCE), LONGEST_SILENCE)
        return min(usual * (1 << self._stalls.get(kind, 0)), LAST_SILENCE)

    def second(self) -> float:
        """Give after how many seconds of silence a request that somebody waits for is sent a second time."""
        return max(SECOND_FACTOR * self._slow, SOONEST_SECOND)
