"""Generator of the pages in docs/reference, from settings, help, models, errors and snapshots."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from daybook import markers
from daybook.settings import Settings, all_settings
from docs.page_text import NOTE, SNAPSHOTS, cell, linked, summary


def _kind(field: FieldInfo) -> str:
    annotation = field.annotation
    if get_origin(annotation) is dict:
        return "table"
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(annotation))
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)


def _default(field: FieldInfo) -> str:
    """Return the default as text: for a default factory, the summary of its docstring."""
    if field.default_factory is dict:
        return "empty"
    if field.default_factory is not None:
        described = summary(field.default_factory)
        if not described:
            raise ValueError(
                f"{field.default_factory} needs a docstring, which describes the default"
            )
        return described.removeprefix("Return ")
    default = field.default
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return "required" if field.is_required() else f"`{default!r}`"


def settings() -> str:
    """Return the page of all settings: variable, type, default, meaning."""
    prefix = Settings.model_config["env_prefix"]
    lines = [
        NOTE.format(source="`daybook/settings.py`") + "# Settings",
        "",
        "Set the environment variable, or the key in `config.toml` in the home. The variable",
        "overrides the file. A comma-separated setting may be a list of texts in the file.",
        "`PREFECT_API_URL` sets the address of Prefect.",
        "",
        "Running processes take a change of the file when they next use the setting, but a change",
        "of a setting marked *at start*, or of a variable, when they start again (`daybook down`,",
        "then `daybook up`).",
        "",
        "| variable | in `config.toml` | type | default | meaning |",
        "|---|---|---|---|---|",
    ]
    for name, field in all_settings().model_fields.items():
        if not field.description:
            raise ValueError(f"setting {name} needs a description")
        # The file is in the home, so it cannot set the home.
        key = "—" if name == "home" else f"`{name}`"
        key += " *(at start)*" * markers.of(field).at_start
        cells = [f"`{prefix}{name.upper()}`", key, _kind(field), _default(field), field.description]
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    return linked("\n".join(lines), "reference") + "\n"


def cli() -> str:
    """Return the page of all commands, from their help."""
    from daybook.cli.main import app

    text = app.generate_docs()
    _, begin, commands = text.partition("\n## daybook up\n")
    commands = (begin + commands).strip()
    commands = re.sub(r"^```console$", "```text", commands, flags=re.MULTILINE)
    commands = re.sub(r"^Example: (.*)$", r"Example: `\1`", commands, flags=re.MULTILINE)
    commands = re.sub(r"^(\*\*.+\*\*):$", r"\1", commands, flags=re.MULTILINE)
    # Remove the list of a group's commands: the page's contents already have them.
    commands = re.sub(r"^\*\*Commands\*\*\n\n(\* .*\n)+\n", "", commands, flags=re.MULTILINE)
    commands = re.sub(r"\[(default|choices): ", r"\\[\1: ", commands)  # not a link
    head = NOTE.format(source="the help of `daybook`") + _CLI
    return head + linked(commands, "reference") + "\n"


_CLI = """\
# Command line

`daybook COMMAND --help --all` prints the same text. Every command that prints a result has
`--json`; [JSON output](json.md) lists the fields, and [Errors](errors.md) the exit codes. Write a
value that starts with a dash as `--every=-5m`.

"""


def job_fields() -> str:
    """Return the page of a job's fields, from its models."""
    from daybook.jobs.actions import AgentPrompt, Heartbeat, ToolCall, Webhook
    from daybook.jobs.notify import Notify
    from daybook.policies.checks import Check
    from daybook.policies.policy import Policy

    sections: list[tuple[str, type[BaseModel]]] = [
        ("`agent-prompt`", AgentPrompt),
        ("`webhook`", Webhook),
        ("`tool-call`", ToolCall),
        ("`heartbeat`", Heartbeat),
        ("`policy`", Policy),
        ("`policy.check`", Check),
        ("`notify`", Notify),
    ]
    lines = [NOTE.format(source="the models in `daybook/jobs`") + _JOB_FIELDS]
    for title, model in sections:
        lines += [f"## {title}", "", "| field | type | meaning |", "|---|---|---|"]
        properties = model.model_json_schema()["properties"]
        for name, schema in properties.items():
            described = cell(schema.get("description", ""))
            lines.append(f"| `{name}` | {cell(_json_type(schema))} | {described} |")
        lines.append("")
    return linked("\n".join(lines), "reference")


