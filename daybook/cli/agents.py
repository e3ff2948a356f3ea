"""The `daybook agents` commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from daybook import api
from daybook.cli import completion, documents, formatting, output
from daybook.cli.model_options import ModelOptions
from daybook.cli.options import Json, prepare_prefect
from daybook.errors import InvalidInput
from daybook.processes.environment import DEFAULT_NAMES
from daybook.schedules import durations

if TYPE_CHECKING:
    from daybook.agents.documents import AgentInfo
    from daybook.api.agents import AgentDetails


async def add_(
    name: documents.NewName,
    /,
    *arguments: Annotated[str, Parameter(help="Program and its arguments, after --.")],
    offline: Annotated[
        bool, Parameter(help="Answer without a model; each answer says so.")
    ] = False,
    command: Annotated[
        str | None,
        Parameter(help="Program and its arguments as one string; no shell interprets it."),
    ] = None,
    preset: Annotated[
        str | None,
        Parameter(
            help="Program whose steps Daybook records: claude-code or codex. Arguments after -- "
            "are added to its own."
        ),
    ] = None,
    work_dir: Annotated[
        str | None,
        Parameter(
            help="Working directory of the program. [default: a new, empty one for each run]"
        ),
    ] = None,
    environment: Annotated[
        list[str] | None,
        Parameter(
            name="--env",
            help="Environment variable of the worker to pass to the program, in addition to PATH, "
            "HOME and similar ones. Repeatable.",
        ),
    ] = None,
    output_: Annotated[
        str | None,
        Parameter(
            name="--output",
            help="Format of the program's output: text, json, claude-code or codex. "
            "[default: text, or that of the preset]",
        ),
    ] = None,
    history: Annotated[
        str | None,
        Parameter(
            help="Session history to pass to the program: transcript or none. [default: transcript]"
        ),
    ] = None,
    tools: Annotated[
        list[str] | None,
        Parameter(
            name="--tool",
            help="Tool that the agent may call: a tool server, server.tool, a Python tool, or "
            "daybook. In a program's arguments, {mcp_config} is the file that lists the servers. "
            "Repeatable.",
        ),
    ] = None,
    capabilities: Annotated[
        list[str] | None,
        Parameter(
            name="--capability",
            help="Capability that tasks can require. If no session claims such a task, Daybook can "
            "run a job of this agent that has the tag task-worker. Repeatable.",
        ),
    ] = None,
    summarize_after_messages: Annotated[
        int | None,
        Parameter(
            help="Number of messages of a session above which older ones are replaced by a "
            "summary. [default: never]"
        ),
    ] = None,
    summarize_after_tokens: Annotated[
        int | None, Parameter(help="The same limit in estimated tokens. [default: none]")
    ] = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - immutable
    replace: Annotated[
        bool, Parameter(help="Replace the existing agent of this name; its stored key is deleted.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Add an agent: a model, or any program that reads a prompt and prints an answer.

    The program gets the prompt on standard input, or in place of {prompt} in an argument.

    Example: daybook agents add quick --model openai:gpt-6-luna --key-env OPENAI_API_KEY

    Example: daybook agents add claude --work-dir ~/project -- claude -p

    Example: daybook agents add cc --preset claude-code --work-dir ~/project

    Example: daybook agents add helper --model openai:gpt-6-luna --tool search --tool daybook
    """
    program = command_words(command, arguments)
    if preset is not None and command is not None:
        raise InvalidInput("preset and command", "cannot be combined", "use -- arguments")
    kinds = (("command", program or preset), ("offline", offline), ("model", model_options.model))
    given_kinds = [word for word, is_given in kinds if is_given]
    if len(given_kinds) != 1:
        problem = "cannot be combined" if given_kinds else "is missing"
        hint = "" if given_kinds else "use --model, --offline, --preset, or a program after --"
        raise InvalidInput(" and ".join(given_kinds) or "command", problem, hint)
    settings: dict[str, Any] = {
        "work_dir": work_dir,
        "output": output_,
        "environment": environment,
        "history": history,
        "tools": tools,
        "capabilities": capabilities,
        "summarize_after_messages": summarize_after_messages,
        "summarize_after_tokens": summarize_after_tokens,
    }
    settings = {field: value for field, value in settings.items() if value is not None}
    settings |= model_options.settings()
    if environment is not None:
        settings["environment"] = list(dict.fromkeys([*DEFAULT_NAMES, *environment]))
    if program:
        settings["command"] = program
    prepare_prefect()

    agent = await api.agents.add(
        name, given_kinds[0], settings, replace=replace, preset=preset or ""
    )
    if as_json:
        output.print_json(agent)
    else:
        _print_agent(agent)
        if given_kinds == ["model"] and not agent.settings["api_key"]:
            output.say(model_options.missing_key_note())
        for note in agent.notes:
            output.say(f"! {note}")
        output.say(f"Try it: daybook agents test {name}")
    return 0


