"""The JSON that the looking routes answer with."""

from __future__ import annotations

import msgspec

from nexus_core.result import ErrorInfo
from nexus_core.statistics import PoolStatistics


class HandlerShape(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One handler. `error` says why it cannot be accepted; what follows from its files is then empty."""

    name: str
    digest: str | None = None
    capabilities: tuple[str, ...] = ()
    triggers: tuple[dict[str, str], ...] = ()
    limits: dict[str, int] | None = None
    extensions: tuple[str, ...] = ()
    error: ErrorInfo | None = None


class HandlerList(msgspec.Struct, frozen=True):
    """All handlers, sorted by name."""

    handlers: tuple[HandlerShape, ...]


class SessionShape(msgspec.Struct, frozen=True):
    """The state of a session: JSON values by key, and the version that counts its commits."""

    session: str
    version: int
    state: dict[str, msgspec.Raw]


class Liveness(msgspec.Struct, frozen=True):
    """`ok`, or `unavailable` before the start and while stopping."""

    status: str


class Health(msgspec.Struct, frozen=True):
    """What runs here and how full it is. The numbers are those of the worker process that answered."""

    status: str
    versions: dict[str, str]
    accepted_handlers: int
    refused_handlers: int
    pool: PoolStatistics
