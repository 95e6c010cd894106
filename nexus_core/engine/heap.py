"""Attach an image to an instance's linear memory and, after each call, make every byte equal to it again."""

from __future__ import annotations

import ctypes
import mmap
from ctypes import c_int, c_size_t, c_void_p

from nexus_core.engine import bindings
from nexus_core.engine.image import PAGE, HeapImage

_READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_FIXED = 0x10
"""`MAP_FIXED` of mmap(2): replace what is mapped there."""
_DONTNEED = c_int(4)
"""`MADV_DONTNEED` of madvise(2): the next touch finds the file's page again."""


class MappingFailed(OSError):
    """The kernel refused a mapping; the instance must be dropped, since its memory is half replaced."""


class AttachedHeap:
    """The linear memory of one instance, from `address`, and the image that is mapped over it.

    Until `attach` the memory is whatever instantiation left there. The caller makes sure that the
    memory is exactly `image.memory_size` bytes long at `attach` and at `reset`: a memory that grew
    holds pages no image describes, and such an instance must not be reused.
    """

    def __init__(self, address: int) -> None:
        self.address = address
        self.image: HeapImage | None = None
        self._copies: list[tuple[c_void_p, bytes, c_size_t]] = []
        self._discards: list[tuple[c_void_p, c_size_t]] = []

    def attach(self, image: HeapImage) -> None:
        """Map `image`: zeros everywhere, its base's pages over them, then the pages of its own."""
        self.image = None
        self._map(0, image.memory_size, -1, 0)
        for layer in (image.base, image):
            for stretch in layer.stretches if layer else ():
                self._map(stretch.start, stretch.length, image.arena.descriptor, stretch.offset)
        self.image = image
        self._plan(image)

    def reset(self) -> None:
        """Make every byte equal the image again: copy the hot pages back, drop all others."""
        image = self.image
        if image is None:
            raise ValueError("no image is attached")
        if image.hot.learning:
            image.hot.learn(self.changed_pages())
            self._plan(image)
        for target, source, length in self._copies:
            ctypes.memmove(target, source, length)
        for start, length in self._discards:
            if bindings.libc_madvise(start, length, _DONTNEED):
                raise MappingFailed(ctypes.get_errno(), "dropping pages failed")

    def changed_pages(self) -> set[int]:
        """Numbers of the pages that differ from the image now."""
        image = self.image
        if image is None:
            raise ValueError("no image is attached")
        memory = memoryview(self.read(0, image.memory_size))
        contents = memoryview(image.contents())
        return {
            start // PAGE
            for start in range(0, image.memory_size, PAGE)
            if memory[start : start + PAGE] != contents[start : start + PAGE]
        }

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
        self._copies = [
            (
                c_void_p(self.address + first * PAGE),
                b"".join(image.page(number) for number in range(first, end)),
                c_size_t((end - first) * PAGE),
            )
            for first, end in image.hot.stretches
        ]
        self._discards = [
            (c_void_p(self.address + first * PAGE), c_size_t((end - first) * PAGE))
            for first, end in image.hot.cold(image.memory_size // PAGE)
        ]
