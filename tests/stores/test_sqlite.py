"""The SQLite store between processes, through crashes, and with files that are not ours."""

import asyncio
import json
import os
import signal
import sqlite3
import stat
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from nexus_core.config import ConfigError
from nexus_core.errors import InternalError
from nexus_core.stores import sqlite_database
from nexus_core.stores.base import StateSnapshot
from nexus_core.stores.open import open_state_store
from nexus_core.stores.sqlite_database import SqliteDatabase
from tests.stores.flushes import put, text_of
from tests.stores.processes import read_line, send_line, writer


async def test_racing_processes_lose_no_update(tmp_path: Path) -> None:
    """Processes that make one new file at once and race on one session: each version has one winner."""
    url = f"sqlite:///{tmp_path}/nexus.db"
    each, won = 60, list[int]()
    with ExitStack() as stack:
        processes = [stack.enter_context(writer(url, each)) for _ in range(4)]
        for process in processes:
            assert read_line(process) == "ready"
        for process in processes:
            send_line(process)
        for process in processes:
            output, _ = await asyncio.to_thread(process.communicate, timeout=120)
            assert process.returncode == 0
            won += map(int, output.split())
    assert sorted(won) == list(range(1, 4 * each + 1))
    store = open_state_store(url)
    snapshot = await store.load("s")
    assert (snapshot.version, snapshot.values["count"]) == (4 * each, b"%d" % (4 * each))
    assert [commit.sequence for commit in await store.journal("s", 0)] == sorted(won)
    await store.close()


