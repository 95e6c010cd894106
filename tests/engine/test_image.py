"""Heap images: what they hold, what is stored of them, and what of a file is believed."""

import gc
import os
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.engine.image import (
    PAGE,
    WASM_PAGE,
    HeapImage,
    HotPages,
    ImageArena,
    decode_image,
    nonzero_pages,
)
from nexus_core.engine.javascript import JavaScriptEngine
from nexus_core.engine.javascript_kind import JavaScriptKind
from tests.engine.guests import compile_text

PAGES = WASM_PAGE // PAGE


def page(mark: int) -> bytes:
    """A page that starts with a mark and is otherwise its number repeated."""
    return bytes([mark]) * PAGE


def image_of(
    arena: ImageArena, pages: dict[int, bytes], base: HeapImage | None = None, wasm_pages: int = 1
) -> HeapImage:
    """An image with these pages."""
    return HeapImage(
        arena,
        base=base,
        memory_size=wasm_pages * WASM_PAGE,
        stack_pointer=PAGE,
        handles={"out": 8},
        pages=pages,
    )


def held(arena: ImageArena) -> int:
    """Bytes of memory the arena takes."""
    return os.fstat(arena.descriptor).st_blocks * 512


def descriptors() -> int:
    """Open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


page_sets = st.dictionaries(st.integers(0, PAGES - 1), st.integers(0, 255).map(page), max_size=PAGES)


@given(page_sets, page_sets)
def test_an_image_is_its_base_and_its_own_pages(base_pages: dict[int, bytes], own: dict[int, bytes]) -> None:
    """Page by page and as a whole: its own page where it has one, else its base's, else zeros."""
    arena = ImageArena()
    base = image_of(arena, base_pages)
    image = image_of(arena, own, base, wasm_pages=2)
    expected = [own.get(number) or base_pages.get(number) or page(0) for number in range(2 * PAGES)]
    assert image.contents() == b"".join(expected)
    assert [image.page(number) for number in range(2 * PAGES)] == expected
    assert image.size == len(own) * PAGE
    covered = [
        number
        for stretch in image.stretches
        for number in range(stretch.start // PAGE, (stretch.start + stretch.length) // PAGE)
    ]
    assert covered == sorted(own)
    arena.close()


@given(page_sets)
def test_encoding_loses_nothing(pages: dict[int, bytes]) -> None:
    """A decoded image equals the encoded one in every byte and number."""
    arena = ImageArena()
    base = image_of(arena, {1: page(9)})
    image = image_of(arena, pages, base)
    copy = decode_image(arena, base, image.encode())
    assert copy.contents() == image.contents()
    assert (copy.memory_size, copy.stack_pointer) == (image.memory_size, image.stack_pointer)
    assert copy.handles == image.handles
    arena.close()


@given(st.binary(max_size=200) | st.integers(0, 400))
def test_any_bytes_are_an_image_or_a_value_error(change: bytes | int) -> None:
    """Hostile bytes, alone or as one changed byte of a true image, end in nothing worse than ValueError."""
    arena = ImageArena()
    good = image_of(arena, {0: page(1), 3: page(2)}).encode()
    if isinstance(change, bytes):
        data = change
    else:
        at = change % len(good)
        data = good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :]
    try:
        image = decode_image(arena, None, data)
    except ValueError:
        return
    finally:
        arena.close()
    assert 0 < image.memory_size < 1 << 32


def stored(**changes: object) -> bytes:
    """A stored image with some fields of another content."""
    fields = {
        "page_size": PAGE,
        "memory_size": WASM_PAGE,
        "stack_pointer": PAGE,
        "handles": {},
        "page_numbers": [0],
        "pages": zlib.compress(page(1)),
    }
    return msgspec.msgpack.encode(fields | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"page_size": PAGE * 2},
        {"memory_size": 0},
        {"memory_size": -WASM_PAGE},
        {"memory_size": WASM_PAGE + PAGE},
        {"memory_size": 1 << 40},
        {"page_numbers": [PAGES]},
        {"page_numbers": [-1]},
        {"page_numbers": [0, 1]},
        {"page_numbers": []},
        {"stack_pointer": -1},
        {"stack_pointer": WASM_PAGE + 1},
        {"pages": zlib.compress(page(1) + b"x")},
        {"pages": zlib.compress(page(1))[:-8]},
        {"pages": zlib.compress(bytes(1 << 26), 9)},
        {"pages": b"junk"},
        {"handles": {"out": "8"}},
    ],
)
def test_an_impossible_image_is_refused(changes: dict[str, object]) -> None:
    """What no process wrote is not mapped, and a bomb is not unpacked."""
    arena = ImageArena()
    assert decode_image(arena, None, stored()).memory_size == WASM_PAGE
    with pytest.raises(ValueError, match="heap image"):
        decode_image(arena, None, stored(**changes))
    arena.close()


