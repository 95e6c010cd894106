"""A cache folder on disk: whom it is trusted to, and its files read and written whole.

What a cache returns is executed, so a folder is only as good as the users who can write to it. It
is opened once per operation and everything below goes through that descriptor: whatever happens to
its path meanwhile, the folder that was checked is the one that is used. No state is kept, so a
folder that was removed, repaired or replaced is simply used as it is next time.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Literal, NamedTuple, Self

from nexus_core.caches.entry import HEADER_BYTES, SUFFIX, EntryFormat, file_name, payload_bytes
from nexus_core.errors import InternalError

Reason = Literal[
    "missing",
    "not_a_folder",
    "foreign_owner",
    "writable_by_others",
    "unreadable",
    "read_only",
    "full",
    "bad_key",
    "damaged",
    "io_error",
]

KEY_BYTES: Final = 32

_KEY_NAME = "key"
_TEMPORARY = ".tmp-"
_ABANDONED_SECONDS = 600
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW
# A name may have become a pipe, and opening one would wait for its other end.
_OPEN_TO_READ = _OPEN | os.O_RDONLY | os.O_NONBLOCK
_OPEN_TO_WRITE = _OPEN | os.O_WRONLY | os.O_CREAT | os.O_EXCL

_REASONS: Mapping[int, Reason] = MappingProxyType(
    {
        errno.ENOENT: "missing",
        errno.ENOTDIR: "not_a_folder",
        errno.ELOOP: "not_a_folder",
        errno.EROFS: "read_only",
        errno.ENOSPC: "full",
        errno.EDQUOT: "full",
        errno.EFBIG: "full",
    }
)


class CacheUnavailable(InternalError):
    """A cache folder cannot be used; `reason` is one fixed word. Caches that serve calls never let it out."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DamagedEntry(InternalError):
    """A file under an entry's name is not, to the last bit, what this cache wrote. It can be removed."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is damaged or was not written by this cache")


class File(NamedTuple):
    """One entry of a folder; the first field orders entries by last use."""

    used_ns: int
    bytes: int
    name: str


def unavailable(error: OSError, *, writing: bool) -> CacheUnavailable:
    """`error` as a reason an operator can act on."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return CacheUnavailable("read_only" if writing else "unreadable", str(error))
    return CacheUnavailable(_REASONS.get(error.errno or 0, "io_error"), str(error))


