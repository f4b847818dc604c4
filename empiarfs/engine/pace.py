"""How soon this server usually answers, learnt from its newest replies; what is silent longer is asked again."""

import threading
from collections import deque

SAMPLES = 64
USUAL = 0.5  # seconds to the first byte, before anything was learnt
SHORTEST_SILENCE = 2.0  # seconds; EBI's requests that hang, hang for minutes
LONGEST_SILENCE = 12.0
SILENCE_FACTOR = 4.0
SECOND_FACTOR = 1.5  # of the 95th percentile: a second asking is then rarer than one in twenty
SOONEST_SECOND = 0.1


class Pace:
    """The times from a request to the first byte of its reply; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: deque[float] = deque(maxlen=SAMPLES)
        self._slow = USUAL

    def __repr__(self) -> str:
        return f"<Pace slow={self._slow:.3f} s silence={self.silence():.1f} s>"

    def note(self, seconds: float) -> None:
        """Take in how long one reply took to begin."""
        with self._lock:
            self._times.append(seconds)
            ordered = sorted(self._times)
            learnt = ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)]
            # a few replies prove little: the less was seen, the more is allowed
            self._slow = learnt if len(ordered) >= SAMPLES // 4 else max(learnt, USUAL)

    def silence(self) -> float:
        """Give after how many seconds of silence a request is given up."""
        return min(max(SILENCE_FACTOR * self._slow, SHORTEST_SILENCE), LONGEST_SILENCE)

    def second(self) -> float:
        """Give after how many seconds of silence a request that somebody waits for is sent a second time."""
        return max(SECOND_FACTOR * self._slow, SOONEST_SECOND)
