"""Attach, reset, save and restore: whatever was written, every byte equals the image again."""

import ctypes
import gc
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.engine import heap as heap_module
from nexus_core.engine.heap import AttachedHeap, HeapDelta
from nexus_core.engine.image import PAGE, WASM_PAGE, HeapImage, HotPages, ImageArena

WASM_PAGES = 3
SIZE = WASM_PAGES * WASM_PAGE
PAGES = SIZE // PAGE
MORE = SIZE + WASM_PAGE
ARENA = ImageArena()


class Memory:
    """A stretch of this process's memory, as an instance has one."""

    def __init__(self, size: int = MORE) -> None:
        self._map = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._hold = ctypes.c_char.from_buffer(self._map)
        self.heap = AttachedHeap(ctypes.addressof(self._hold))

    def close(self) -> None:
        """Unmap it."""
        del self._hold
        self._map.close()


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Memory to attach images to."""
    made = Memory()
    yield made
    made.close()


def make_image(marks: dict[int, int], base: HeapImage | None = None, size: int = SIZE) -> HeapImage:
    """An image whose pages are filled with marks."""
    return HeapImage(
        ARENA,
        base=base,
        memory_size=size,
        stack_pointer=PAGE,
        handles={},
        pages={number: bytes([mark]) * PAGE for number, mark in marks.items()},
    )


page_marks = st.dictionaries(st.integers(0, PAGES - 1), st.integers(0, 255), max_size=12)
writes = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=3 * PAGE)).map(
        lambda pair: (min(pair[0], SIZE - len(pair[1])), pair[1])
    ),
    max_size=6,
)


@given(page_marks, page_marks, st.lists(writes, min_size=1, max_size=HotPages.LESSONS + 3), st.booleans())
def test_after_a_reset_every_byte_is_the_images(
    base: dict[int, int], own: dict[int, int], calls: list[list[tuple[int, bytes]]], learn: bool
) -> None:
    """For any image and any writes of any number of calls, learned from or not."""
    memory, image = Memory(), make_image(own, make_image(base))
    try:
        memory.heap.attach(image, learn=learn)
        assert memory.heap.read(0, SIZE) == image.contents()
        for call in calls:
            for start, data in call:
                memory.heap.write(start, data)
            memory.heap.reset()
            assert memory.heap.changed_pages() == frozenset()
            assert memory.heap.read(0, SIZE) == image.contents()
    finally:
        memory.close()


@given(page_marks, writes, st.binary(max_size=WASM_PAGE))
def test_a_saved_call_comes_back_in_another_memory(
    own: dict[int, int], written: list[tuple[int, bytes]], grown: bytes
) -> None:
    """Image and delta together are the whole memory, also of a call that outgrew its image."""
    first, second, image = Memory(), Memory(), make_image(own, make_image({1: 5}))
    try:
        first.heap.attach(image)
        for start, data in written:
            first.heap.write(start, data)
        first.heap.write(SIZE, grown)
        delta = first.heap.save(MORE)
        assert delta.memory_size == MORE
        second.heap.attach(image)
        second.heap.restore(delta)
        assert second.heap.read(0, MORE) == first.heap.read(0, MORE)
    finally:
        first.close()
        second.close()


def test_only_pages_that_differ_are_saved(memory: Memory) -> None:
    """A page written with what it held, or only read, costs a sleeping call nothing."""
    image = make_image({0: 1, 7: 2})
    memory.heap.attach(image)
    memory.heap.read(0, SIZE)
    memory.heap.write(7 * PAGE, bytes([2]) * PAGE)
    memory.heap.write(9 * PAGE + 5, b"x")
    assert set(memory.heap.save(SIZE).pages) == {9}


def test_without_pagemap_all_pages_count_as_touched(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not say what was touched (gVisor), nothing is lost."""
    image = make_image({0: 1})
    memory.heap.attach(image)
    memory.heap.write(5 * PAGE, b"x")
    monkeypatch.setattr(heap_module, "Path", lambda _name: Path("/nonexistent"))
    assert set(memory.heap.save(SIZE).pages) == {5}
    memory.heap.reset()
    assert memory.heap.changed_pages() == frozenset()


