"""`Finding`: what one check of `nexus doctor` says."""

from __future__ import annotations

from typing import Literal

import msgspec

from nexus_core.limits import KIB, MIB

Verdict = Literal["ok", "warning", "problem"]
"""A problem stops the server or makes it wrong; a warning is served, but not as it should be."""

_GIB = 1024 * MIB


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One check: its name, what was found, the lines behind that, and what to do. Also its form as JSON."""

    check: str
    verdict: Verdict
    found: str
    detail: tuple[str, ...] = ()
    advice: str | None = None


def size_text(size: float) -> str:
    """Bytes in a unit that people read."""
    for unit, factor in (("GiB", _GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size:.0f} bytes"


def counted(number: float, what: str) -> str:
    """A number of things, whose name gets an s unless there is one."""
    return f"{number:,.0f} {what}{'' if number == 1 else 's'}"
