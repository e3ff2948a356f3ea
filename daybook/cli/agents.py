"""The `daybook agents` commands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from daybook import api
from daybook.cli import agent_dialog, completion, documents, formatting, output
from daybook.cli.agent_options import AgentChanges, AgentOptions, missing_key_note
from daybook.cli.command import Answer, command
from daybook.cli.options import read_file
from daybook.errors import InvalidInput
from daybook.schedules import durations
from daybook.usage import tokens_in_words

if TYPE_CHECKING:
    from daybook.api.agents import AgentDetails, SavedAgent


@command(uses_prefect=True)
async def add_(
    name: Annotated[
        str | None,
        Parameter(help="Name of lowercase letters, digits and dashes.", show_default=False),
    ] = None,
    /,
    *arguments: Annotated[str, Parameter(help="Program and its arguments, after --.")],
    offline: Annotated[
        bool, Parameter(help="Answer without a model; each answer says so.")
    ] = False,
    preset: Annotated[
        str,
        Parameter(
            help="Program whose steps Daybook records: claude-code or codex. Arguments after -- "
            "are added to its own."
        ),
    ] = "",
    spec: Annotated[
        str,
        Parameter(
            help="File of an agent spec of pydantic-ai (YAML or JSON; - reads standard input). "
            "Options win over it."
        ),
    ] = "",
    options: AgentOptions = AgentOptions(),  # noqa: B008 - immutable
    replace: Annotated[
        bool, Parameter(help="Replace the existing agent of this name; its stored key is deleted.")
    ] = False,
) -> Answer:
    """Add an agent: a model, or any program that reads a prompt and prints an answer.

    In a terminal, `daybook agents add` without arguments offers the agents that this machine has.
    The program gets the prompt on standard input, or in place of {prompt} in an argument.

    Example: daybook agents add quick --model openai:gpt-6-luna --key-env OPENAI_API_KEY

    Example: daybook agents add claude --work-dir ~/project -- claude -p

    Example: daybook agents add cc --preset claude-code --work-dir ~/project

    Example: daybook agents add helper --model openai:gpt-6-luna --tool search --tool daybook

    Example: daybook agents add reader --spec reader.yaml
    """
    settings = options.settings(arguments)
    if name is None:
        if settings or offline or preset or spec or replace or not sys.stdin.isatty():
            from daybook.cli.error_text import COMMAND_LINE

            hint = "see `daybook agents add --help`"
            raise InvalidInput(COMMAND_LINE, "NAME is missing", hint)
        new = await agent_dialog.ask()
        agent = await api.agents.add(new.name, new.kind, new.settings, replace=new.replace)
        yield agent
        _print_added(agent)
        return
    kinds = (
        ("command", "command" in settings or preset),
        ("offline", offline),
        ("spec" if spec else "model", options.model or spec),
    )
    given_kinds = [word for word, is_given in kinds if is_given]
    if len(given_kinds) != 1:
        problem = "cannot be combined" if given_kinds else "is missing"
        start = "use --model, --spec, --offline, --preset, or a program after --"
        hint = "" if given_kinds else start
        raise InvalidInput(" and ".join(given_kinds) or "command", problem, hint)
    if preset and options.command is not None:
        raise InvalidInput("preset and command", "cannot be combined", "use arguments after --")
    (kind,) = given_kinds
    if spec:
        kind, settings = "model", with_spec(settings, spec)
    agent = await api.agents.add(name, kind, settings, replace=replace, preset=preset)
    yield agent
    is_without_key = kind == "model" and not agent.settings["api_key"]
    _print_added(agent, missing_key_note(agent.settings) if is_without_key else "")


def with_spec(settings: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the settings in the file of an agent spec, changed by ``settings``.

    Raise `InvalidInput` if there is no such file, or if it is not valid.
    """
    of_spec = api.agents.read_spec(read_file("spec", path))
    options = of_spec.get("options", {}) | settings.get("options", {})
    if "model" not in of_spec | settings:
        raise InvalidInput("spec", "has no model", "add one to it, or use --model")
    return of_spec | settings | ({"options": options} if options else {})


