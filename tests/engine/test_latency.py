"""How soon a server usually answers, learnt from its replies, within bounds."""

from hypothesis import given
from hypothesis import strategies as st

from empiarfs.engine.latency import LatencyEstimator
from empiarfs.units import MIB

TIMES = st.lists(st.floats(0, 1000), max_size=150)


@given(times=TIMES, counts=st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 100)), max_size=30))
def test_whatever_was_learnt_stays_in_bounds(times: list[float], counts: list[tuple[int, float]]) -> None:
    """Silence is borne for 2 to 12 seconds; a second request is never sent at once; runs have a length."""
    latency = LatencyEstimator(8 * MIB)
    for seconds in times:
        latency.record(seconds)
    for count, seconds in counts:
        latency.record_rate(count, seconds)
    assert 2 <= latency.read_timeout() <= 12
    assert latency.hedge_delay() >= 0.1
    assert 0 < latency.request_size_bounds()[1] <= 8 * MIB


def test_what_is_usual_is_told() -> None:
    """Half of the replies begin sooner than the usual time, 95 of 100 sooner than the slow one."""
    latency = LatencyEstimator(MIB)
    assert latency.rate == 0
    for number in range(64):
        latency.record(number / 64)
    latency.record_rate(MIB, 0.5)
    assert (latency.ttfb_median, latency.ttfb_p95, latency.rate) == (0.5, 60 / 64, 2 * MIB)


def test_the_rate_is_that_of_the_middle_reply() -> None:
    """Neither a burst nor a stall tells how fast a connection is."""
    latency = LatencyEstimator(MIB)
    for seconds in (1.0, 100.0, 0.01):
        latency.record_rate(MIB, seconds)
    assert latency.rate == MIB


def test_a_quick_server_is_given_up_sooner_than_a_slow_one() -> None:
    """What is usual decides what is silence."""
    quick, slow = LatencyEstimator(MIB), LatencyEstimator(MIB)
    for _ in range(64):
        quick.record(0.05)
        slow.record(2.0)
    assert quick.read_timeout() < slow.read_timeout()
    assert quick.hedge_delay() < 0.5
    assert slow.hedge_delay() >= 2.0


def test_a_rare_hanging_request_does_not_count() -> None:
    """Three in a hundred hang; the others tell what is usual."""
    latency = LatencyEstimator(MIB)
    for number in range(64):
        latency.record(100.0 if number in {10, 40} else 0.1)
    assert latency.hedge_delay() < 0.5


def test_a_few_quick_replies_prove_little() -> None:
    """After one quick reply nobody is asked twice in a hurry."""
    latency = LatencyEstimator(MIB)
    before = latency.hedge_delay()
    latency.record(0.001)
    assert latency.hedge_delay() == before


def test_old_replies_are_forgotten() -> None:
    """A server that has become quick is taken for quick."""
    latency = LatencyEstimator(MIB)
    for seconds in [5.0] * 200 + [0.05] * 64:
        latency.record(seconds)
    assert latency.hedge_delay() < 0.5


def test_requests_are_longer_on_a_fast_line() -> None:
    """A run takes about a second, whatever the line."""
    fast, slow = LatencyEstimator(64 * MIB), LatencyEstimator(64 * MIB)
    for _ in range(64):
        fast.record_rate(20 * MIB, 1.0)
        slow.record_rate(MIB, 1.0)
    assert 10 * MIB < fast.request_size_bounds()[1] <= 64 * MIB
    assert slow.request_size_bounds()[1] < 2 * MIB


def test_splitting_pays_where_bytes_take_longer_than_the_first_of_them() -> None:
    """On a slow line half of a large read over a second connection is sooner here; on a fast one it is not."""
    fast, slow = LatencyEstimator(64 * MIB), LatencyEstimator(64 * MIB)
    for _ in range(64):
        for latency in (fast, slow):
            latency.record(0.1)
        fast.record_rate(100 * MIB, 1.0)
        slow.record_rate(MIB, 1.0)
    assert slow.worth_splitting(MIB)
    assert not fast.worth_splitting(MIB)


def test_a_server_that_is_only_slow_is_waited_for_longer_each_time() -> None:
    """Silence after silence, up to a minute; one answer of the same kind, and no other, ends that."""
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
