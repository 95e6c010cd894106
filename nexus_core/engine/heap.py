"""Attach an image to an instance's linear memory and, after each call, make every byte equal to it again."""

from __future__ import annotations

import ctypes
import mmap
import os
from array import array
from collections.abc import Mapping
from ctypes import c_int, c_size_t, c_void_p
from pathlib import Path

import msgspec

from nexus_core.engine import bindings
from nexus_core.engine.image import PAGE, HeapImage, HotContents
from nexus_core.limits import MIB

_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_FIXED = 0x10
"""`MAP_FIXED` of mmap(2): replace what is mapped there."""
_RANDOM = c_int(1)
"""`MADV_RANDOM`: here only a mark that keeps neighbouring mappings apart."""
_DONTNEED = c_int(4)
"""`MADV_DONTNEED` of madvise(2): the next touch finds the file's page again."""

_MAPPED = 1 << 62
"""An entry of /proc/self/pagemap at least this large is a page in memory or in swap."""
_MOST_WATCHED = 8 * MIB
"""Watching takes a mapping per page, of which Linux allows a process 65,530 in all."""


class MappingFailed(OSError):
    """The kernel refused a mapping; the instance must be dropped, since its memory is half replaced."""


class HeapDelta(msgspec.Struct, frozen=True):
    """What a sleeping call changed: pages by number, and how large its memory had grown."""

    memory_size: int
    pages: Mapping[int, bytes]


class AttachedHeap:
    """The linear memory of one instance, from `address`, and the image that is mapped over it.

    Until `attach` the memory is whatever instantiation left there. The caller makes sure that the
    memory is exactly `image.memory_size` bytes long at `attach` and at `reset`: a memory that grew
    holds pages no image describes, and such an instance must not be reused.
    """

    def __init__(self, address: int) -> None:
        self.address = address
        self.image: HeapImage | None = None
        self._watching = False
        self._hot: HotContents | None = None
        self._copies: list[tuple[c_void_p, bytes, int]] = []
        self._discards: list[tuple[c_void_p, c_size_t]] = []

    def attach(self, image: HeapImage, *, learn: bool = True) -> None:
        """Map `image`: zeros everywhere, its base's pages over them, then the pages of its own.

        `learn`: let the first calls show which pages they touch, if the image does not know yet.
        """
        self.image = None
        self._lay(image)
        self.image = image
        self._watching = learn and image.hot.learning and image.memory_size <= _MOST_WATCHED
        if self._watching and not self._split_mappings(image.memory_size):
            self._watching = False
            self._lay(image)
        self._plan(image)

    def _lay(self, image: HeapImage) -> None:
        self._map(0, image.memory_size, -1, 0)
        for layer in (image.base, image):
            for stretch in layer.stretches if layer else ():
                self._map(stretch.start, stretch.length, image.arena.descriptor, stretch.offset)

    def reset(self) -> None:
        """Make every byte equal the image again: copy the hot pages back, drop all others."""
        image = self.image
        if image is None:
            raise ValueError("no image is attached")
        if self._watching:
            if image.hot.learning:
                image.hot.learn(self._touched_pages(image.memory_size))
            self._advise(0, image.memory_size, _DONTNEED)
            if not image.hot.learning:
                self.attach(image)
            return
        for target, source, length in self._copies:
            ctypes.memmove(target, source, length)
        for start, size in self._discards:
            if bindings.libc_madvise(start, size, _DONTNEED):
                raise MappingFailed(ctypes.get_errno(), "dropping pages failed")

    def save(self, memory_size: int) -> HeapDelta:
        """The pages that differ from the image now: with the image, all there is of a call that sleeps."""
        image = self.image
        if image is None:
            raise ValueError("no image is attached")
        pages = {}
        for number in sorted(self._touched_pages(memory_size)):
            page = self.read(number * PAGE, PAGE)
            if page != image.page(number):
                pages[number] = page
        return HeapDelta(memory_size=memory_size, pages=pages)

    def restore(self, delta: HeapDelta) -> None:
        """Put a saved call's pages over the freshly attached image; the memory has the delta's size."""
        for number, page in delta.pages.items():
            self.write(number * PAGE, page)

    def changed_pages(self) -> frozenset[int]:
        """Numbers of the pages that differ from the image now; slow, it compares all bytes."""
        image = self.image
        if image is None:
            raise ValueError("no image is attached")
        memory = memoryview(self.read(0, image.memory_size))
        contents = memoryview(image.contents())
        return frozenset(
            start // PAGE
            for start in range(0, image.memory_size, PAGE)
            if memory[start : start + PAGE] != contents[start : start + PAGE]
        )

    def _split_mappings(self, length: int) -> bool:
        """Make every page a mapping of its own, so that the kernel maps no neighbours with a touched page.

        False when the process has too many mappings for that: then the call teaches nothing.
        """
        try:
            for start in range(PAGE, length, 2 * PAGE):
                self._advise(start, PAGE, _RANDOM)
        except MappingFailed:
            return False
        return True

    def _touched_pages(self, length: int) -> frozenset[int]:
        """At least the pages written since the image was attached, as the kernel knows them."""
        count = length // PAGE
        try:
            with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
                entries = array("Q", os.pread(pagemap.fileno(), count * 8, self.address // PAGE * 8))
        except OSError:
            entries = array("Q")
        # Where the kernel does not tell of all of them, each may be touched.
        entries.extend([_MAPPED] * (count - len(entries)))
        return frozenset(number for number, entry in enumerate(entries) if entry >= _MAPPED)

    def _advise(self, start: int, length: int, advice: c_int) -> None:
        if bindings.libc_madvise(c_void_p(self.address + start), c_size_t(length), advice):
            raise MappingFailed(ctypes.get_errno(), "advising the kernel on a heap image failed")

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the memory; the caller has checked the bounds."""
        return ctypes.string_at(self.address + start, length)

    def write(self, start: int, data: bytes) -> None:
        """Put bytes into the memory; the caller has checked the bounds."""
        ctypes.memmove(self.address + start, data, len(data))

    def _map(self, start: int, length: int, descriptor: int, offset: int) -> None:
        flags = mmap.MAP_PRIVATE | _FIXED | (mmap.MAP_ANONYMOUS if descriptor < 0 else 0)
        place = bindings.libc_mmap(self.address + start, length, _READ_WRITE, flags, descriptor, offset)
        if place == bindings.MAP_FAILED:
            raise MappingFailed(ctypes.get_errno(), "mapping a heap image failed")

    def _plan(self, image: HeapImage) -> None:
        # Held here, so that an image which no instance has attached costs no copy of its hot pages.
        self._hot = hot = image.hot_contents()
        self._copies = [
            (c_void_p(self.address + first * PAGE), contents, len(contents)) for first, contents in hot.parts
        ]
        stretches = [(first, first + len(contents) // PAGE) for first, contents in hot.parts]
        edges = [0, *(edge for stretch in stretches for edge in stretch), image.memory_size // PAGE]
        self._discards = [
            (c_void_p(self.address + first * PAGE), c_size_t((end - first) * PAGE))
            for first, end in zip(edges[::2], edges[1::2], strict=True)
            if end > first
        ]
