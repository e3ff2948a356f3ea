"""The `daybook tools` commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.options import Json, header, parse_json_object, prepare_prefect
from daybook.errors import InvalidInput, NotFound, UnknownName

Server = Annotated[str, Parameter(help="The server's name.")]


async def list_(*, as_json: Json = False) -> int:
    """List what a job can call: Python tools, and those of the saved servers.

    Example: daybook tools list
    """
    prepare_prefect()
    from daybook.api import tools

    listed = await tools.list_tools()
    if as_json:
        output.print_json(listed)
        return 0
    if listed["tools"]:
        rows = [
            (each["name"], each["source"], _first_line(each["description"]))
            for each in listed["tools"]
        ]
        output.table(("NAME", "SOURCE", "DESCRIPTION"), rows, whole=("NAME",))
    else:
        output.say("There are no tools; `daybook tools add --help` says how to save a server.")
    for name, why in listed["absent"].items():
        output.say(f"{name}: {why}")
    return 0


async def show_(
    name: Annotated[
        str, Parameter(help="A tool's name, or that of a saved server, or https://host/path#tool.")
    ],
    /,
    *,
    as_json: Json = False,
) -> int:
    """Show what a tool does and takes, or a saved server, and the jobs that use it.

    Example: daybook tools show search.reindex
    """
    prepare_prefect()
    from daybook.api import tools

    with _unknown_as_not_found("tool"):
        details = await tools.show(name)
    if as_json:
        output.print_json(details)
    elif "settings" in details:
        _print_server(details)
    else:
        _print_tool(details)
    return 0


async def call_(
    name: Annotated[str, Parameter(help="The tool's name, as `daybook tools list` shows it.")],
    /,
    *,
    params: Annotated[
        str | None, Parameter(help="What it is called with: a JSON object, or @file.")
    ] = None,
    timeout: Annotated[
        str, Parameter(help="The most that it may take.", show_default=True)
    ] = "30s",
    as_json: Json = False,
) -> int:
    """Call a tool once, here and now, outside of any job.

    Example: daybook tools call search.reindex --params '{"full": true}'
    """
    from daybook.schedules import durations

    arguments = parse_json_object("params", params) if params is not None else {}
    timeout_seconds = durations.parse(timeout, "timeout").total_seconds()
    prepare_prefect()
    from daybook.api import tools

    with _unknown_as_not_found("tool"):
        result = await tools.call(name, arguments, timeout_seconds)
    if as_json:
        output.print_json(result)
    else:
        if result["output"]:
            output.line(result["output"])
        if result["status"] != "succeeded":
            output.say(f"{result['status']}: {result['reason'] or result['error']}")
        elif result["reason"]:
            output.say(f"({result['reason']})")
    return 0 if result["status"] == "succeeded" else 1


async def test_(
    name: Annotated[str | None, Parameter(help="The server's name. Default: each of them.")] = None,
    /,
    *,
    as_json: Json = False,
) -> int:
    """Start or reach a saved server, and ask for its tools; nothing is called.

    Example: daybook tools test search
    """
    prepare_prefect()
    from daybook.api import tools

    with _unknown_as_not_found("tool server"):
        results = await tools.test(name)
    if as_json:
        output.print_json(results)
    elif results:
        rows = [
            (
                each["server"],
                each["problem"] or f"{len(each['tools'])} tools in {each['seconds']:.1f} s",
            )
            for each in results
        ]
        output.table(("SERVER", "ANSWER"), rows)
    else:
        output.say("There are no servers; `daybook tools add --help` says how to save one.")
    return 1 if any(each["problem"] for each in results) else 0


async def add_(
    name: Annotated[str, Parameter(help="Lowercase letters, digits and dashes.")],
    /,
    *arguments: Annotated[str, Parameter(help="The program and its arguments, after --.")],
    command: Annotated[
        str | None,
        Parameter(help="The program and its arguments in one text; no shell reads it."),
    ] = None,
    url: Annotated[
        str | None, Parameter(help="The address of a server that speaks streamable HTTP.")
    ] = None,
    environment: Annotated[
        list[str] | None,
        Parameter(
            name="--env",
            help="The NAME of a variable of the worker that the program sees, beside PATH, HOME "
            "and the like. May be given several times.",
        ),
    ] = None,
    headers: Annotated[
        list[str] | None,
        Parameter(
            name="--header",
            help='Sent with each request to the URL: "X-Team: ops"; a secret only as '
            "{{secret:name}}. May be given several times.",
        ),
    ] = None,
    work_dir: Annotated[
        str | None,
        Parameter(help="Where the program runs. Default: a new, empty folder for each call."),
    ] = None,
    replace: Annotated[
        bool, Parameter(help="In place of the server of this name, if there is one.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Save an MCP server, a program or an address, so that jobs can call its tools.

    Example: daybook tools add time -- uvx mcp-server-time
    """
    from daybook.cli.agents import command_words

    settings: dict[str, Any] = {
        "command": command_words(command, arguments),
        "url": url or "",
        "work_dir": work_dir or "",
    }
    if headers is not None:
        settings["headers"] = dict(map(header, headers))
    if environment is not None:
        from daybook.processes.environment import DEFAULT_NAMES

        if not settings["command"]:
            raise InvalidInput("env", "is for a program; this server has none")
        settings["environment"] = list(dict.fromkeys([*DEFAULT_NAMES, *environment]))
    prepare_prefect()
    from daybook.api import tools

    server = await tools.add(name, settings, replace=replace)
    if as_json:
        output.print_json(server)
    else:
        _print_server(server)
        if server["tools"]:
            output.say(f"See what one takes: daybook tools show {server['tools'][0]}")
    return 0