async def test_killed_writer_loses_nothing_committed(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing: what was acknowledged is there, no flush is there by half."""
    url = f"sqlite:///{tmp_path}/nexus.db"
    for _ in range(3):
        with writer(url, 0, padding=200_000) as process:
            assert read_line(process) == "ready"
            send_line(process)
            acknowledged = [int(read_line(process)) for _ in range(5)][-1]
            process.send_signal(signal.SIGKILL)
            process.wait()
        store = open_state_store(url)
        snapshot = await store.load("s")
        assert snapshot.version >= acknowledged
        assert (
            json.loads(snapshot.values["twin"])[0] == json.loads(snapshot.values["count"]) == snapshot.version
        )
        assert await store.latest("s") == snapshot.version
        assert (await store.journal("s", snapshot.version - 1))[0].mutations[0].key == "count"
        await store.close()


async def test_state_outlives_the_store(tmp_path: Path) -> None:
    """What one opened store committed, the next one reads."""
    url = f"sqlite:///{tmp_path}/nexus.db"
    for version in range(3):
        store = open_state_store(url)
        assert (await store.load("s")).version == version
        await store.commit("s", version, "r", [put("a")], [])
        await store.close()


async def test_large_sessions_are_read_whole(tmp_path: Path) -> None:
    """Sessions below and above the size that is read on the event loop come back alike."""
    store = open_state_store(f"sqlite:///{tmp_path}/nexus.db")
    for size in (65_535, 65_536, 900_000):
        session = f"s{size}"
        await store.commit(session, 0, "r", [put("k", text_of(size - 1))], [])
        assert await store.load(session) == StateSnapshot(1, {"k": text_of(size - 1)})
    await store.close()


async def test_reading_does_not_wait_for_a_writer(tmp_path: Path) -> None:
    """While another connection holds the write lock, sessions and journals are read as they were."""
    store = open_state_store(f"sqlite:///{tmp_path}/nexus.db")
    await store.commit("s", 0, "r", [put("a")], [])
    with closing(sqlite3.connect(tmp_path / "nexus.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM state")
        assert await store.load("s") == StateSnapshot(1, {"a": b"1"})
        assert len(await store.journal("s", 0)) == 1
        other.execute("ROLLBACK")
    await store.close()


async def test_writing_waits_its_turn(tmp_path: Path) -> None:
    """A commit waits for another writer without stopping the event loop, and is applied after it."""
    store = open_state_store(f"sqlite:///{tmp_path}/nexus.db")
    with closing(sqlite3.connect(tmp_path / "nexus.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        commit = asyncio.create_task(store.commit("s", 0, "r", [put("a")], []))
        assert await store.load("s") == StateSnapshot(0, {})
        assert not commit.done()
        other.execute("COMMIT")
        assert await commit == 1
    await store.close()


async def test_locked_file_is_a_retryable_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that never ends makes commits fail, by an error that tells to retry and names no path."""
    monkeypatch.setattr(sqlite_database, "BUSY_SECONDS", 0.05)
    store = open_state_store(f"sqlite:///{tmp_path}/nexus.db")
    with closing(sqlite3.connect(tmp_path / "nexus.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InternalError, match=r"^the state store failed; try again$") as caught:
            await store.commit("s", 0, "r", [put("a")], [])
        assert caught.value.retryable
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert await store.commit("s", 0, "r", [put("a")], []) == 1
    await store.close()


async def test_reading_falls_back_to_the_thread(tmp_path: Path) -> None:
    """A read that SQLite refuses at once is run again where it may wait."""
    database = SqliteDatabase(tmp_path / "nexus.db", ())
    threads = []

    def refuse_first(connection: sqlite3.Connection) -> int:
        threads.append(asyncio.current_task() if _has_loop() else None)
        if len(threads) == 1:
            raise sqlite3.OperationalError("database is locked")
        return int(connection.execute("SELECT 7").fetchone()[0])

    assert await database.read(refuse_first) == 7
    assert threads[0] is not None
    assert threads[1] is None
    await database.close()


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def test_reader_cannot_write(tmp_path: Path) -> None:
    """The connection that reads on the event loop refuses to write, so it never takes the lock."""
    database = SqliteDatabase(tmp_path / "nexus.db", ())
    attempts = []

    def write(connection: sqlite3.Connection) -> None:
        attempts.append(connection)
        connection.execute("CREATE TABLE t (x)")

    await database.read(write)
    assert len(attempts) == 2
    await database.close()


async def test_failed_transaction_is_undone(tmp_path: Path) -> None:
    """An error inside a transaction leaves nothing of it, and the next one works."""
    database = SqliteDatabase(tmp_path / "nexus.db", ("CREATE TABLE t (x)",))

    def fail(connection: sqlite3.Connection) -> None:
        with sqlite_database.writing(connection):
            connection.execute("INSERT INTO t VALUES (1)")
            connection.execute("INSERT INTO absent VALUES (1)")

    with pytest.raises(InternalError):
        await database.run(fail)
    assert await database.run(lambda connection: connection.execute("SELECT count(*) FROM t").fetchone()) == (
        0,
    )
    await database.close()


async def test_older_schema_is_migrated(tmp_path: Path) -> None:
    """A file of an older schema gets the missing steps only, and keeps what it holds."""
    steps = ("CREATE TABLE a (x); INSERT INTO a VALUES (1)", "CREATE TABLE b AS SELECT x + 1 AS x FROM a")
    await SqliteDatabase(tmp_path / "nexus.db", steps[:1]).close()
    for _ in range(2):
        database = SqliteDatabase(tmp_path / "nexus.db", steps)
        assert await database.run(_both_tables) == ("1", "2")
        await database.close()


def _both_tables(connection: sqlite3.Connection) -> object:
    return connection.execute(
        "SELECT (SELECT group_concat(x) FROM a), (SELECT group_concat(x) FROM b)"
    ).fetchone()


async def test_newer_schema_stops_the_start(tmp_path: Path) -> None:
    """A file that a newer Nexus has changed is refused, untouched."""
    await SqliteDatabase(tmp_path / "nexus.db", ("CREATE TABLE a (x)", "CREATE TABLE b (x)")).close()
    with pytest.raises(ConfigError, match="has schema 2, made by a newer Nexus; this one knows up to 1"):
        SqliteDatabase(tmp_path / "nexus.db", ("CREATE TABLE a (x)",))
    await SqliteDatabase(tmp_path / "nexus.db", ("", "")).close()


def test_unusable_files_stop_the_start(tmp_path: Path) -> None:
    """A missing folder, a folder in the file's place and a file that is no database are each refused."""
    (tmp_path / "text.db").write_text("not a database " * 100)
    for path in (tmp_path / "absent" / "nexus.db", tmp_path, tmp_path / "text.db"):
        with pytest.raises(ConfigError, match=r"NEXUS_STORE_URL: the database .* cannot be used"):
            open_state_store(f"sqlite:///{path}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
def test_foreign_file_in_a_shared_folder_is_refused(tmp_path: Path) -> None:
    """A file that another user put where anyone may write is not trusted with state; elsewhere it is."""
    path = tmp_path / "nexus.db"
    path.touch()
    os.chown(path, 12345, 12345)
    tmp_path.chmod(0o1777)
    with pytest.raises(ConfigError, match="another user"):
        SqliteDatabase(path, ())
    tmp_path.chmod(0o755)
    asyncio.run(SqliteDatabase(path, ()).close())


async def test_file_is_for_its_user_alone(tmp_path: Path) -> None:
    """The file and what SQLite puts beside it cannot be read by others."""
    store = open_state_store(f"sqlite:///{tmp_path}/nexus.db")
    await store.commit("s", 0, "r", [put("a")], [])
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path)}
    assert modes == {"nexus.db": 0o600, "nexus.db-shm": 0o600, "nexus.db-wal": 0o600}
    await store.close()
