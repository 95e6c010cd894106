"""What Lambda imports: the function's handler is `functions.aws_lambda.entry.handler`.

Importing this module is INIT: it reads the settings, builds the runtime and warms it, once per process. It is
the one module with state of its own, because an imported name is how Lambda finds a function.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from typing import Final

from awslambdaric.lambda_runtime_exception import FaultException  # type: ignore[import-untyped]

from functions.aws_lambda.adapter import LambdaAdapter
from functions.aws_lambda.observer import Observer
from functions.aws_lambda.snapstart import register_hooks
from nexus_core.build import build_runtime
from nexus_core.config import ConfigError, load_config

_WARM_SECONDS: Final = 2.0
"""Lambda gives INIT 10 s; what does not fit in here is compiled, or read, at its first call."""

_STOP_SECONDS: Final = 0.25
"""Lambda kills the process 300 ms after its SIGTERM."""


def start(environ: Mapping[str, str]) -> LambdaAdapter:
    """The function, ready for events. Raises `FaultException` for a bad setting, which ends INIT.

    The message gets to the log, and to whoever invoked the function: so it goes without a traceback.
    """
    try:
        config = load_config(environ)
        observer = Observer(environ, config)
        runtime = build_runtime(config, log=observer.log)
    except ConfigError as error:
        raise FaultException(type(error).__name__, error.message, []) from None
    observer.watch(runtime.metrics)
    adapter = LambdaAdapter(runtime, observer)
    adapter.start()
    adapter.warm(_WARM_SECONDS)
    register_hooks(adapter, observer)
    return adapter


def _end_at_sigterm(adapter: LambdaAdapter) -> None:
    """Wait for SIGTERM, which Lambda sends where an extension is registered, and end the process in order."""
    signal.sigwait({signal.SIGTERM})
    try:
        adapter.close(_STOP_SECONDS)
    finally:
        # Python's own exit would wait for the thread in which the runtime client waits for the next event.
        os._exit(0)


# For every thread made from here on, so that the signal is left to the one that waits for it. A handler would
# run in the middle of what the main thread does, and a shutdown needs locks that the runtime client takes.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
handler: Final = start(os.environ)
threading.Thread(target=_end_at_sigterm, args=(handler,), name="nexus-end", daemon=True).start()