_JOB_FIELDS = """\
# Fields of a job

A job has the fields of its kind (`agent-prompt`, `webhook`, `tool-call` or `heartbeat`), a `policy`
and `notify`. The command line has an option for each field, Prefect's form shows the same fields,
and `daybook show JOB --json` prints them.
"""


def _json_type(schema: dict[str, Any]) -> str:
    """Return the type of a model's field in words."""
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if "$ref" in schema:
        return f"[`{schema['$ref'].rpartition('/')[2].lower()}`](#policycheck)"
    if "anyOf" in schema:
        return ", or ".join(_json_type(each) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_json_type(schema.get('items', {}))}"
    if schema.get("format") == "duration":
        return "duration"
    return _TYPES.get(schema.get("type", ""), "any JSON")


_TYPES = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "object": "object",
    "null": "null",
    "str": "text",
    "int": "integer",
    "float": "number",
    "bool": "true or false",
    "NoneType": "null, or a value",
}


def json_output() -> str:
    """Return the page of the `--json` output, from the snapshot of its shapes."""
    lines = [NOTE.format(source="`tests/snapshots/json-shapes.json`") + _JSON]
    earlier: dict[str, list[str]] = {}
    for typed, shape in json.loads((SNAPSHOTS / "json-shapes.json").read_text()).items():
        command = typed.replace("brief", "JOB").replace("alpha", "NAME")
        rows = [f"| `{name}` | {kind} |" for name, kind in _fields(shape, "")]
        same = next((name for name in earlier if set(rows) >= set(earlier[name]) != set()), "")
        more = [row for row in rows if row not in earlier.get(same, ())]
        lines += [f"## `daybook {command}`", ""]
        sort = "A list of objects" if isinstance(shape, list) else "An object"
        lines += [_kind_of_output(sort, same, bool(more)), ""]
        if more:
            lines += ["| field | value |", "|---|---|", *more, ""]
        earlier[command] = rows
    return "\n".join(lines)


def _kind_of_output(sort: str, same: str, more: bool) -> str:
    if not same:
        return f"{sort}{' with these fields:' if more else '.'}"
    return f"{sort} with the fields of `daybook {same}`{', and these:' if more else '.'}"


_JSON = """\
# JSON output

With `--json` a command prints one JSON document on standard output and nothing else there. Messages
go to standard error. `daybook.Client` returns the same objects. Instants are RFC 3339 strings: due
times with the offset of the job's time zone, all others in UTC. `a.b` is the field `b` of the
object `a`, and `a[]` is an element of the list `a`.
"""


_DESCRIBED = ("policy", "notify")
"""Objects whose fields are on the page of the job fields."""


