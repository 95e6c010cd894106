"""A process that uses a disk cache, then prints what happened as one line of JSON.

`python -m tests.caches.worker DIRECTORY MAX_BYTES STEP...`, where a step is `load:KEY`,
`store:KEY:BYTES`, `seed:KEY` (load it from DIRECTORY as a seed), `limit:BYTES` (the largest file it
may write), `wait` (for a line on standard input) or `churn:SEED:COUNT` (random loads and stores).
"""

import json
import random
import resource
import sys
from pathlib import Path

from tests.caches.reports import Reports

CHURN_KEYS = 40


def payload(key: str, size: int) -> bytes:
    """The bytes every process agrees on for `key`."""
    return (key.encode() * (size // len(key) + 1))[:size]


def churn_bytes(key: str) -> bytes:
    """The payload of a key of `churn`, of a size of its own."""
    return payload(key, 500 + 37 * int(key[1:]))


def main() -> None:
    """Take the steps of the command line."""
    directory, max_bytes, *steps = sys.argv[1:]
    reports = Reports()
    cache = reports.disk(Path(directory), max_bytes=int(max_bytes))
    loaded: list[int | None] = []
    wrong = 0
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    for step in steps:
        name, *arguments = step.split(":")
        if name in ("load", "seed"):
            source = cache if name == "load" else reports.seed(Path(directory))
            data = source.load(arguments[0])
            loaded.append(None if data is None else len(data))
            wrong += data is not None and data != payload(arguments[0], len(data))
        elif name == "store":
            cache.store(arguments[0], payload(arguments[0], int(arguments[1])))
        elif name == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(arguments[0]), unlimited[1]))
        elif name == "wait":
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            sys.stdin.readline()
        else:
            chance = random.Random(arguments[0])
            for _ in range(int(arguments[1])):
                key = f"k{chance.randrange(CHURN_KEYS)}"
                if chance.random() < 0.5:
                    cache.store(key, churn_bytes(key))
                else:
                    found = cache.load(key)
                    wrong += found is not None and found != churn_bytes(key)
    results = sorted({result for _, result in reports.events})
    # Coverage, where it is measured, writes a file after this.
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    outcome = {"loaded": loaded, "wrong": wrong, "reasons": reports.reasons, "results": results}
    sys.stdout.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