@command(uses_prefect=True)
async def edit_(
    name: Annotated[str, Parameter(help="The agent's name.", completer=completion.agents)],
    /,
    *arguments: Annotated[str, Parameter(help="New program and its arguments, after --.")],
    options: AgentChanges = AgentChanges(),  # noqa: B008 - immutable
) -> Answer:
    """Change only the given settings of an agent; '' clears one.

    A stored key is kept, unless the agent's provider or URL changes.

    Example: daybook agents edit helper --model openai:gpt-6-luna --tool search
    """
    changes = options.settings(arguments)
    changes = {
        field: list(filter(None, value)) if isinstance(value, list) else value
        for field, value in changes.items()
    }
    if not changes:
        raise InvalidInput("settings", "none is given", "pass an option, such as --model")
    with documents.unknown_as_not_found("agent"):
        agent = await api.agents.edit(name, changes)
    yield agent
    _print_agent(agent)
    _say_notes(agent)


@command(uses_prefect=True)
async def test_(
    name: Annotated[str, Parameter(help="The agent's name.", completer=completion.agents)],
    /,
    prompt: Annotated[
        str | None, Parameter(help="Prompt to send. [default: a test prompt]")
    ] = None,
    *,
    timeout: Annotated[str, Parameter(help="Timeout for the answer.", show_default=True)] = "60s",
) -> Answer:
    """Send an agent one prompt from this machine, outside of any job and without its tools.

    Example: daybook agents test default "Say hello"
    """
    timeout_seconds = durations.parse(timeout, "timeout").total_seconds()
    with documents.unknown_as_not_found("agent"):
        answer = await api.agents.test(name, prompt or api.agents.TEST_PROMPT, timeout_seconds)
    yield answer
    output.line(answer.output)
    if answer.cut:
        output.say(f"(incomplete: {answer.cut})")
    if usage := answer.usage:
        parts = (answer.model or "model", tokens_in_words(usage), formatting.cost(usage))
        output.say(f"({', '.join(filter(None, parts))})")


def _setting_text(value: Any) -> str:
    """Return a setting, which may be any JSON value, as text: `temperature 0.2` for an object."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {each}" for name, each in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _print_agent(agent: AgentDetails) -> None:
    settings = dict(agent.settings)
    if isinstance(command := settings.get("command"), list):
        settings["command"] = " ".join(formatting.quoted(str(each)) for each in command)
    output.line(f"{agent.name} ({agent.kind})", style="bold")
    pairs = [
        (name.replace("_", " "), _setting_text(value)) for name, value in settings.items() if value
    ]
    pairs.append(("problem", agent.problem or ""))
    pairs.append(("jobs", ", ".join(agent.jobs)))
    output.fields([(name, value) for name, value in pairs if value])


def _print_added(agent: SavedAgent, note: str = "") -> None:
    _print_agent(agent)
    if note:
        output.say(note)
    _say_notes(agent)
    output.say(f"Try it: daybook agents test {agent.name}")


def _say_notes(agent: SavedAgent) -> None:
    for note in agent.notes:
        if note != agent.problem:  # `_print_agent` has printed the problem
            output.say(f"! {note}")


def _print_agents(listed: list[AgentDetails]) -> None:
    rows = [
        (
            each.name,
            each.kind,
            str(each.settings.get("model") or "-"),
            str(len(each.jobs)),
            each.problem or "-",
        )
        for each in listed
    ]
    output.table(("NAME", "KIND", "MODEL", "JOBS", "PROBLEM"), rows, whole=("KIND", "JOBS"))


list_ = documents.list_command(
    "daybook.api.agents:list_agents",
    """List agents with their models and the number of jobs that use each.

    Example: daybook agents list
    """,
    _print_agents,
)
show_ = documents.show_command(
    "daybook.api.agents:show",
    "agent",
    """Show an agent's settings and the jobs that use it.

    Example: daybook agents show default
    """,
    _print_agent,
)
remove_ = documents.remove_command(
    "daybook.api.agents:remove",
    "agent",
    """Remove an agent that no job uses.

    Example: daybook agents remove claude
    """,
)