def test_a_short_pagemap_loses_nothing(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages the kernel was silent about count as touched."""
    memory.heap.attach(make_image({0: 1}))
    memory.heap.write((PAGES - 1) * PAGE, b"x")
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda *where: whole(*where)[:80])
    assert set(memory.heap.save(SIZE).pages) == {PAGES - 1}


def test_a_process_short_of_mappings_still_attaches(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning needs many mappings; where the kernel refuses them, the image is attached without."""
    image = make_image({0: 1, 3: 2})
    real, refused = AttachedHeap._advise, iter([None] * 5)

    def advise(heap: AttachedHeap, start: int, length: int, advice: ctypes.c_int) -> None:
        if advice is heap_module._RANDOM and next(refused, 0) == 0:
            raise heap_module.MappingFailed(12, "no more mappings")
        real(heap, start, length, advice)

    monkeypatch.setattr(AttachedHeap, "_advise", advise)
    memory.heap.attach(image)
    assert memory.heap.read(0, SIZE) == image.contents()
    memory.heap.write(PAGE, b"x")
    memory.heap.reset()
    assert memory.heap.changed_pages() == frozenset()


def test_large_images_are_not_watched() -> None:
    """A large image never takes a mapping per page, of which a process has few."""
    size = heap_module._MOST_WATCHED + WASM_PAGE
    memory, image = Memory(size), make_image({0: 1}, size=size)
    before = len(Path("/proc/self/maps").read_text().splitlines())
    memory.heap.attach(image)
    assert len(Path("/proc/self/maps").read_text().splitlines()) < before + 10
    memory.heap.write(PAGE, b"x")
    memory.heap.reset()
    assert memory.heap.changed_pages() == frozenset()
    memory.close()


def test_learning_ends_and_leaves_few_mappings(memory: Memory) -> None:
    """After the first calls the image is one mapping per stretch again, and its hot pages are known."""
    image = make_image({0: 1})
    before = len(Path("/proc/self/maps").read_text().splitlines())
    memory.heap.attach(image)
    for _ in range(HotPages.LESSONS):
        memory.heap.write(2 * PAGE, b"x")
        memory.heap.reset()
    assert not image.hot.learning
    assert image.hot.stretches() == [(2, 3)]
    assert len(Path("/proc/self/maps").read_text().splitlines()) < before + 10


def test_another_image_leaves_nothing_of_the_one_before(memory: Memory) -> None:
    """Attaching replaces every byte, whatever was attached and written."""
    first, second = make_image(dict.fromkeys(range(PAGES), 200)), make_image({3: 9})
    memory.heap.attach(first)
    memory.heap.write(0, b"secret" * 1000)
    memory.heap.attach(second)
    assert memory.heap.read(0, SIZE) == second.contents()


def test_one_instances_writes_reach_no_other() -> None:
    """Two memories with one image share its pages until one writes; the image itself never changes."""
    one, two, image = Memory(), Memory(), make_image({0: 1, 5: 2})
    contents = image.contents()
    one.heap.attach(image)
    two.heap.attach(image)
    one.heap.write(5 * PAGE, b"x" * PAGE)
    assert two.heap.read(0, SIZE) == contents == image.contents()
    one.close()
    two.close()


def test_an_image_lives_while_it_is_attached(memory: Memory) -> None:
    """Its pages are given back only when no memory maps it any more."""
    image = make_image(dict.fromkeys(range(PAGES), 7), make_image({}))
    memory.heap.attach(image)
    contents = image.contents()
    del image
    gc.collect()
    memory.heap.reset()
    assert memory.heap.read(0, SIZE) == contents


@pytest.mark.parametrize("action", ["reset", "changed_pages"])
def test_nothing_attached_is_a_mistake(action: str) -> None:
    """Asking for the image's state before there is one is refused."""
    with pytest.raises(ValueError, match="no image is attached"):
        getattr(AttachedHeap(0), action)()
    with pytest.raises(ValueError, match="no image is attached"):
        AttachedHeap(0).save(PAGE)


def test_a_refused_mapping_is_an_error() -> None:
    """Memory the kernel does not let us map is never taken for an attached image."""
    heap = AttachedHeap(1)
    with pytest.raises(heap_module.MappingFailed, match="mapping a heap image failed"):
        heap.attach(make_image({}))
    assert heap.image is None


def test_a_delta_is_plain_data() -> None:
    """What is kept of a sleeping call can be compared, stored and sent."""
    assert HeapDelta(memory_size=1, pages={0: b"x"}) == HeapDelta(memory_size=1, pages={0: b"x"})