async def test_(
    name: Annotated[str, Parameter(help="The agent's name.", completer=completion.agents)],
    /,
    prompt: Annotated[
        str | None, Parameter(help="Prompt to send. [default: a test prompt]")
    ] = None,
    *,
    timeout: Annotated[str, Parameter(help="Timeout for the answer.", show_default=True)] = "60s",
    as_json: Json = False,
) -> int:
    """Send an agent one prompt from this machine, outside of any job and without its tools.

    Example: daybook agents test default "Say hello"
    """
    timeout_seconds = durations.parse(timeout, "timeout").total_seconds()
    prepare_prefect()

    with documents.unknown_as_not_found("agent"):
        answer = await api.agents.test(name, prompt or api.agents.TEST_PROMPT, timeout_seconds)
    if as_json:
        output.print_json(answer)
    else:
        output.line(answer.output)
        if answer.cut:
            output.say(f"(incomplete: {answer.cut})")
        if usage := answer.usage:
            parts = (answer.model or "model", formatting.tokens(usage), formatting.cost(usage))
            output.say(f"({', '.join(filter(None, parts))})")
    return 0


def command_words(command: str | None, arguments: tuple[str, ...]) -> list[str]:
    if command is None:
        return list(arguments)
    if arguments:
        raise InvalidInput("command and arguments", "cannot be combined")
    import shlex

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidInput("command", f"cannot be split: {error}", "check the quotes") from None
    if not words:
        raise InvalidInput("command", "is blank", "write the program and its arguments")
    return words


def _setting_text(value: Any) -> str:
    """Return a setting as text: the items of a list, `temperature 0.2` for an object.

    The setting may be any JSON, because agents can be edited in Prefect's UI.
    """
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {each}" for name, each in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _print_agent(agent: AgentInfo, jobs: Sequence[str] = ()) -> None:
    settings = dict(agent.settings)
    if isinstance(command := settings.get("command"), list):
        settings["command"] = " ".join(formatting.quoted(str(each)) for each in command)
    output.line(f"{agent.name} ({agent.kind})", style="bold")
    pairs = [
        (name.replace("_", " "), _setting_text(value)) for name, value in settings.items() if value
    ]
    pairs.append(("problem", agent.problem or ""))
    pairs.append(("jobs", ", ".join(jobs)))
    output.fields([(name, value) for name, value in pairs if value])


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
    "agents",
    """List agents with their models and the number of jobs that use each.

    Example: daybook agents list
    """,
    _print_agents,
)
show_ = documents.show_command(
    "agents",
    "agent",
    """Show an agent's settings and the jobs that use it.

    Example: daybook agents show default
    """,
    lambda details: _print_agent(details, details.jobs),
    name_help="The agent's name.",
    completer=completion.agents,
)
remove_ = documents.remove_command(
    "agents",
    "agent",
    """Remove an agent that no job uses.

    Example: daybook agents remove claude
    """,
    completion.agents,
)