async def remove_(name: Server, /, *, as_json: Json = False) -> int:
    """Remove a saved server whose tools no job calls.

    Example: daybook tools remove time
    """
    prepare_prefect()
    from daybook.api import tools

    await tools.remove(name)
    if as_json:
        output.print_json({"removed": name})
    else:
        output.line(f"Removed the tool server {name}")
    return 0


@contextmanager
def _unknown_as_not_found(noun: str) -> Iterator[None]:
    """Raise `NotFound` for an unknown tool or server, because the command names it as its target.

    An unknown secret stays `UnknownName`: the command does not name it.
    """
    try:
        yield
    except UnknownName as error:
        if error.field == "secret":
            raise
        raise NotFound(noun, f"{error.name}") from error


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0] or "-"


def _print_tool(tool: dict[str, Any]) -> None:
    output.line(f"{tool['name']} ({tool['source']})", style="bold")
    schema = tool["schema"]
    required = schema.get("required", [])
    needs = required if isinstance(required, list) else []
    properties = schema.get("properties", {})
    pairs = [("description", tool["description"].strip())]
    for name, each in properties.items() if isinstance(properties, dict) else ():
        type_text = _of_type(each)
        pairs.append((f"param {name}", f"{type_text}, required" if name in needs else type_text))
    pairs.append(("jobs", ", ".join(tool["jobs"])))
    output.fields([(name, value) for name, value in pairs if value])


def _of_type(schema: Any) -> str:
    """Return the schema of a parameter in words if it is simple, else as JSON.

    `integer, default 0: how many`.
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


def _print_server(server: dict[str, Any]) -> None:
    settings = server["settings"]
    output.line(f"{server['name']} (tool server)", style="bold")
    headers = [f"{name}: {value}" for name, value in settings.get("headers", {}).items()]
    pairs = [
        ("command", " ".join(map(formatting.quoted, settings.get("command", [])))),
        ("url", settings.get("url", "")),
        ("headers", "\n".join(headers)),
        ("work dir", settings.get("work_dir", "")),
        (
            "environment",
            " ".join(settings.get("environment", [])) if settings.get("command") else "",
        ),
        ("tools", "\n".join(server["tools"] or [])),
        ("problem", server["problem"] or ""),
        ("jobs", ", ".join(server.get("jobs", []))),
    ]
    output.fields([(name, value) for name, value in pairs if value])
