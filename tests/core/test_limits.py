"""`ResourceLimits`: defaults, ranges and narrowing."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.limits import KIB, MIB, ResourceLimits

FIELDS = ResourceLimits.__struct_fields__
TIMES = ("timeout_ms", "cpu_ms")
SMALL = st.builds(ResourceLimits, **{name: st.integers(0, 5) for name in FIELDS})


def amount(limits: ResourceLimits, name: str) -> float:
    """What a limit lets through: a time of 0 lets everything through."""
    value: int = getattr(limits, name)
    return float("inf") if name in TIMES and value == 0 else value


def test_defaults_are_the_documented_ones() -> None:
    """Without a manifest a handler gets the limits that docs/limits.md promises."""
    assert ResourceLimits() == ResourceLimits(
        timeout_ms=5_000,
        cpu_ms=0,
        memory_limit_bytes=32 * MIB,
        stack_size_bytes=MIB,
        max_host_calls=10_000,
        max_state_mutations=1_000,
        max_events=100,
        max_input_bytes=6 * MIB,
        max_output_bytes=6 * MIB,
        max_log_bytes=64 * KIB,
    )


def test_a_limit_cannot_be_changed() -> None:
    """Limits are shared by concurrent calls, so nobody can change them in place."""
    with pytest.raises(AttributeError, match="immutable"):
        ResourceLimits().timeout_ms = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("timeout_ms", 0, 86_400_000),
        ("cpu_ms", 0, 86_400_000),
        ("memory_limit_bytes", 4 * MIB, 4096 * MIB - 64 * KIB),
        ("stack_size_bytes", 64 * KIB, MIB),
        ("max_host_calls", 0, 10_000_000),
        ("max_state_mutations", 0, 10_000_000),
        ("max_events", 0, 10_000_000),
        ("max_input_bytes", 0, 256 * MIB),
        ("max_output_bytes", 0, 256 * MIB),
        ("max_log_bytes", 0, 64 * MIB),
    ],
)
def test_decoding_accepts_exactly_the_range(name: str, low: int, high: int) -> None:
    """A decoded limit may be the lowest or the highest allowed value, and not one step outside."""
    for value in (low, high):
        assert getattr(msgspec.convert({name: value}, ResourceLimits), name) == value
    for value in (low - 1, high + 1):
        with pytest.raises(msgspec.ValidationError, match=name):
            msgspec.convert({name: value}, ResourceLimits)


def test_decoding_refuses_an_unknown_limit() -> None:
    """A misspelt limit is an error, not a limit that silently does not hold."""
    with pytest.raises(msgspec.ValidationError, match="timeout"):
        msgspec.convert({"timeout": 5}, ResourceLimits)


@given(SMALL, SMALL)
def test_narrowing_takes_the_tighter_of_each(mine: ResourceLimits, theirs: ResourceLimits) -> None:
    """Each limit of the result lets through what both sides let through, whoever asks whom."""
    both = mine.narrowed(theirs)
    for name in FIELDS:
        assert amount(both, name) == min(amount(mine, name), amount(theirs, name))
    assert theirs.narrowed(mine) == both


@given(SMALL)
def test_narrowing_by_itself_changes_nothing(limits: ResourceLimits) -> None:
    """Asking for what one already has is no change."""
    assert limits.narrowed(limits) == limits


def test_a_time_of_zero_never_widens() -> None:
    """A caller that asks for no time limit keeps the handler's, and the other way round."""
    limited, unlimited = ResourceLimits(timeout_ms=2_000), ResourceLimits(timeout_ms=0)
    assert limited.narrowed(unlimited).timeout_ms == 2_000
    assert unlimited.narrowed(limited).timeout_ms == 2_000
    assert unlimited.narrowed(unlimited).timeout_ms == 0


@given(limits=SMALL, left=st.integers(1, 10))
def test_what_a_host_has_left_bounds_the_time_alone(limits: ResourceLimits, left: int) -> None:
    """Within a host's time a call has the shorter of the two, and every other limit unchanged."""
    within = limits.within(left)
    assert amount(within, "timeout_ms") == min(amount(limits, "timeout_ms"), left)
    assert msgspec.structs.replace(within, timeout_ms=limits.timeout_ms) == limits
