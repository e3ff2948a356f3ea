"""Settings of tool servers.

The command line derives options from these settings, so the import of this module has to be fast.
Therefore each check imports its dependencies only when it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from daybook.errors import InvalidInput
from daybook.http import secrets
from daybook.markers import Marker
from daybook.processes import environment, locations


class ToolServerSettings(BaseModel):
    """Settings of a server: a program that uses MCP over its pipes, or a URL.

    Only the operator sets them.
    """

    model_config = ConfigDict(extra="forbid")

    command: list[str] = Field(
        default=[],
        title="Command",
        description="The program and its arguments, one entry each; no shell interprets them. "
        "Daybook starts it for each call of a job, or once for all calls of an agent's answer, "
        "and ends it together with its child processes.",
        examples=[["uvx", "mcp-server-time"]],
    )
    url: Annotated[str, Marker(gets_secrets=True)] = Field(
        default="",
        title="URL",
        description="URL of an MCP server that uses streamable HTTP.",
        examples=["https://tools.example.org/mcp"],
    )
    environment: Annotated[list[str], Marker(option="env")] = Field(
        # This is a value and not a factory, because Prefect's form shows the value.
        default=list(environment.DEFAULT_NAMES),
        title="Environment",
        description="For a program: names of the worker's environment variables that it gets. "
        "Names only, never values. PREFECT_… and DAYBOOK_… are refused.",
    )
    work_dir: str = Field(
        default="",
        title="Work directory",
        description="For a program: its working directory; an absolute path, or one that begins "
        "with ~. If empty, it gets a new, empty folder, which is removed afterwards.",
    )
    headers: Annotated[dict[str, str], Marker(option="header", syntax="header")] = Field(
        default={},
        title="Headers",
        description="For a URL: headers of every request. Write a secret as {{secret:name}}; the "
        "secret must list this host.",
    )
    read_only: list[str] = Field(
        default=[],
        title="Read-only tools",
        description="Tools that only read, although the server may not say so, with * as a "
        "wildcard. After an interruption, Daybook may repeat their calls.",
        examples=[["get_*", "search"]],
    )

    @field_validator("command")
    @classmethod
    def _usable(cls, value: list[str]) -> list[str]:
        if value and not value[0].strip():
            raise ValueError("is blank; list the program, then one entry for each argument")
        if any("\0" in argument for argument in value):
            raise ValueError("an argument cannot contain a zero byte")
        if secrets.referenced_names(value):
            raise ValueError(
                "contains a secret, but all users of the machine can see arguments; pass it in a "
                "variable of the worker's environment instead"
            )
        return value

    @field_validator("url")
    @classmethod
    def _reachable(cls, value: str) -> str:
        if value:
            if "{{" in value:
                raise ValueError("contains a reference; use {{secret:name}} in a header instead")
            if "#" in value:
                raise ValueError(
                    "contains a #; remove it, because a job names the tool as server.tool"
                )
            from daybook.http.guard import Guard, Rule

            _as_value_error(lambda: Guard(Rule.OPERATOR).check(value))
        return value

    @field_validator("environment")
    @classmethod
    def _passable(cls, value: list[str]) -> list[str]:
        environment.check(value)
        return value

    @field_validator("work_dir")
    @classmethod
    def _absolute(cls, value: str) -> str:
        locations.check(value)
        return value

    @field_validator("headers")
    @classmethod
    def _sendable(cls, value: dict[str, str]) -> dict[str, str]:
        _as_value_error(lambda: check_headers(value))
        return value

    @field_validator("read_only")
    @classmethod
    def _matching(cls, value: list[str]) -> list[str]:
        if not all(map(str.strip, value)):
            raise ValueError("contains a blank name; write a tool's name, or a pattern")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> ToolServerSettings:
        if bool(self.command) == bool(self.url):
            raise ValueError("set either command or url, not both")
        if self.url and self.work_dir:
            raise ValueError("work_dir is for a command; this server has a url")
        if self.command and self.headers:
            raise ValueError("headers are for a url; this server is a command")
        return self


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise `InvalidInput` for a header that is invalid, reserved, or contains a literal secret.

    Raise it also for a misspelt reference to a secret.
    """
    from daybook.http import request

    request.check("POST", headers)
    for name, value in headers.items():
        if name.lower() in _RESERVED_HEADERS or name.lower().startswith("mcp-"):
            raise InvalidInput("headers", f'"{name}" is set by Daybook', "remove it")
        secrets.references("headers", value)
    secrets.refuse_literal_headers(headers)


_RESERVED_HEADERS = ("accept", "content-type", "idempotency-key", "last-event-id")


def _as_value_error(check: Any) -> None:
    """Run ``check``. Raise its `InvalidInput` as a ValueError, to which pydantic adds the field."""
    try:
        check()
    except InvalidInput as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise ValueError(f"{error.problem}{hint}") from None
