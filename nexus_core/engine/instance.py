"""`WasmInstance`: what the pool and a call need of a warm instance, whatever guest runs in it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from nexus_core.engine.call import GuestCall
from nexus_core.engine.flush import Flush
from nexus_core.engine.heap import HeapDelta
from nexus_core.engine.image import HeapImage
from nexus_core.result import AsyncResult

Steps = Generator[None, None, Flush]
"""A run of the guest: yields at each epoch tick, ends with what the guest handed over."""


class WasmInstance(Protocol):
    """One warm instance. Attach an image, execute, perhaps resume, then reset; never two calls at once."""

    @property
    def image(self) -> HeapImage | None:
        """The image attached now."""

    @property
    def memory_used(self) -> int:
        """Bytes of linear memory now."""

    @property
    def memory_peak(self) -> int:
        """The most bytes of linear memory the call now in it has had."""

    def fits(self, image: HeapImage) -> bool:
        """Whether `attach` can succeed."""

    def attach(self, image: HeapImage) -> None:
        """Make this an instance of the image's handler; only between calls."""

    def execute(self, call: GuestCall) -> Steps:
        """Start a call and run it until it settles or only waits for extension calls."""

    def resume(self, results: Sequence[AsyncResult], call: GuestCall) -> Steps:
        """Deliver answers to the waiting handler and run on."""

    def save(self) -> HeapDelta:
        """Take the waiting call out of the instance."""

    def restore(self, delta: HeapDelta) -> None:
        """Put a saved call into this instance, to which its image was just attached."""

    def reset(self) -> bool:
        """Make every byte equal to the image again. False when it cannot: then the instance must go."""

    def terminate(self) -> None:
        """Free the instance. May be called twice."""
