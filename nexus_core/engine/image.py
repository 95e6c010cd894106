"""Heap images: what a guest's linear memory holds when its handler is loaded and idle.

An image keeps only the pages that differ from its base (the bootstrap with no handler), packed in
one memory file that all instances map copy-on-write. The bytes are independent of the CPU; they are
bound to the guest build and the bootstrap, whose digests are part of every cache key.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
import zlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import msgspec

from nexus_core.limits import MAX_GUEST_MEMORY_BYTES

PAGE = mmap.PAGESIZE
WASM_PAGE = 65536
_ZERO_PAGE = bytes(PAGE)
_PUNCH_HOLE_KEEP_SIZE = 3
"""`FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE` of fallocate(2)."""


class ImageArena:
    """One memory file that holds the pages of all images; one descriptor for any number of handlers.

    Space is only ever appended and, when an image is gone, punched out, so no page that an instance
    still maps can change under it.
    """

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("nexus-images", os.MFD_CLOEXEC)
        self._end = 0
        self._lock = threading.Lock()
        self._fallocate = ctypes.CDLL(None, use_errno=True).fallocate
        self._fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]

    def store(self, data: bytes) -> int:
        """Append whole pages and return their offset; pages of zeros take no memory."""
        # Handlers compile on several threads: two images at one place would show each other's pages.
        with self._lock:
            offset = self._end
            self._end += len(data)
            os.ftruncate(self.descriptor, self._end)
        for start in range(0, len(data), PAGE):
            page = data[start : start + PAGE]
            if page != _ZERO_PAGE:
                os.pwrite(self.descriptor, page, offset + start)
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """Bytes stored before."""
        return os.pread(self.descriptor, length, offset)

    def discard(self, offset: int, length: int) -> None:
        """Give the memory of a range back; only when no instance maps it."""
        self._fallocate(self.descriptor, _PUNCH_HOLE_KEEP_SIZE, offset, length)

    def close(self) -> None:
        """Drop the file; mappings that exist stay valid."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Stretch(msgspec.Struct, frozen=True):
    """Bytes `start` to `start + length` of an image's memory; they lie at `offset` of the arena."""

    start: int
    length: int
    offset: int


class HeapImage:
    """An immutable picture of a guest's memory. Compare by identity; attached heaps hold a reference.

    `handles` are guest addresses by name (entry functions, buffers): trusted like the image is.
    """

    def __init__(
        self,
        arena: ImageArena,
        *,
        base: HeapImage | None,
        memory_size: int,
        stack_pointer: int,
        handles: Mapping[str, int],
        pages: Mapping[int, bytes],
    ) -> None:
        self.arena = arena
        self.base = base
        self.memory_size = memory_size
        self.stack_pointer = stack_pointer
        self.handles = MappingProxyType(dict(handles))
        self.page_numbers = tuple(sorted(pages))
        packed = b"".join(pages[number] for number in self.page_numbers)
        offset = arena.store(packed)
        self.size = len(packed)
        self.stretches = tuple(_stretches(self.page_numbers, offset))
        self._places = {number: offset + index * PAGE for index, number in enumerate(self.page_numbers)}
        self.hot = HotPages()
        self._hot_contents: weakref.ref[HotContents] | None = None
        weakref.finalize(self, arena.discard, offset, len(packed)).atexit = False

    def page(self, number: int) -> bytes:
        """The bytes of one page."""
        place = self._places.get(number)
        if place is not None:
            return self.arena.read(place, PAGE)
        # Past its end an image is zeros: there a call that outgrew it differs from nothing.
        return self.base.page(number) if self.base else _ZERO_PAGE

    def hot_contents(self) -> HotContents:
        """What its hot pages hold: one copy for all instances that have the image attached now."""
        contents = self._hot_contents() if self._hot_contents else None
        if contents is None:
            stretches = () if self.hot.learning else self.hot.stretches()
            contents = HotContents(
                tuple(
                    (first, b"".join(self.page(number) for number in range(first, end)))
                    for first, end in stretches
                )
            )
            self._hot_contents = None if self.hot.learning else weakref.ref(contents)
        return contents

    def contents(self) -> bytes:
        """The whole memory; slow, for learning and tests."""
        memory = bytearray(self.base.contents() if self.base else b"")
        memory.extend(bytes(self.memory_size - len(memory)))
        for stretch in self.stretches:
            memory[stretch.start : stretch.start + stretch.length] = self.arena.read(
                stretch.offset, stretch.length
            )
        return bytes(memory)

    def encode(self) -> bytes:
        """The image as bytes for a cache; `decode_image` reads them."""
        pages = b"".join(self.page(number) for number in self.page_numbers)
        return msgspec.msgpack.encode(
            _StoredImage(
                page_size=PAGE,
                memory_size=self.memory_size,
                stack_pointer=self.stack_pointer,
                handles=dict(self.handles),
                page_numbers=self.page_numbers,
                pages=zlib.compress(pages, 1),
            )
        )


