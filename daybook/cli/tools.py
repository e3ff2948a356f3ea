"""The `daybook tools` commands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from daybook import api
from daybook.cli import completion, documents, formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.field_options import options_of, with_options
from daybook.cli.options import parse_json_object
from daybook.cli.program_options import Command, ProgramOptions, environment_option
from daybook.errors import InvalidInput
from daybook.schedules import durations
from daybook.tools.server_presets import PRESETS
from daybook.tools.server_settings import ToolServerSettings

if TYPE_CHECKING:
    from daybook.api.tools import ToolDetails, ToolList, ToolServerDetails


_FIELDS = ToolServerSettings.model_fields


@Parameter(name="*")
@with_options(
    {
        "": [
            *options_of(_FIELDS, "url"),
            environment_option(_FIELDS),
            *options_of(_FIELDS, "headers", "work_dir", "read_only"),
        ]
    }
)
class ToolServerOptions(ProgramOptions):
    """Options of `daybook tools add`."""

    command: Command = None


@command(uses_prefect=True)
async def call_(
    name: Annotated[str, Parameter(help="The tool's name, as `daybook tools list` shows it.")],
    /,
    *,
    params: Annotated[
        str | None, Parameter(help="Parameters of the call: a JSON object, or @file.")
    ] = None,
    timeout: Annotated[str, Parameter(help="Timeout for the call.", show_default=True)] = "30s",
) -> Answer:
    """Call a tool once from this machine, outside of any job.

    Example: daybook tools call search.reindex --params '{"full": true}'
    """
    arguments = parse_json_object("params", params) if params is not None else {}
    timeout_seconds = durations.parse(timeout, "timeout").total_seconds()
    with documents.unknown_as_not_found("tool"):
        result = await api.tools.call(name, arguments, timeout_seconds)
    yield result, 0 if result.status == "succeeded" else 1
    if result.output:
        output.line(result.output)
    if result.status != "succeeded":
        output.say(f"{result.status}: {result.error or result.reason}")
    elif result.reason:
        output.say(f"({result.reason})")


@command(uses_prefect=True)
async def test_(
    name: Annotated[
        str | None,
        Parameter(
            help="The server's name. [default: all servers]", completer=completion.tool_servers
        ),
    ] = None,
    /,
) -> Answer:
    """Start or connect to saved servers and ask for their tools, without calling any.

    Example: daybook tools test search
    """
    with documents.unknown_as_not_found("tool server"):
        results = await api.tools.test(name)
    yield results, 1 if any(each.problem for each in results) else 0
    if results:
        rows = [
            (each.server, each.problem or f"{len(each.tools or ())} tools in {each.seconds:.1f} s")
            for each in results
        ]
        output.table(("SERVER", "RESULT"), rows)
    else:
        output.say("No tool servers; save one with `daybook tools add`.")


@command(uses_prefect=True)
async def add_(
    name: documents.NewName,
    /,
    *arguments: Annotated[str, Parameter(help="Program and its arguments, after --.")],
    preset: Annotated[
        str,
        Parameter(
            help=f"Known server: {', '.join(PRESETS)}. Arguments after -- are added to its command."
        ),
    ] = "",
    options: ToolServerOptions = ToolServerOptions(),  # noqa: B008 - immutable
    replace: Annotated[bool, Parameter(help="Replace the existing server of this name.")] = False,
) -> Answer:
    """Save an MCP server (a program or a URL) so that jobs can call its tools.

    Example: daybook tools add time -- uvx mcp-server-time

    Example: daybook tools add project --preset filesystem -- ~/project
    """
    settings = options.settings(arguments)
    if preset and options.command is not None:
        raise InvalidInput("preset and command", "cannot be combined", "use arguments after --")
    if "environment" in settings and settings.get("url") and "command" not in settings:
        raise InvalidInput("environment", "applies only to a program, but this server is a URL")
    server = await api.tools.add(name, settings, replace=replace, preset=preset)
    yield server
    _print_server(server)
    for note in server.notes:
        output.say(f"! {note}")
    if server.tools:
        output.say(f"Show a tool's parameters: daybook tools show {server.tools[0]}")


def _print_details(details: ToolDetails | ToolServerDetails) -> None:
    if isinstance(details, api.tools.ToolDetails):
        _print_tool(details)
    else:
        _print_server(details)


def _print_tool(tool: ToolDetails) -> None:
    output.line(f"{tool.name} ({tool.source})", style="bold")
    schema = tool.json_schema
    required = schema.get("required", [])
    needs = required if isinstance(required, list) else []
    properties = schema.get("properties", {})
    pairs = [("description", tool.description.strip())]
    for name, each in properties.items() if isinstance(properties, dict) else ():
        type_text = _of_type(each)
        pairs.append((f"param {name}", f"{type_text}, required" if name in needs else type_text))
    pairs.append(("jobs", ", ".join(tool.jobs)))
    output.fields([(name, value) for name, value in pairs if value])


def _of_type(schema: Any) -> str:
    """Return the schema of a parameter in words if the schema is simple, otherwise as JSON.

    An example in words is `integer, default 0: how many`.
    """
    if not isinstance(schema, dict) or schema.keys() - _SIMPLE:
        return formatting.field_text(schema)
    kind, choices = schema.get("type", "anything"), schema.get("enum")
    if not isinstance(kind, str):
        return formatting.field_text(schema)
    type_text = f"one of {', '.join(map(_json, choices))}" if isinstance(choices, list) else kind
    if "default" in schema:
        type_text += f", default {_json(schema['default'])}"
    about = schema.get("description")
    return f"{type_text}: {about}" if isinstance(about, str) and about else type_text


_SIMPLE = {"type", "title", "enum", "default", "description"}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _print_server(server: ToolServerDetails) -> None:
    settings = server.settings
    output.line(f"{server.name} (tool server)", style="bold")
    pairs = [
        (name.replace("_", " "), _setting_text(settings.get(name)))
        for name in ("command", "url", "headers", "work_dir", "environment", "read_only")
        if name != "environment" or settings.get("command")
    ]
    pairs += [
        ("tools", "\n".join(server.tools or [])),
        ("problem", server.problem or ""),
        ("jobs", ", ".join(server.jobs)),
    ]
    output.fields([(name, value) for name, value in pairs if value])


def _setting_text(value: Any) -> str:
    """Return a setting as text: a list as quoted items, an object as one line for each name.

    The setting may be any JSON value, because users can edit tool servers in Prefect's UI.
    """
    if isinstance(value, dict):
        return "\n".join(f"{name}: {each}" for name, each in value.items())
    if isinstance(value, list):
        return " ".join(formatting.quoted(str(each)) for each in value)
    return str(value or "")


def _print_tools(listed: ToolList) -> None:
    rows = [
        (each.name, each.source, each.description.strip().partition("\n")[0] or "-")
        for each in listed.tools
    ]
    if rows:
        output.table(("NAME", "SOURCE", "DESCRIPTION"), rows, whole=("NAME",))
    else:
        output.say(
            "No tools; save a tool server with `daybook tools add`. Daybook's own, such as `web` "
            "and `files`, need no server: `daybook agents edit NAME --tool web`."
        )
    for name, why in listed.absent.items():
        output.say(f"{name}: {why}")


list_ = documents.list_command(
    "daybook.api.tools:list_tools",
    """List the tools that a job can call: Python tools and the tools of saved servers.

    Example: daybook tools list
    """,
    _print_tools,
)
show_ = documents.show_command(
    "daybook.api.tools:show",
    "tool",
    """Show a tool's parameters, or a saved server, and the jobs that use it.

    Example: daybook tools show search.reindex
    """,
    _print_details,
    name_help="Name of a tool or of a saved server, or https://host/path#tool.",
    completer=completion.tool_servers,
)
remove_ = documents.remove_command(
    "daybook.api.tools:remove",
    "tool server",
    """Remove a saved server whose tools no job calls.

    Example: daybook tools remove time
    """,
)
