"""Live values in memory, bounded by their bytes."""

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.caches.memory import MemoryCache

KEYS = st.sampled_from("abcdef")
OPERATIONS = st.one_of(
    st.tuples(st.just("get"), KEYS, st.just(0)),
    st.tuples(st.just("put"), KEYS, st.integers(0, 12)),
    st.tuples(st.just("discard"), KEYS, st.just(0)),
)


@given(operations=st.lists(OPERATIONS, max_size=60))
def test_it_behaves_like_a_simple_list_of_uses(operations: list[tuple[str, str, int]]) -> None:
    """Every answer and every count equals that of a map kept in order of use and cut from its old end."""
    cache: MemoryCache[str, bytes] = MemoryCache(10, len)
    model: OrderedDict[str, bytes] = OrderedDict()
    for name, key, size in operations:
        if name == "get":
            assert cache.get(key) == model.get(key)
            if key in model:
                model.move_to_end(key)
        elif name == "discard":
            cache.discard(key)
            model.pop(key, None)
        else:
            cache.put(key, bytes(size))
            model.pop(key, None)
            if size <= 10:
                model[key] = bytes(size)
            while sum(map(len, model.values())) > 10:
                model.popitem(last=False)
        found = cache.statistics()
        assert (found.entries, found.bytes) == (len(model), sum(map(len, model.values())))


def test_the_least_recently_used_goes_first() -> None:
    """A value that was asked for outlives a younger one that was not."""
    cache: MemoryCache[str, bytes] = MemoryCache(3, len)
    for key in "abc":
        cache.put(key, b"1")
    cache.get("a")
    cache.put("d", b"1")
    assert [cache.get(key) for key in "abcd"] == [b"1", None, b"1", b"1"]


@pytest.mark.parametrize(("size", "kept"), [(9, True), (10, True), (11, False)])
def test_a_value_up_to_the_bound_is_kept(size: int, kept: bool) -> None:
    """The bound is reached, not passed, by a value of exactly its size; a larger one is not kept."""
    cache: MemoryCache[str, bytes] = MemoryCache(10, len)
    cache.put("a", bytes(size))
    assert (cache.get("a") is not None) == kept


def test_a_value_too_large_replaces_the_old_one_by_none() -> None:
    """The old value of a key never comes back once a newer one was put."""
    cache: MemoryCache[str, bytes] = MemoryCache(10, len)
    cache.put("a", b"old")
    cache.put("b", b"other")
    cache.put("a", bytes(11))
    assert (cache.get("a"), cache.get("b")) == (None, b"other")


def test_a_dropped_value_can_still_be_used() -> None:
    """Eviction forgets a value; whoever holds it goes on."""
    cache: MemoryCache[str, bytearray] = MemoryCache(10, len)
    held = bytearray(b"12345678")
    cache.put("a", held)
    cache.put("b", bytearray(8))
    assert cache.get("a") is None
    assert held == b"12345678"


def test_a_size_is_asked_for_once() -> None:
    """A value whose size grows later cannot unbalance the count."""
    cache: MemoryCache[str, bytearray] = MemoryCache(100, len)
    value = bytearray(10)
    cache.put("a", value)
    value.extend(bytes(50))
    cache.discard("a")
    assert cache.statistics().bytes == 0


def test_clearing_leaves_nothing() -> None:
    """After `clear` every key is gone and no byte is counted."""
    cache: MemoryCache[str, bytes] = MemoryCache(10, len)
    cache.put("a", b"123")
    assert repr(cache) == "<MemoryCache 1 entries, 3 of 10 bytes>"
    cache.clear()
    assert cache.get("a") is None
    assert repr(cache) == "<MemoryCache 0 entries, 0 of 10 bytes>"


class _AsksOnItsWayOut:
    """A value that uses the cache when it dies."""

    def __init__(self, cache: "MemoryCache[str, _AsksOnItsWayOut]", deaths: list[str], name: str) -> None:
        self._cache, self._deaths, self._name = cache, deaths, name

    def __del__(self) -> None:
        self._cache.get("any")
        self._deaths.append(self._name)


def test_values_die_outside_the_lock() -> None:
    """A dropped value may use the cache, whether it was replaced, evicted, discarded or cleared."""
    cache: MemoryCache[str, _AsksOnItsWayOut] = MemoryCache(2, lambda _: 1)
    deaths: list[str] = []
    for key, name in (("a", "replaced"), ("a", "evicted"), ("b", "discarded"), ("c", "cleared")):
        cache.put(key, _AsksOnItsWayOut(cache, deaths, name))
    cache.discard("b")
    cache.clear()
    assert deaths == ["replaced", "evicted", "discarded", "cleared"]


def test_threads_share_it() -> None:
    """Eight threads never see another key's value nor a count that is off."""
    cache: MemoryCache[int, bytes] = MemoryCache(500, len)

    def use(number: int) -> bool:
        key = number % 50
        cache.put(key, bytes((key,)) * (key + 1))
        if number % 7 == 0:
            cache.discard((number * 3) % 50)
        found = cache.get((number * 11) % 50)
        return found is None or found == bytes(((number * 11) % 50,)) * ((number * 11) % 50 + 1)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(8000)))
    held = [value for key in range(50) if (value := cache.get(key)) is not None]
    found = cache.statistics()
    assert (found.entries, found.bytes) == (len(held), sum(map(len, held)))
    assert found.bytes <= 500