class _StoredImage(msgspec.Struct, frozen=True):
    page_size: int
    memory_size: int
    stack_pointer: int
    handles: dict[str, int]
    page_numbers: tuple[int, ...]
    pages: bytes


def decode_image(arena: ImageArena, base: HeapImage | None, data: bytes) -> HeapImage:
    """Read an encoded image whose digest was checked; raises ValueError when it does not fit this process."""
    try:
        stored = msgspec.msgpack.decode(data, type=_StoredImage)
        size = PAGE * len(stored.page_numbers)
        # Unpacking ends one byte later, which shows that there is more than there should be.
        pages = zlib.decompressobj().decompress(stored.pages, size + 1)
    except (msgspec.MsgspecError, zlib.error, UnicodeError) as error:
        raise ValueError(f"not a heap image: {error}") from error
    if stored.page_size != PAGE or len(pages) != size:
        raise ValueError(f"heap image has pages of {stored.page_size} bytes; this host's have {PAGE}")
    least = base.memory_size if base else WASM_PAGE
    if stored.memory_size % WASM_PAGE or not least <= stored.memory_size <= MAX_GUEST_MEMORY_BYTES:
        raise ValueError(f"heap image has an impossible memory of {stored.memory_size} bytes")
    if any(not 0 <= number < stored.memory_size // PAGE for number in stored.page_numbers):
        raise ValueError("heap image has a page outside its memory")
    if not 0 <= stored.stack_pointer <= stored.memory_size:
        raise ValueError("heap image has a stack outside its memory")
    return HeapImage(
        arena,
        base=base,
        memory_size=stored.memory_size,
        stack_pointer=stored.stack_pointer,
        handles=stored.handles,
        pages={
            number: pages[index * PAGE : (index + 1) * PAGE]
            for index, number in enumerate(stored.page_numbers)
        },
    )


def nonzero_pages(memory: bytes) -> dict[int, bytes]:
    """The pages of a memory that are not all zeros."""
    pages = {number: memory[start : start + PAGE] for number, start in enumerate(range(0, len(memory), PAGE))}
    return {number: page for number, page in pages.items() if page != _ZERO_PAGE}


def _stretches(numbers: tuple[int, ...], offset: int) -> Iterator[Stretch]:
    first = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[index - 1] + 1:
            length = (index - first) * PAGE
            yield Stretch(numbers[first] * PAGE, length, offset + first * PAGE)
            first = index


class HotContents:
    """The bytes of an image's hot stretches: (first page, contents) of each, ascending."""

    def __init__(self, parts: tuple[tuple[int, bytes], ...]) -> None:
        self.parts = parts


class HotPages:
    """The pages that calls of one handler are known to touch, learned on its first resets.

    Copying a page back is much cheaper than dropping it and paying the page fault (0.1 against
    2.4 us in a Firecracker guest); for any page not known the drop is right too, so what is learned
    changes speed only. Bounded: past `MOST` pages copying gains little.
    """

    LESSONS = 3
    MOST = 256
    _GAP = 16
    """Untouched pages between two hot stretches that are copied as well: a page takes 0.1 us to copy, one
    more stretch a system call and a copy of its own, 2.4 us together. At most `MOST` such pages in all."""

    def __init__(self) -> None:
        self._numbers: frozenset[int] = frozenset()
        self.lessons = 0

    @property
    def learning(self) -> bool:
        """Whether the next reset should say which pages its call touched."""
        return self.lessons < self.LESSONS

    def learn(self, touched: frozenset[int]) -> None:
        """Take in one call's touched pages."""
        self.lessons += 1
        if len(self._numbers | touched) <= self.MOST:
            self._numbers |= touched

    def stretches(self) -> list[tuple[int, int]]:
        """The hot pages as (first, one past the last), ascending, never touching."""
        stretches: list[tuple[int, int]] = []
        spare = self.MOST
        for number in sorted(self._numbers):
            if stretches and number - stretches[-1][1] <= min(self._GAP, spare):
                spare -= number - stretches[-1][1]
                stretches[-1] = (stretches[-1][0], number + 1)
            else:
                stretches.append((number, number + 1))
        return stretches
