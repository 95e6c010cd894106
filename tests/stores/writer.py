"""A process that commits to a SQLite store: `writer.py URL SESSION COUNT PADDING`.

It adds 1 to `count` COUNT times (0 = for ever), trying again after each lost race, writes the same number
to `twin` in the same flush, and prints each version it was told is committed. It prints `ready` once the
store is open, and starts when it is sent a line.
"""

import asyncio
import json
import sys

import msgspec

from nexus_core.errors import StateConflict
from nexus_core.result import EmittedEvent, StateMutation
from nexus_core.stores.open import open_state_store


async def main(url: str, session: str, count: int, padding: int) -> None:
    """Commit until done or killed."""
    store = open_state_store(url)
    # All writers are let go at once, after each has opened the file.
    print("ready", flush=True)  # noqa: T201 - the process that started us reads it
    sys.stdin.readline()
    done = 0
    while done < count or not count:
        snapshot = await store.load(session)
        number = json.loads(snapshot.values.get("count", b"0")) + 1
        text = msgspec.Raw(json.dumps([number, "x" * padding]).encode())
        mutations = [
            StateMutation(op="set", key="count", value=msgspec.Raw(str(number).encode())),
            StateMutation(op="set", key="twin", value=text),
        ]
        try:
            version = await store.commit(
                session, snapshot.version, "request", mutations, [EmittedEvent(name="added")]
            )
        except StateConflict:
            continue
        print(version, flush=True)  # noqa: T201 - as above
        done += 1
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
