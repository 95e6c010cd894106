"""Taking turns, and the arithmetic of pairs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import timing

POSITIVE = st.floats(min_value=0.001, max_value=1e6)


async def test_contenders_take_turns_and_every_other_round_goes_backwards() -> None:
    """No contender always runs first, and each runs once in every round, the warming one included."""
    order: list[str] = []

    def contender(name: str) -> timing.Block:
        async def block(calls: int) -> list[int]:
            order.append(name)
            return [2_000] * calls

        return block

    medians = await timing.alternate({"a": (contender("a"), 3), "b": (contender("b"), 1)}, rounds=2)
    assert "".join(order) == "abbaab"
    assert medians == {"a": [2.0, 2.0], "b": [2.0, 2.0]}


async def test_a_block_times_each_call() -> None:
    """Plain and awaited contenders are called as often as asked, one sample each."""
    calls: list[int] = []

    async def awaited() -> None:
        calls.append(2)

    samples = await timing.sync_block(lambda: calls.append(1))(3)
    samples += await timing.async_block(awaited)(2)
    assert calls == [1, 1, 1, 2, 2]
    assert len(samples) == 5
    assert min(samples) > 0


def test_a_ratio_is_formed_within_each_round() -> None:
    """A round in which the whole machine was slow changes both sides and so not the ratio."""
    assert timing.paired_ratio([12.0, 120.0, 13.0], [1.0, 10.0, 1.0]) == 12.0


@given(st.lists(POSITIVE, min_size=1, max_size=20), POSITIVE)
def test_a_constant_ratio_is_found_whatever_the_noise(noise: list[float], factor: float) -> None:
    """If one side is always `factor` times the other, that is the ratio."""
    assert timing.paired_ratio([value * factor for value in noise], noise) == pytest.approx(factor)


def test_a_difference_is_formed_within_each_round() -> None:
    """The median of differences, not the difference of medians."""
    assert timing.paired_difference([10.0, 100.0, 30.0], [9.0, 95.0, 10.0]) == 5.0


def test_pairs_of_unequal_length_are_refused() -> None:
    """A round that one side lacks cannot be paired silently."""
    with pytest.raises(ValueError, match="shorter"):
        timing.paired_ratio([1.0, 2.0], [1.0])
