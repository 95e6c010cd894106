"""The seed: a folder of precompiled entries that ships inside a package or image, read-only.

`nexus build` fills it with a `SeedWriter`; a runtime reads it with a `SeedCache`. The builder is
seldom the user who runs it, so its files, its key too, may be read by everyone: what makes a seed
trustworthy is that nobody but root, this process's user or nobody at all can write to it.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from nexus_core.caches.base import ERROR, HIT, MISS, OnDegraded, OnEvent
from nexus_core.caches.entry import file_name
from nexus_core.caches.folder import CacheFolder, CacheUnavailable, DamagedEntry, Reason, unavailable

_log = logging.getLogger(__name__)

_TIER = "seed"
_ROOT_USER = 0
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644


class SeedCache:
    """Reads a seed; with no directory it is empty. Never writes, never raises for trouble with files.

    `secret` keys the digests when the seed was built with one; without it, the key in the folder does.
    """

    def __init__(
        self, directory: Path | None, *, secret: bytes | None, on_event: OnEvent, on_degraded: OnDegraded
    ) -> None:
        self._directory = directory
        self._secret = secret
        self._on_event = on_event
        self._on_degraded = on_degraded
        self._lock = threading.Lock()
        self._told: set[str] = set()

    def load(self, key: str) -> bytes | None:
        """The verified bytes of `key`, or None."""
        if self._directory is None:
            return None
        data, result = None, ERROR
        owners = frozenset((_ROOT_USER, os.geteuid()))
        try:
            with CacheFolder(self._directory, self._secret, owners, read_only_mount=True) as folder:
                data = folder.load(key)
            result = MISS if data is None else HIT
        except OSError as error:
            trouble = unavailable(error, writing=False)
            self._degrade(trouble.reason, trouble.message)
        except CacheUnavailable as error:
            self._degrade(error.reason, error.message)
        except DamagedEntry as error:
            self._degrade("damaged", error.message)
        self._on_event(_TIER, result)
        return data

    def _degrade(self, reason: Reason, message: str) -> None:
        with self._lock:
            if reason in self._told:
                return
            self._told.add(reason)
        _log.warning("the cache seed %s is not used (%s): %s", self._directory, reason, message)
        self._on_degraded(f"seed_{reason}")


class SeedWriter:
    """A `ByteCache` that builds a seed. Unlike in caches that serve calls, trouble is raised.

    A seed that lacks entries would only show as slow starts in production. Entries that are there
    already are kept; `remove_unused` ends a build. `secret`, if given, is not written down: every
    runtime needs the same one.
    """

    def __init__(self, directory: Path, *, secret: bytes | None) -> None:
        self._directory = directory
        self._secret = secret
        self._used: set[str] = set()

    def load(self, key: str) -> bytes | None:
        """The verified bytes an earlier build left under `key`, or None."""
        try:
            with self._open() as folder:
                data = folder.load(key)
        except (CacheUnavailable, DamagedEntry, OSError):
            return None
        if data is not None:
            self._used.add(file_name(key))
        return data

    def store(self, key: str, data: bytes) -> None:
        """Write an entry; raises `CacheUnavailable` when that cannot be done."""
        try:
            if not self._directory.exists():
                self._directory.mkdir(parents=True)
                # Not left to the umask: another user than the builder reads it.
                self._directory.chmod(_FOLDER_MODE)
            with self._open() as folder:
                folder.store(key, data, _FILE_MODE)
        except OSError as error:
            raise unavailable(error, writing=True) from error
        self._used.add(file_name(key))

    def remove_unused(self) -> int:
        """Remove every entry this writer neither loaded nor stored; how many those were."""
        try:
            with self._open() as folder:
                unused = [file.name for file in folder.files() if file.name not in self._used]
                for name in unused:
                    folder.remove(name)
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise unavailable(error, writing=True) from error
        return len(unused)

    def _open(self) -> CacheFolder:
        return CacheFolder(self._directory, self._secret, frozenset((os.geteuid(),)))
