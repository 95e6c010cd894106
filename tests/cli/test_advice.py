"""The rules of `nexus tune`, each on both sides of its threshold."""

from typing import Any

import msgspec
import pytest

from functions.cli.advice import judge
from functions.cli.advice_terms import Tuning
from functions.cli.observed import PLATFORM, Observed
from nexus_core.config import RuntimeConfig
from nexus_core.limits import MIB, ResourceLimits

CONFIG = RuntimeConfig(max_instances=10, min_instances=2, workers=1)
POD = {
    "memory_used": 200.0 * MIB,
    "memory_request": 256.0 * MIB,
    "memory_limit": 1024.0 * MIB,
    "cpu_used": 0.07,
    "cpu_request": 0.1,
    "cpu_limit": 1.0,
    "cpu_target": 70.0,
    "memory_target": 80.0,
}
QUIET = Observed(
    seconds=3600.0,
    calls=10_000,
    execution_seconds=1000.0,
    cpu_seconds=499.0,
    wait_buckets=((0.001, 10_000.0), (float("inf"), 10_000.0)),
    looks=10_000,
    busy=5.0,
    peak_memory_bytes=10.0 * MIB,
    platform=POD,
)


def seen(**changed: Any) -> Observed:
    """A quiet hour, with something that is not."""
    return msgspec.structs.replace(QUIET, **changed)


def waits(share_above_10_ms: float) -> tuple[tuple[float, float], ...]:
    """Buckets of 10,000 waits, of which this share took 10 ms or longer."""
    return (0.01, 10_000 * (1 - share_above_10_ms)), (0.1, 10_000.0), (float("inf"), 10_000.0)


def pod(**changed: float) -> Observed:
    """The quiet hour in a pod with other values."""
    return seen(platform={**POD, **changed})


def changes(observed: Observed, config: RuntimeConfig = CONFIG) -> dict[str, tuple[str, str]]:
    """What would be changed, by setting: from what to what."""
    return {one.setting: (one.now, one.to) for one in judge(observed, config).change}


def config(**changed: Any) -> RuntimeConfig:
    """The usual settings with others among them."""
    return msgspec.structs.replace(CONFIG, **changed)


def test_a_quiet_server_needs_nothing() -> None:
    """With all values in range there is nothing to change and nothing unknown."""
    assert judge(QUIET, CONFIG) == Tuning((), ())


@pytest.mark.parametrize(
    ("refused", "now", "expected"),
    [
        (9.0, QUIET, {}),
        (10.0, QUIET, {"max_instances": ("10", "20")}),
        (10.0, seen(cpu_seconds=500.0), {}),
    ],
)
def test_refused_calls(refused: float, now: Observed, expected: dict[str, Any]) -> None:
    """From one refused call in a thousand on the pool is doubled, unless calls compute half their time."""
    observed = msgspec.structs.replace(now, errors={"POOL_EXHAUSTED": refused})
    assert changes(observed) == expected


@pytest.mark.parametrize(("share", "expected"), [(0.05, {"max_instances": ("10", "15")}), (0.049, {})])
def test_waiting_calls(share: float, expected: dict[str, Any]) -> None:
    """The pool grows by half once 5 % of the calls wait 10 ms."""
    assert changes(seen(wait_buckets=waits(share + 1e-9))) == expected


def test_a_pool_without_memory() -> None:
    """A pool that stands at its memory gets more memory; below it, more instances."""
    bounded = config(max_total_memory_bytes=100 * MIB)
    full = seen(errors={"POOL_EXHAUSTED": 50.0}, pool_memory_bytes=85.0 * MIB)
    assert changes(full, bounded) == {"max_total_memory_bytes": ("100 MiB", "192 MiB")}
    assert set(changes(seen(errors={"POOL_EXHAUSTED": 50.0}, pool_memory_bytes=84.0 * MIB), bounded)) == {
        "max_instances"
    }


def test_settings_of_another_server() -> None:
    """More busy instances than the settings allow means they are not the server's: no advice on them."""
    tuning = judge(seen(busy_now=11.0, errors={"POOL_EXHAUSTED": 50.0}), CONFIG)
    assert (tuning.change, [one.setting for one in tuning.unknown]) == ((), ["max_instances"])
    assert set(changes(seen(busy_now=10.0, errors={"POOL_EXHAUSTED": 50.0}))) == {"max_instances"}