def _fields(shape: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the type of each field of a shape in the snapshot."""
    if isinstance(shape, list) and any(isinstance(each, dict) for each in shape):
        yield from _fields(shape[0], f"{path}[]" if path else "")
    elif isinstance(shape, dict) and shape:
        for name, each in shape.items():
            if name in _DESCRIBED:
                yield name, f"object: [fields of a job](job.md#{name})"
            else:
                yield from _fields(each, f"{path}.{name}" if path else name)
    elif isinstance(shape, list) and path:
        yield path, f"list of {_TYPES[shape[0]]}" if shape else "list"
    elif path:
        yield path, "object" if shape == {} else _TYPES[shape]


def errors() -> str:
    """Return the page of error codes and exit codes, from the tree in `daybook.errors`."""
    from daybook import errors as module
    from daybook.cli.main import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED

    lines = [
        NOTE.format(source="`daybook/errors.py`") + _ERRORS,
        f"| {EXIT_INTERRUPTED} | Ctrl-C ended the command |",
        f"| {EXIT_BROKEN_PIPE} | the reader of the output closed the pipe |",
        "",
        "## Error codes",
        "",
        "| code | exit code | class | meaning |",
        "|---|---|---|---|",
    ]
    for error in _tree(module.DaybookError, module):
        cells = [f"`{error.code}`", str(error.exit_code), f"`{error.__name__}`", summary(error)]
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    return "\n".join(lines) + "\n"


_ERRORS = """\
# Errors

A failed command prints its error on standard error. With `--json` it prints
`{"error": {"code": …, "message": …}}` on standard output. In a program each error is a class of
`daybook.errors`, with `code` and `exit_code`; `str(error)` is the message. Compare the code, never
the message.

## Exit codes

| exit code | meaning |
|---|---|
| 0 | done; `run --wait`: the run succeeded or was skipped; `status`: ready |
| 1 | `run --wait`: any other outcome; `status`: not ready; or an error with this exit code |
| 2 | invalid input, including errors of the command line; nothing was stored |
| 3 | the job or run does not exist, or no task is claimable |
| 4 | Prefect, the ledger or the pages cannot be reached, or Prefect refused access |"""


def _tree(root: type[Any], module: ModuleType) -> Iterator[type[Any]]:
    """Yield a class and its subclasses in ``module``, each before its own subclasses."""
    yield root
    for each in root.__subclasses__():
        if each.__module__ == module.__name__:
            yield from _tree(each, module)


def http() -> str:
    """Return the page of the HTTP endpoints and metrics, from the web application."""
    from daybook import feature
    from daybook.diagnosis.health import HealthMonitor
    from daybook.web.app import application
    from daybook.web.endpoint import Endpoint

    of_features: list[Endpoint] = [make("") for make in feature.loaded("endpoint")]
    described = _ENDPOINTS | {f"POST {each.path}{{name}}": each.help for each in of_features}
    pages = application(HealthMonitor.__new__(HealthMonitor), of_features)
    routes = [route.path for route in pages.routes]  # type: ignore[attr-defined]
    if routes != [each.partition(" ")[2] for each in described]:
        raise ValueError(f"the routes are {routes}; describe them in `_ENDPOINTS`")
    lines = [NOTE.format(source="`daybook/web` and `tests/snapshots/metrics.txt`") + _HTTP]
    lines += ["| path | answer |", "|---|---|"]
    lines += [f"| `{endpoint}` | {answer} |" for endpoint, answer in described.items()]
    lines += [_HTTP_REST, "| metric | type | labels | meaning |", "|---|---|---|---|"]
    text = (SNAPSHOTS / "metrics.txt").read_text()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    labels = dict(re.findall(r"^(daybook_\w+) ?(.*)$", text, re.MULTILINE))
    for name, meaning in re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE):
        of_name = ", ".join(f"`{each}`" for each in labels[name.removesuffix("_total")].split())
        lines.append(f"| `{name}` | {types[name]} | {of_name or '–'} | {cell(meaning)} |")
    return "\n".join(lines) + "\n"


_HTTP = """\
# HTTP

## Endpoints

`daybook up` serves these on `127.0.0.1:4280`, and `daybook web` on any address.
"""

_ENDPOINTS = {
    "GET /health": "200 if all is well, else 503 with the reasons, as JSON: see "
    "[Monitoring](../operations/monitoring.md#health)",
    "GET /metrics": "the metrics below, in the text format of Prometheus or as OpenMetrics",
}

_HTTP_REST = """
| status of a rejected request | reason |
|---|---|
| 403 | the `Host` or the `Origin` is not allowed |
| 404 | the path does not exist |
| 405 | the method is neither `GET` nor `HEAD`, or at a hook not `POST` |
| 413 | the request has a body, or at a hook too large a one |
| 503 | too many requests are in progress |

`daybook mcp --http` serves `/mcp` on `127.0.0.1:4281`, described in
[MCP](../guides/mcp.md#on-http). Daybook sends [callbacks](../guides/callbacks.md#the-request), and
[wakes](../guides/tasks.md#how-sessions-are-woken) of task sessions.

## Metrics
"""


def python() -> str:
    """Return the page of the public names; MkDocs inserts their docstrings."""
    import daybook

    lines = [NOTE.format(source="`daybook/__init__.py`") + _PYTHON]
    for name in daybook.__all__:
        module = getattr(daybook, name).__module__
        lines += [f"## daybook.{name}", "", f"::: {module}.{name}", ""]
    return "\n".join(lines)


_PYTHON = """\
# Python API

These are the names that `import daybook` offers. [In programs](../guides/programs.md) shows how to
use them, [Errors](errors.md) lists what they raise, and [JSON output](json.md) what they return.
"""
