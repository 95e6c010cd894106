"""`nexus invoke`: one call in a process of its own."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click
import msgspec

from functions.cli.json_input import read_json, read_json_object
from functions.cli.reports import effect_lines, error_lines, usage_line
from functions.cli.settings import common_settings, read_settings, setting
from functions.cli.targets import Target, find_handler
from functions.cli.terminal import EXIT_FAILED, EXIT_USAGE, pretty_json, say
from nexus_core.config import RuntimeConfig
from nexus_core.context import ExecutionContext
from nexus_core.errors import ErrorCode, InvalidHandler
from nexus_core.result import ErrorInfo, WasmResult

_USAGE_CODES = frozenset({ErrorCode.HANDLER_NOT_FOUND, ErrorCode.INVALID_REQUEST})


@click.command()
@click.argument("handler", metavar="NAME|PATH")
@click.option(
    "--event", "event_text", default="null", metavar="JSON|@FILE|-", help="The event; - reads it from stdin."
)
@click.option(
    "--state", "state_text", metavar="JSON|@FILE", help="What $state holds, as an object; nothing is stored."
)
@click.option("--session", metavar="ID", help="Read and store the state of this session.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as JSON.")
@common_settings
@setting("store_url", "Where session state is kept.", "URL")
@setting("cache_dir", "Folder of the disk cache.", "DIR")
@click.pass_context
def command(
    context: click.Context,
    /,
    handler: str,
    event_text: str,
    state_text: str | None,
    session: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Call one handler: a NAME of the handlers folder, or the PATH of a file or folder anywhere.

    The return value goes to standard output; logs, state changes, events and errors go to standard
    error. Exit code: 0 success, 1 the handler failed, 2 the call could not be made.
    """
    if state_text is not None and session is not None:
        raise click.UsageError("--state is for a call without --session: a session has a state of its own")
    config = read_settings(options)
    call = ExecutionContext(
        request_id=os.urandom(16).hex(),
        event=read_json(event_text, "--event"),
        session=session,
        state=read_json_object(state_text, "--state") if state_text is not None else {},
    )
    target = find_handler(handler, config)
    result = _invoke(target, call, config)
    if as_json:
        click.echo(msgspec.json.encode(result))
    else:
        _print(result, target)
    if result.error is not None:
        context.exit(EXIT_USAGE if result.error.code in _USAGE_CODES else EXIT_FAILED)


def _invoke(target: Target, call: ExecutionContext, config: RuntimeConfig) -> WasmResult:
    """The result of the call, be it only that the handler cannot be accepted."""
    try:
        source = target.source()
    except InvalidHandler as error:
        return WasmResult(status="error", error=ErrorInfo.of(error))
    from nexus_core.build import build_runtime

    runtime = build_runtime(_for_one_call(config, call))

    async def run() -> WasmResult:
        await runtime.start()
        try:
            return await runtime.execute_source(source, call)
        finally:
            await runtime.shutdown(0)

    return asyncio.run(run())


def _for_one_call(config: RuntimeConfig, call: ExecutionContext) -> RuntimeConfig:
    """The settings without what only a server needs: spare instances, a store, a line for each call."""
    return msgspec.structs.replace(
        config,
        min_instances=0,
        max_instances=1,
        store_url=config.store_url if call.session is not None else "memory:",
        log_level="error",
        log_format="text",
    )


def _print(result: WasmResult, target: Target) -> None:
    for line in effect_lines(result):
        say(line)
    if result.error is not None:
        for line in error_lines(result.error, target.folder):
            say(line)
    else:
        click.echo(pretty_json(bytes(result.return_value)))
    say(usage_line(result))