def test_a_pool_that_is_too_large() -> None:
    """A pool four times as large as ever needed shrinks to twice the need, when an hour says so."""
    large = config(max_instances=100)
    assert changes(seen(busy=25.0), large) == {"max_instances": ("100", "50")}
    assert changes(seen(busy=26.0), large) == {}
    assert changes(seen(busy=1.0), large) == {"max_instances": ("100", "10")}
    for observed in (seen(busy=25.0, seconds=3599.0), seen(busy=None)):
        tuning = judge(observed, large)
        assert (tuning.change, [one.setting for one in tuning.unknown]) == ((), ["max_instances"])


@pytest.mark.parametrize(
    ("processors", "workers", "expected"),
    [
        (0.6, 1, {}),
        (0.61, 1, {"workers": ("1", "2")}),
        (2.5, 2, {"workers": ("2", "5")}),
        (0.81, 4, {}),
        (0.8, 4, {"workers": ("4", "2")}),
        (0.0, 1, {}),
    ],
)
def test_workers_follow_what_guests_compute(
    processors: float, workers: int, expected: dict[str, Any]
) -> None:
    """Workers whose guests keep them busy for 60 % get company; those that stay under 20 % get fewer."""
    observed = seen(cpu_seconds=processors * 3600, execution_seconds=1e6, platform={**POD, "cpu_limit": 9.0})
    assert changes(observed, config(workers=workers)) == expected


def test_workers_without_a_span() -> None:
    """Without a span of time, waiting calls that compute speak for one more worker; else none can tell."""
    crowd = seen(seconds=None, cpu_seconds=500.0, errors={"POOL_EXHAUSTED": 10.0})
    assert changes(crowd) == {"workers": ("1", "2")}
    (advice,) = judge(crowd, CONFIG).change
    assert "the cpu limit, 1, is less" in advice.why
    for quiet in (seen(seconds=None, cpu_seconds=500.0), seen(seconds=None, errors=crowd.errors)):
        assert [one.setting for one in judge(quiet, CONFIG).unknown] == ["workers"]


@pytest.mark.parametrize(
    ("created", "idle", "expected"),
    [
        (100, 50, {"min_instances": ("2", "4")}),
        (99, 50, {}),
        (100, 49, {}),
    ],
)
def test_instances_that_come_and_go(created: float, idle: float, expected: dict[str, Any]) -> None:
    """One new instance in a hundred calls, half of them for idle ones retired, speaks for keeping more."""
    assert changes(seen(created=created, retired_idle=idle)) == expected
    assert changes(seen(created=created, retired_idle=idle), config(min_instances=10)) == {}


@pytest.mark.parametrize(
    ("calls", "errors", "expected"),
    [
        (10_000, 10, {"memory_limit_bytes": ("32 MiB", "64 MiB")}),
        (10_000, 9, {}),
        (1_000, 5, {"memory_limit_bytes": ("32 MiB", "64 MiB")}),
        (1_000, 4, {}),
    ],
)
def test_calls_that_want_memory(calls: float, errors: float, expected: dict[str, Any]) -> None:
    """From one call in a thousand, and five in all, that end for want of memory, the limit doubles."""
    assert changes(seen(calls=calls, errors={"MEMORY_LIMIT": errors})) == expected


def test_memory_nobody_takes() -> None:
    """A limit above the default and four times what any call took goes down, never below the default."""
    large = config(limits=ResourceLimits(memory_limit_bytes=128 * MIB))
    assert changes(seen(peak_memory_bytes=32.0 * MIB), large) == {"memory_limit_bytes": ("128 MiB", "64 MiB")}
    assert changes(seen(peak_memory_bytes=33.0 * MIB), large) == {}
    assert changes(seen(peak_memory_bytes=3.0 * MIB), large) == {"memory_limit_bytes": ("128 MiB", "32 MiB")}
    assert changes(seen(peak_memory_bytes=3.0 * MIB)) == {}


@pytest.mark.parametrize(
    ("misses", "compiles", "size", "expected"),
    [
        (500, 0, 51.2, {"max_cache_size_bytes": ("64 MiB", "128 MiB")}),
        (499, 499, 64.0, {}),
        (500, 500, 51.0, {"cache_seed_dir": ("unset", "a folder filled by `nexus build`")}),
        (500, 499, 51.0, {}),
    ],
)
def test_the_cache(misses: float, compiles: float, size: float, expected: dict[str, Any]) -> None:
    """One look in twenty in vain: a full cache doubles, one with room gets a seed where they are compiled."""
    assert changes(seen(memory_misses=misses, compiles=compiles, cache_bytes=size * MIB + 1)) == expected


@pytest.mark.parametrize(("looks", "advised"), [(1000, True), (999, False)])
def test_few_looks_into_the_cache(looks: float, advised: bool) -> None:
    """Under a thousand looks nothing is said of the cache."""
    full = seen(looks=looks, memory_misses=looks, cache_bytes=64.0 * MIB)
    assert bool(changes(full)) == advised