class CacheFolder:
    """An open cache folder whose owner was checked; a context manager that closes it.

    `owners` are the users it and its files may belong to. With `read_only_mount`, a folder on a
    mount that cannot be written is trusted whoever owns it: it is part of a deployed image.
    `secret` keys the digests; None means the key kept in the folder. Methods raise `OSError` for
    trouble with files and `CacheUnavailable` for a lack of trust.
    """

    def __init__(
        self, path: Path, secret: bytes | None, owners: frozenset[int], *, read_only_mount: bool = False
    ) -> None:
        self._secret = secret
        self._owners: frozenset[int] | None = owners
        self._descriptor = os.open(path, _OPEN | os.O_RDONLY | os.O_DIRECTORY)
        try:
            if read_only_mount and os.fstatvfs(self._descriptor).f_flag & os.ST_RDONLY:
                self._owners = None
            self._check(os.fstat(self._descriptor), str(path))
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def load(self, key: str, touch_after_ns: int | None = None) -> bytes | None:
        """The payload of `key`, or None; raises `DamagedEntry` for a file that is not ours.

        A file last used more than `touch_after_ns` ago is marked as used now.
        """
        secret = self._secret or self._key()
        name = file_name(key)
        content = None if secret is None else self._read(name, touch_after_ns)
        if content is None or secret is None:
            return None
        header, payload = content
        # Trust changes hands here: only a holder of the secret can have made these bytes.
        if not EntryFormat(secret).accepts(key, header, payload):
            raise DamagedEntry(name)
        return payload

    def store(self, key: str, data: bytes, mode: int) -> None:
        """Replace the entry of `key` in one step: readers see the old one, or all of the new one.

        New files get `mode`. A folder without a key gets one.
        """
        name = file_name(key)
        secret = self._secret or self._key() or self._make_key(mode)
        header = EntryFormat(secret).header(key, data)
        temporary = self._write_temporary((header, data), mode, durable=False)
        try:
            os.rename(temporary, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except OSError:
            self.remove(temporary)
            raise

    def remove(self, name: str) -> None:
        """Remove file `name` if that can be done; a link is removed, never what it points to."""
        with suppress(OSError):
            os.unlink(name, dir_fd=self._descriptor)

    def files(self) -> list[File]:
        """All entries, least recently used first. Also removes what killed processes left half written."""
        found: list[File] = []
        abandoned = time.time_ns() - _ABANDONED_SECONDS * 10**9
        with os.scandir(self._descriptor) as listing:
            for item in listing:
                if not item.name.endswith(SUFFIX) and not item.name.startswith(_TEMPORARY):
                    continue
                try:
                    status = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if item.name.endswith(SUFFIX):
                    found.append(File(status.st_mtime_ns, status.st_size, item.name))
                elif status.st_mtime_ns < abandoned:
                    self.remove(item.name)
        return sorted(found)

    def _key(self) -> bytes | None:
        try:
            descriptor = os.open(_KEY_NAME, _OPEN_TO_READ, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise CacheUnavailable("bad_key", "its key file is a symbolic link") from error
            raise
        try:
            status = os.fstat(descriptor)
            self._check(status, "its key file")
            if not stat.S_ISREG(status.st_mode) or status.st_size != KEY_BYTES:
                raise CacheUnavailable("bad_key", f"its key file is not a file of {KEY_BYTES} bytes")
            return _read(descriptor, KEY_BYTES)
        finally:
            os.close(descriptor)

    def _make_key(self, mode: int) -> bytes:
        """Make the key of this folder; processes that race agree on one."""
        temporary = self._write_temporary((os.urandom(KEY_BYTES),), mode, durable=True)
        try:
            # A link appears with all its bytes, and only if no other process was first.
            with suppress(FileExistsError):
                os.link(
                    temporary,
                    _KEY_NAME,
                    src_dir_fd=self._descriptor,
                    dst_dir_fd=self._descriptor,
                    follow_symlinks=False,
                )
        finally:
            self.remove(temporary)
        key = self._key()
        if key is None:
            raise CacheUnavailable("bad_key", "its key file vanished while it was made")
        return key

    def _read(self, name: str, touch_after_ns: int | None) -> tuple[bytes, bytes] | None:
        """Header and payload as they stand in file `name`, not verified, or None when there is no file."""
        try:
            descriptor = os.open(name, _OPEN_TO_READ, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise DamagedEntry(name) from error
            raise
        try:
            status = os.fstat(descriptor)
            size = status.st_size - HEADER_BYTES
            if not stat.S_ISREG(status.st_mode) or not self._is_trusted(status):
                raise DamagedEntry(name)
            header = _read(descriptor, HEADER_BYTES)
            # Before the payload is read: a file may claim any size.
            if payload_bytes(header) != size:
                raise DamagedEntry(name)
            content = header, _read(descriptor, size)
            if touch_after_ns is not None and abs(time.time_ns() - status.st_mtime_ns) > touch_after_ns:
                with suppress(OSError):
                    os.utime(descriptor)
            return content
        finally:
            os.close(descriptor)

    def _write_temporary(self, parts: tuple[bytes, ...], mode: int, *, durable: bool) -> str:
        name = f"{_TEMPORARY}{os.getpid()}-{os.urandom(8).hex()}"
        descriptor = os.open(name, _OPEN_TO_WRITE, 0o600, dir_fd=self._descriptor)
        try:
            try:
                for part in parts:
                    _write(descriptor, part)
                # Not left to the umask: a seed is read by another user than the one who built it.
                os.fchmod(descriptor, mode)
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            self.remove(name)
            raise
        return name

    def _is_trusted(self, status: os.stat_result) -> bool:
        return self._owners is None or (status.st_uid in self._owners and not status.st_mode & 0o022)

    def _check(self, status: os.stat_result, what: str) -> None:
        if self._is_trusted(status):
            return
        if self._owners is not None and status.st_uid not in self._owners:
            raise CacheUnavailable("foreign_owner", f"{what} belongs to user {status.st_uid}")
        raise CacheUnavailable("writable_by_others", f"{what} can be written by its group or by others")


def _read(descriptor: int, size: int) -> bytes:
    """`size` bytes, or fewer where the file ends."""
    data = os.read(descriptor, size)
    while len(data) < size:
        more = os.read(descriptor, size - len(data))
        if not more:
            break
        data += more
    return data


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
