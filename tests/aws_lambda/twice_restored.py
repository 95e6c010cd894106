"""The function, restored twice from one snapshot: at the snapshot its process becomes two with one memory.

A fork differs from a restore in two things, both of which are put right in the copy: Python gives it other
random numbers, and it has no threads but one.
"""

import os
import queue
import random
import threading
from concurrent.futures import ThreadPoolExecutor

from snapshot_restore_py import register_before_snapshot  # type: ignore[import-untyped]


def _become_two() -> None:
    state = random.getstate()
    if os.fork() == 0:
        random.setstate(state)
        threads = handler._runtime._parts.threads
        assert isinstance(threads, ThreadPoolExecutor)
        threads._work_queue = queue.SimpleQueue()
        threads._idle_semaphore = threading.Semaphore(0)
        threads._threads = set()


# Before a snapshot the hooks run in the reverse order of their registration: so this one is the last.
register_before_snapshot(_become_two)

from functions.aws_lambda.entry import handler  # noqa: E402