def test_a_cache_of_no_size() -> None:
    """A cache that was switched off gets the default size."""
    observed = seen(memory_misses=10_000, compiles=10_000)
    assert changes(observed, config(max_cache_size_bytes=0)) == {
        "max_cache_size_bytes": ("0 bytes", "64 MiB")
    }


@pytest.mark.parametrize(
    ("reason", "setting"), [("read_only", "cache_dir"), ("seed_damaged", "cache_seed_dir")]
)
def test_a_broken_cache(reason: str, setting: str) -> None:
    """A cache that was given up is told with its reason, however few the calls."""
    tuning = judge(seen(degraded={reason: 1.0}, calls=0), CONFIG)
    (advice,) = tuning.change
    assert advice.now == ("unset" if setting == "cache_seed_dir" else "/tmp/nexus-cache")
    assert (advice.setting, reason in advice.rests_on[0], "nexus doctor" in advice.why) == (
        setting,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (pod(memory_used=256.0 * MIB), {}),
        (pod(memory_used=257.0 * MIB), {"memory request": ("256 MiB", "384 MiB")}),
        (pod(memory_used=128.0 * MIB), {}),
        (pod(memory_used=100.0 * MIB), {"memory request": ("256 MiB", "128 MiB")}),
        (pod(memory_used=870.0 * MIB, memory_request=900.0 * MIB, memory_target=99.0), {}),
        (
            pod(memory_used=871.0 * MIB, memory_request=900.0 * MIB, memory_target=99.0),
            {"memory limit": ("1 GiB", "1.312 GiB")},
        ),
        (pod(cpu_used=0.09), {}),
        (pod(cpu_used=0.091), {"cpu request": ("100m", "150m")}),
        (pod(cpu_used=0.03), {}),
        (pod(cpu_used=0.029), {"cpu request": ("100m", "50m")}),
        (pod(cpu_limit=0.999), {"cpu limit": ("999m", "1000m")}),
        (pod(memory_target=78.2), {}),
        (pod(memory_target=78.1), {"HPA memory target": ("78 %", "none, or a larger memory request")}),
    ],
)
def test_requests_limits_and_targets(observed: Observed, expected: dict[str, Any]) -> None:
    """What a pod is given follows what it uses, each rule at its threshold."""
    if observed.platform["memory_used"] > 200 * MIB:
        observed = msgspec.structs.replace(observed, platform={**observed.platform, "memory_target": 200.0})
    assert changes(observed) == expected


def test_an_autoscaler_that_does_not_see_the_crowd() -> None:
    """Where calls wait and pods stay under the target, it goes down below what they use."""
    crowd = {"POOL_EXHAUSTED": 10.0}
    below = seen(errors=crowd, platform={**POD, "cpu_used": 0.069})
    assert changes(below)["HPA cpu target"] == ("70 %", "55 %")
    assert "HPA cpu target" not in changes(seen(errors=crowd))
    assert "HPA memory target" not in changes(seen(errors=crowd, platform={**POD, "memory_target": 50.0}))


def test_too_few_calls() -> None:
    """Under a thousand calls only states speak, and that is said."""
    crowd = {"errors": {"POOL_EXHAUSTED": 500.0}, "created": 500.0, "retired_idle": 500.0}
    tuning = judge(seen(calls=999, **crowd), CONFIG)
    assert (tuning.change, tuning.unknown[0].why) == ((), "999 calls so far; 1,000 are needed")
    enough = judge(seen(calls=1000, **crowd), CONFIG)
    assert (enough.change != (), enough.unknown) == (True, ())


def test_what_is_missing_is_named() -> None:
    """Values of the platform that are not there are named, and no rule guesses them."""
    for name in PLATFORM:
        left = {key: value for key, value in POD.items() if key != name}
        tuning = judge(seen(platform=left), CONFIG)
        assert tuning.change == ()
        assert f"not known: {name};" in tuning.unknown[0].why


def test_advice_rests_on_metrics() -> None:
    """Each advice on the server names the metrics and values it rests on."""
    crowd = seen(errors={"POOL_EXHAUSTED": 12.0}, created=500.0, retired_idle=500.0, memory_misses=9000.0)
    advice = judge(crowd, CONFIG).change
    assert [one.setting for one in advice][:2] == [
        "max_instances",
        "min_instances",
    ]
    assert all(line.startswith(("nexus_", "cpu used")) for one in advice for line in one.rests_on)
    assert 'nexus_errors_total{code="POOL_EXHAUSTED"} = 12 of 10,000 calls' in advice[0].rests_on
