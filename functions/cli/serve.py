"""`nexus serve`."""

from __future__ import annotations

from typing import Any

import click

from functions.cli.settings import common_settings, read_settings, setting


@click.command()
@common_settings
@setting("host", "Address to listen on.")
@setting("port", "TCP port to listen on.")
@setting("workers", "Worker processes.", "N")
@setting("auth", "Demand tokens or not.", "jwt|off")
@setting("store_url", "Where session state is kept.", "URL")
@setting("cache_dir", "Folder of the disk cache.", "DIR")
@setting("log_level", "Least severe level that is logged.", "debug|info|warning|error")
@setting("log_format", "Form of a log line.", "json|text")
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Serve the handlers over HTTP and WebSocket, until SIGTERM or Ctrl-C.

    Running calls are finished first. Every setting has a NEXUS_* variable; see docs/configuration.md.
    """
    config = read_settings(options)
    from functions.http.server import serve

    context.exit(serve(config))
