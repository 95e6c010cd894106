"""`DiskCache`: the cache tier that processes of one machine share, and that outlives them.

It may fail in any way a disk can: each trouble means "no disk cache" for that operation, is told
once in the log and to `on_degraded`, and never reaches a call. Nothing is remembered as broken, so
the cache works again as soon as its folder does.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from nexus_core.caches.base import ERROR, HIT, MISS, OnDegraded, OnEvent
from nexus_core.caches.entry import HEADER_BYTES, file_name
from nexus_core.caches.folder import CacheFolder, CacheUnavailable, DamagedEntry, File, unavailable
from nexus_core.statistics import CacheStatistics

_log = logging.getLogger(__name__)

_TIER = "disk"
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
# Marking each hit would write to the disk for each load; order within a minute decides nothing.
_TOUCH_AFTER_NS = 60 * 10**9
_STALE_STATISTICS_SECONDS = 60.0


class DiskCache:
    """A folder of verified files, bounded to `max_bytes`, the least recently used going first.

    `secret` keys the digests; without one, a key is made in the folder at the first store. The
    folder is made (its parent is not), and is used only while it, its key and its files belong to
    the user of this process and nobody else may write to them.

    The bound holds for up to four processes that store at the same time: each counts the folder
    anew after every sixty-fourth of the bound that it stored, and makes room where more than
    fifteen sixteenths are used. A value larger than that is not kept. Thread-safe; blocks on the disk.
    """

    def __init__(
        self,
        directory: Path,
        *,
        secret: bytes | None,
        max_bytes: int,
        on_event: OnEvent,
        on_degraded: OnDegraded,
    ) -> None:
        self._directory = directory
        self._secret = secret
        self._on_event = on_event
        self._on_degraded = on_degraded
        self._max_bytes = max_bytes
        self._high_bytes = max_bytes - max_bytes // 16
        self._low_bytes = max_bytes - max_bytes // 8
        self._count_after_bytes = max_bytes // 64
        self._lock = threading.Lock()
        self._told: set[str] = set()
        self._entries = 0
        self._bytes = 0
        self._uncounted_bytes = self._count_after_bytes
        self._count_again_at = 0.0

    def load(self, key: str) -> bytes | None:
        """The verified bytes of `key`, or None; a file that is not ours to the last bit is removed."""
        data, result = None, ERROR
        try:
            with self._open() as folder:
                data = self._load(folder, key)
            result = MISS if data is None else HIT
        except FileNotFoundError:
            result = MISS  # nothing was stored yet
        except DamagedEntry as error:
            if self._is_news("damaged"):
                _log.warning("the disk cache %s lost an entry: %s", self._directory, error.message)
        except (CacheUnavailable, OSError) as error:
            self._degrade(error, writing=False)
        self._on_event(_TIER, result)
        return data

    def store(self, key: str, data: bytes) -> None:
        """Keep `data` and make room for it; whatever goes wrong is logged and counted, not raised."""
        size = HEADER_BYTES + len(data)
        if size > self._high_bytes:
            return
        try:
            with self._open_or_make() as folder:
                folder.store(key, data, _FILE_MODE)
                if self._account(size):
                    self._make_room(folder)
        except (CacheUnavailable, OSError) as error:
            self._degrade(error, writing=True)

    def statistics(self) -> CacheStatistics:
        """Entries and bytes of the folder, all processes together; at most a minute old."""
        with self._lock:
            stale = time.monotonic() > self._count_again_at
        if stale:
            try:
                with self._open() as folder:
                    self._counted(folder.files())
            except (CacheUnavailable, OSError):
                self._counted([])
        with self._lock:
            return CacheStatistics(entries=self._entries, bytes=self._bytes, max_bytes=self._max_bytes)

    def _open(self) -> CacheFolder:
        # The user is asked for each time: a process may give up its rights after it built its parts.
        return CacheFolder(self._directory, self._secret, frozenset((os.geteuid(),)))

    def _open_or_make(self) -> CacheFolder:
        try:
            return self._open()
        except FileNotFoundError:
            # Another process may be first; whether its folder may be trusted is checked as ever.
            with suppress(FileExistsError):
                self._directory.mkdir(_FOLDER_MODE)
            return self._open()

    def _load(self, folder: CacheFolder, key: str) -> bytes | None:
        try:
            return folder.load(key, _TOUCH_AFTER_NS)
        except DamagedEntry:
            folder.remove(file_name(key))
            raise

    def _account(self, size: int) -> bool:
        """Count a stored file; whether the folder must be counted anew."""
        with self._lock:
            self._entries += 1
            self._bytes += size
            self._uncounted_bytes += size
            if self._uncounted_bytes < self._count_after_bytes:
                return False
            self._uncounted_bytes = 0
            return True

    def _make_room(self, folder: CacheFolder) -> None:
        files = folder.files()
        total = sum(file.bytes for file in files)
        kept = files
        if total > self._high_bytes:
            gone = 0
            # The newest is what was just stored.
            while total > self._low_bytes and gone < len(files) - 1:
                folder.remove(files[gone].name)
                total -= files[gone].bytes
                gone += 1
            kept = files[gone:]
        self._counted(kept)

    def _counted(self, files: list[File]) -> None:
        with self._lock:
            self._entries = len(files)
            self._bytes = sum(file.bytes for file in files)
            self._count_again_at = time.monotonic() + _STALE_STATISTICS_SECONDS

    def _degrade(self, error: CacheUnavailable | OSError, *, writing: bool) -> None:
        if isinstance(error, OSError):
            error = unavailable(error, writing=writing)
        if self._is_news(error.reason):
            _log.warning(
                "the disk cache %s is not used (%s): %s", self._directory, error.reason, error.message
            )
            self._on_degraded(error.reason)

    def _is_news(self, word: str) -> bool:
        with self._lock:
            known = word in self._told
            self._told.add(word)
        return not known
