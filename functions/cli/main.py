"""The `nexus` command. A subcommand's module is imported only when it runs: one does not pay for all."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from types import MappingProxyType

import click

from functions.cli.terminal import EXIT_USAGE, harmless, say, strong
from nexus_core.errors import NexusError

_COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "serve": ("functions.cli.serve", "Serve the handlers over HTTP and WebSocket."),
        "invoke": ("functions.cli.invoke", "Call one handler and print what it returns."),
        "list": ("functions.cli.listing", "List the handlers, what starts them and what they may do."),
        "check": ("functions.cli.check", "Compile handlers and compare their code with their manifest."),
        "build": ("functions.cli.build", "Compile all handlers into a seed cache."),
        "dev": ("functions.cli.dev", "Serve, reload changed handlers, and show every call."),
        "doctor": ("functions.cli.doctor", "Check whether a server would run well here."),
        "tune": ("functions.cli.tune", "Say which settings to change, from a server's metrics."),
    }
)
"""Module and one-line help of each subcommand; the module's command is called `command`."""


class _LazyGroup(click.Group):
    """A group that imports a subcommand when it is named, and none for the overview."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="nexus", message="nexus %(version)s")
def nexus() -> None:
    """Run small functions in warm, pristine WebAssembly sandboxes.

    Settings come from NEXUS_* variables and from the file NEXUS_CONFIG names; options override them.
    """


def main() -> None:
    """Entry point of the console script: runs the command line of this process and exits with its code."""
    try:
        # https://no-color.org: any value but the empty one asks for plain text.
        nexus(prog_name="nexus", color=False if os.environ.get("NO_COLOR") else None)
    except NexusError as error:
        # Whatever a subcommand does not report itself stops it before it began: a setting, a missing file.
        say(f"nexus: {strong('error', 'red')}: {harmless(error.message)}")
        sys.exit(EXIT_USAGE)
