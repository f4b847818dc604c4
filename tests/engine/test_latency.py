"""The latency and rate of a server, estimated from its replies within bounds."""

from hypothesis import given
from hypothesis import strategies as st

from empiarfs.engine.latency import LatencyEstimator
from empiarfs.units import KIB, MIB

TIMES = st.lists(st.floats(0, 1000), max_size=150)


@given(times=TIMES, counts=st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 100)), max_size=30))
def test_all_estimates_stay_in_bounds(times: list[float], counts: list[tuple[int, float]]) -> None:
    """The timeout is 2 to 12 s, a hedge is never immediate, and request sizes have bounds."""
    latency = LatencyEstimator(8 * MIB)
    for seconds in times:
        latency.record(seconds)
    for count, seconds in counts:
        latency.record_rate(count, seconds)
    assert 2 <= latency.read_timeout() <= 12
    assert latency.hedge_delay() >= 0.1
    assert 0 < latency.request_size_bounds()[1] <= 8 * MIB


def test_the_percentiles_are_those_of_the_replies() -> None:
    """Half of the replies begin sooner than the median, and 95 of 100 sooner than the 95th percentile."""
    latency = LatencyEstimator(MIB)
    assert latency.rate == 0
    for number in range(64):
        latency.record(number / 64)
    latency.record_rate(MIB, 0.5)
    assert (latency.ttfb_median, latency.ttfb_p95, latency.rate) == (0.5, 60 / 64, 2 * MIB)


def test_the_rate_is_the_median() -> None:
    """Neither a burst nor a stall changes the rate."""
    latency = LatencyEstimator(MIB)
    for seconds in (1.0, 100.0, 0.01):
        latency.record_rate(MIB, seconds)
    assert latency.rate == MIB


def test_the_timeout_of_a_fast_server_is_shorter() -> None:
    """The timeout depends on the latency."""
    quick, slow = LatencyEstimator(MIB), LatencyEstimator(MIB)
    for _ in range(64):
        quick.record(0.05)
        slow.record(2.0)
    assert quick.read_timeout() < slow.read_timeout()
    assert quick.hedge_delay() < 0.5
    assert slow.hedge_delay() >= 2.0


def test_a_rare_hanging_request_does_not_count() -> None:
    """Three hanging requests in a hundred do not change the estimate."""
    latency = LatencyEstimator(MIB)
    for number in range(64):
        latency.record(100.0 if number in {10, 40} else 0.1)
    assert latency.hedge_delay() < 0.5


def test_few_samples_do_not_shorten_the_delay() -> None:
    """After one fast reply the hedge delay is still the initial one."""
    latency = LatencyEstimator(MIB)
    before = latency.hedge_delay()
    latency.record(0.001)
    assert latency.hedge_delay() == before


def test_old_replies_are_forgotten() -> None:
    """A server that has become fast counts as fast."""
    latency = LatencyEstimator(MIB)
    for seconds in [5.0] * 200 + [0.05] * 64:
        latency.record(seconds)
    assert latency.hedge_delay() < 0.5


def test_requests_are_longer_on_a_fast_connection() -> None:
    """A request takes about a second at any rate."""
    fast, slow = LatencyEstimator(64 * MIB), LatencyEstimator(64 * MIB)
    for _ in range(64):
        fast.record_rate(20 * MIB, 1.0)
        slow.record_rate(MIB, 1.0)
    assert 10 * MIB < fast.request_size_bounds()[1] <= 64 * MIB
    assert slow.request_size_bounds()[1] < 2 * MIB


def test_splitting_pays_on_a_slow_connection() -> None:
    """A read is split if half of its transfer outweighs the latency of a second connection."""
    fast, slow = LatencyEstimator(64 * MIB), LatencyEstimator(64 * MIB)
    for _ in range(64):
        for latency in (fast, slow):
            latency.record(0.1)
        fast.record_rate(100 * MIB, 1.0)
        slow.record_rate(MIB, 1.0)
    assert slow.worth_splitting(MIB)
    assert not fast.worth_splitting(MIB)


def test_a_block_over_a_fast_connection_is_one_request() -> None:
    """However short the latency is, a block that arrives within milliseconds is not split."""
    near = LatencyEstimator(64 * MIB)
    for _ in range(64):
        near.record(0.001)
        near.record_rate(20 * MIB, 1.0)
    assert not near.worth_splitting(128 * KIB)
    assert near.worth_splitting(MIB)


def test_the_timeout_doubles_after_each_timeout() -> None:
    """Each timeout doubles the next, up to a minute, until a request of the same kind is answered."""
    latency = LatencyEstimator(8 * MIB)
    usual = latency.read_timeout("GET")
    seen = []
    for _ in range(8):
        latency.record_timeout("GET")
        seen.append(latency.read_timeout("GET"))
    assert seen[0] == 2 * usual
    assert seen == sorted(seen)
    assert seen[-1] == 60.0
    latency.record(0.01, "HEAD")
    assert latency.read_timeout("GET") == 60.0
    assert latency.read_timeout("HEAD") <= usual
    latency.record(3.0, "GET")
    assert latency.read_timeout("GET") <= 12.0