def test_an_image_is_not_smaller_than_its_base() -> None:
    """An image of fewer bytes than its base cannot have been made over it."""
    arena = ImageArena()
    base = image_of(arena, {}, wasm_pages=2)
    with pytest.raises(ValueError, match="impossible memory"):
        decode_image(arena, base, stored())
    arena.close()


def test_handles_of_a_cached_image_are_the_bases(kind: JavaScriptKind, javascript: JavaScriptEngine) -> None:
    """The host writes to the addresses an image names, so a cached image cannot name others."""
    image = compile_text(kind, "export default () => 1")
    assert javascript.decode(image.encode()).handles == image.handles
    for name in javascript.base.handles:
        fields = msgspec.msgpack.decode(image.encode())
        fields["handles"][name] += 4
        with pytest.raises(ValueError, match="another base"):
            javascript.decode(msgspec.msgpack.encode(fields))
        del fields["handles"][name]
        with pytest.raises(ValueError, match="another base"):
            javascript.decode(msgspec.msgpack.encode(fields))


def test_a_dropped_image_gives_its_memory_back() -> None:
    """The arena holds the pages of living images only."""
    arena = ImageArena()
    kept = image_of(arena, {0: page(1)})
    many = [image_of(arena, {number: page(2) for number in range(PAGES)}) for _ in range(20)]
    assert held(arena) >= 21 * PAGE
    many.clear()
    gc.collect()
    assert held(arena) == PAGE
    assert kept.page(0) == page(1)
    arena.close()


def test_pages_of_zeros_take_no_memory() -> None:
    """An image may hold zeros over its base's page without paying for them."""
    arena = ImageArena()
    base = image_of(arena, {0: page(7)})
    image = image_of(arena, {0: page(0)}, base)
    assert image.page(0) == page(0)
    assert held(arena) == PAGE
    arena.close()


def test_a_closed_arena_may_be_closed_again() -> None:
    """Closing twice is harmless, and images that outlive their arena do no harm either."""
    arena = ImageArena()
    image = image_of(arena, {0: page(1)})
    arena.close()
    arena.close()
    del image
    gc.collect()


def test_compiling_takes_no_descriptors(kind: JavaScriptKind) -> None:
    """Hundreds of handlers compiled, kept and dropped leave the process with the descriptors it had."""
    compile_text(kind, "export default () => 0")
    before = descriptors()
    kept = [compile_text(kind, f"export default () => {number}") for number in range(100)]
    assert descriptors() == before
    kept.clear()
    assert descriptors() == before


def test_small_handlers_share_the_base(kind: JavaScriptKind, javascript: JavaScriptEngine) -> None:
    """What a small handler's image holds for itself is a fraction of the base."""
    image = compile_text(kind, "export default () => 1")
    assert image.base is javascript.base
    assert image.size < javascript.base.size


@given(st.binary(max_size=3 * PAGE))
def test_nonzero_pages(memory: bytes) -> None:
    """Exactly the pages with a byte that is not zero are kept."""
    memory = memory + bytes(-len(memory) % PAGE)
    pages = nonzero_pages(memory)
    assert all(any(content) for content in pages.values())
    rebuilt = b"".join(pages.get(number, page(0)) for number in range(len(memory) // PAGE))
    assert rebuilt == memory


@given(st.lists(st.frozensets(st.integers(0, 4000), max_size=300), min_size=1, max_size=5))
def test_hot_pages_are_bounded_and_in_order(lessons: list[frozenset[int]]) -> None:
    """Whatever calls touched: few pages, in rising stretches that never meet, learned a few times only."""
    hot = HotPages()
    for touched in lessons:
        if hot.learning:
            hot.learn(touched)
    stretches = hot.stretches()
    edges = [edge for stretch in stretches for edge in stretch]
    assert edges == sorted(set(edges))
    named = {number for touched in lessons for number in touched}
    assert all(first in named and end - 1 in named for first, end in stretches)
    assert sum(end - first for first, end in stretches) <= 2 * HotPages.MOST
    assert hot.learning == (len(lessons) < HotPages.LESSONS)
