"""One SQLite file, used by several processes at once; each writes through one connection in one thread.

Guarantees: a transaction that returned is in the file and survives the death of the process (the
journal is write-ahead with `synchronous=NORMAL`; a loss of power may undo the last ones, never part
of one). Reading waits for nobody; a writer waits for another for up to `BUSY_SECONDS`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from nexus_core.config import ConfigError
from nexus_core.errors import InternalError

BUSY_SECONDS = 5.0

_T = TypeVar("_T")


class SqliteDatabase:
    """Opens (and makes) the file at once, so that a bad path stops the start; `migrations[n]` leads to n + 1.

    Jobs run one after another in the database's own thread, so that a wait for the file's lock never
    stops the event loop.
    """

    def __init__(self, path: Path, migrations: Sequence[str]) -> None:
        try:
            _prepare_file(path)
            self._connection = _open(path, migrations)
            # With no timeout, what cannot be read at once is left to the thread.
            self._reader = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            self._reader.execute("PRAGMA query_only=ON")
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"NEXUS_STORE_URL: the database {path} cannot be used: {error}") from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nexus-sqlite")
        self._closed = False

    async def run(self, job: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `job` in the database's thread; errors of SQLite become `InternalError`.

        A caller that is cancelled does not stop a job that has begun.
        """
        if self._closed:
            raise InternalError("the state store is closed")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, job, self._connection)
        except sqlite3.Error as error:
            # The log has the cause; what SQLite says may name paths of the host.
            raise InternalError("the state store failed; try again") from error

    async def read(self, job: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run a job that only reads, and little, on the event loop itself: a change of threads costs more.

        Readers of a write-ahead journal wait for nobody, but for the rare moment when a process that
        died is cleaned up after: then the job is run as `run` does.
        """
        if not self._closed:
            try:
                return job(self._reader)
            except sqlite3.OperationalError:
                pass
        return await self.run(job)

    async def close(self) -> None:
        """Finish the jobs that wait, then close the file. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._reader.close()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that takes the file's write lock first, so that what it reads cannot change under it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk ends the transaction by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _prepare_file(path: Path) -> None:
    """Make the file for this user alone, and refuse one that another user has put in a shared folder."""
    # A file that exists is never opened here: closing it would drop the locks that SQLite has on it.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    owner = path.stat().st_uid
    shared = path.resolve().parent.stat().st_mode & stat.S_IWOTH
    if shared and owner != os.geteuid():
        raise PermissionError(f"another user (id {owner}) owns it, in a folder that anyone may write to")


def _open(path: Path, migrations: Sequence[str]) -> sqlite3.Connection:
    # Made in the thread that starts the process, used in the database's own thread only.
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        _configure(connection)
        _migrate(connection, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Of processes that switch a new file at once, SQLite fails some without asking the busy timeout.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous=NORMAL")


def _migrate(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    """Bring the file to the newest schema; many processes may try at once, one does it."""
    with writing(connection):
        connection.execute("CREATE TABLE IF NOT EXISTS nexus_schema (version INTEGER NOT NULL)")
        row = connection.execute("SELECT version FROM nexus_schema").fetchone()
        version: int = row[0] if row else 0
        if version > len(migrations):
            raise ConfigError(
                f"NEXUS_STORE_URL: the database has schema {version}, made by a newer Nexus; "
                f"this one knows up to {len(migrations)}"
            )
        for script in migrations[version:]:
            for statement in script.split(";"):
                connection.execute(statement)
        connection.execute("DELETE FROM nexus_schema")
        connection.execute("INSERT INTO nexus_schema VALUES (?)", (len(migrations),))
