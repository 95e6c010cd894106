"""Options that override settings, shared by the subcommands."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from nexus_core.config import PREFIX, RuntimeConfig, load_config

Command = Callable[..., Any]

_FILE = "config_file"


def setting(name: str, text: str, metavar: str | None = None) -> Callable[[Command], Command]:
    """An option `--some-name` for the setting `some_name`; its value is checked where settings are read."""
    return click.option(f"--{name.replace('_', '-')}", name, metavar=metavar or name.upper(), help=text)


def common_settings(command: Command) -> Command:
    """The options of every subcommand that works with handlers."""
    command = setting("handlers_dir", "Folder of the handlers.", "DIR")(command)
    return click.option(
        "--config", _FILE, type=click.Path(path_type=Path), metavar="FILE", help="TOML file with settings."
    )(command)


def read_settings(options: Mapping[str, Any]) -> RuntimeConfig:
    """The settings of this process, with the options that were given laid over them.

    Raises `ConfigError`, which names an option's setting by its variable.
    """
    given = {f"{PREFIX}{name.upper()}": str(value) for name, value in options.items() if value is not None}
    file = given.pop(f"{PREFIX}{_FILE.upper()}", None)
    return load_config({**os.environ, **given}, Path(file) if file else None)
