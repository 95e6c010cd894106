"""The container's entry: `python -m functions.knative`."""

from __future__ import annotations

import os
import sys

from functions.http.server import serve
from functions.knative.platform import platform_settings
from nexus_core.config import ConfigError, load_config


def main() -> int:
    """Serve until SIGTERM; the exit code. A bad setting is one line on standard error, and code 2."""
    try:
        config = load_config(platform_settings(os.environ))
        return serve(config, log_stream=sys.stdout.buffer)
    except ConfigError as error:
        sys.stderr.write(f"nexus: {error.message}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
