"""`nexus dev`: the server for whoever writes handlers."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from functions.cli.settings import common_settings, read_settings, setting
from functions.cli.terminal import harmless, strong


@click.command()
@common_settings
@setting("host", "Address to listen on.")
@setting("port", "TCP port to listen on.")
@setting("store_url", "Where session state is kept.", "URL")
@setting("egress_allow_private", "Let $ext.http reach this machine and its network.", "true|false")
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Serve in one process, reload handlers when their files change, and show every call.

    A change takes effect with the next call; calls under way end with the code they began with.
    """
    config = read_settings(options)
    if not config.handlers_dir.is_dir():
        raise click.UsageError(f"there is no folder {config.handlers_dir}")
    # What is worth a line is printed here for people; the log is left to what breaks.
    config = msgspec.structs.replace(config, workers=1, log_level="error", log_format="text")
    from functions.cli.watched_runtime import build_watched_runtime
    from functions.http.server import serve

    address = f"http://{config.host}:{config.port}"
    click.echo(
        f"{strong('nexus dev', 'green')} serves and watches {harmless(str(config.handlers_dir))} on {address}"
    )
    context.exit(serve(config, build=build_watched_runtime))
