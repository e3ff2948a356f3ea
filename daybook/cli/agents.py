"""The `daybook agents` commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.model_options import ModelOptions
from daybook.cli.options import Json, prepare_prefect
from daybook.errors import InvalidInput, NotFound, UnknownName

Name = Annotated[str, Parameter(help="The agent's name.")]


async def add_(
    name: Annotated[str, Parameter(help="Lowercase letters, digits and dashes.")],
    /,
    *arguments: Annotated[str, Parameter(help="The program and its arguments, after --.")],
    offline: Annotated[bool, Parameter(help="Answers without a model, and says so.")] = False,
    command: Annotated[
        str | None,
        Parameter(help="The program and its arguments in one text; no shell reads it."),
    ] = None,
    work_dir: Annotated[
        str | None, Parameter(help="Where it runs. Default: a new, empty folder for each run.")
    ] = None,
    environment: Annotated[
        list[str] | None,
        Parameter(
            name="--env",
            help="The NAME of a variable of the worker that it sees, beside PATH, HOME and the "
            "like. May be given several times.",
        ),
    ] = None,
    output_: Annotated[
        str | None, Parameter(name="--output", help="What it prints: text (the default) or json.")
    ] = None,
    history: Annotated[
        str | None,
        Parameter(help="What it reads of the conversation: transcript (the default) or none."),
    ] = None,
    tools: Annotated[
        list[str] | None,
        Parameter(
            name="--tool",
            help="What it may call while it answers: a tool server, server.tool, a Python tool, "
            "daybook. A program finds servers in the file {mcp_config}. May be given again.",
        ),
    ] = None,
    capabilities: Annotated[
        list[str] | None,
        Parameter(
            name="--capability",
            help="What it can do, for tasks that need it: a worker with it is spawned for one that "
            "nobody claims. May be given several times.",
        ),
    ] = None,
    model_options: ModelOptions = ModelOptions(),  # noqa: B008 - immutable
    replace: Annotated[
        bool, Parameter(help="In place of the agent of this name, key included, if there is one.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Add an agent: a model, or any program that reads a prompt and prints its answer.

    The prompt comes on the program's standard input, or where an argument holds {prompt}.

    Example: daybook agents add quick --model openai:gpt-6-luna --key-env OPENAI_API_KEY

    Example: daybook agents add claude --work-dir ~/project -- claude -p

    Example: daybook agents add helper --model openai:gpt-6-luna --tool search --tool daybook
    """
    program = command_words(command, arguments)
    kinds = (("command", program), ("offline", offline), ("model", model_options.model))
    given_kinds = [word for word, is_given in kinds if is_given]
    if len(given_kinds) != 1:
        problem = "only one of these can be given" if given_kinds else "is missing"
        hint = "" if given_kinds else "give --model or the program, or say --offline"
        raise InvalidInput(" and ".join(given_kinds) or "command", problem, hint)
    settings: dict[str, Any] = {
        "work_dir": work_dir,
        "output": output_,
        "environment": environment,
        "history": history,
        "tools": tools,
        "capabilities": capabilities,
    }
    settings = {field: value for field, value in settings.items() if value is not None}
    settings |= model_options.settings()
    if environment is not None:
        from daybook.processes.environment import DEFAULT_NAMES

        settings["environment"] = list(dict.fromkeys([*DEFAULT_NAMES, *environment]))
    if program:
        settings["command"] = program
    prepare_prefect()
    from daybook.api import agents

    agent = await agents.add(name, given_kinds[0], settings, replace=replace)
    if as_json:
        output.print_json(agent)
    else:
        _block(agent)
        if given_kinds == ["model"] and not agent["settings"]["api_key"]:
            output.say(model_options.missing_key_note())
        for note in agent["notes"]:
            output.say(f"! {note}")
        output.say(f"Ask it something: daybook agents test {name}")
    return 0


async def list_(*, as_json: Json = False) -> int:
    """List the agents.

    Example: daybook agents list
    """
    prepare_prefect()
    from daybook.api import agents

    listed = await agents.list_agents()
    if as_json:
        output.print_json(listed)
    else:
        rows = [(each["name"], each["kind"], each["problem"] or "-") for each in listed]
        output.table(("NAME", "KIND", "PROBLEM"), rows)
    return 0


async def show_(name: Name, /, *, as_json: Json = False) -> int:
    """Show an agent's settings, and the jobs that ask it.

    Example: daybook agents show default
    """
    prepare_prefect()
    from daybook.api import agents

    with _unknown_as_not_found(name):
        agent = await agents.show(name)
    if as_json:
        output.print_json(agent)
    else:
        _block(agent)
    return 0


async def test_(
    name: Name,
    /,
    prompt: Annotated[
        str | None, Parameter(help="What it is asked. Default: to say that it is ready.")
    ] = None,
    *,
    timeout: Annotated[
        str, Parameter(help="The most that it may take.", show_default=True)
    ] = "60s",
    as_json: Json = False,
) -> int:
    """Ask an agent once, here and now, outside of any job and without its tools.

    Example: daybook agents test default "Say hello"
    """
    from daybook.schedules import durations

    timeout_seconds = durations.parse(timeout, "timeout").total_seconds()
    prepare_prefect()
    from daybook.api import agents

    with _unknown_as_not_found(name):
        answer = await agents.test(name, prompt or agents.TEST_PROMPT, timeout_seconds)
    if as_json:
        output.print_json(answer)
    else:
        output.line(answer["output"])
        if answer["cut"]:
            output.say(f"(cut: {answer['cut']})")
        if answer["usage"]:
            output.say(_usage_line(answer))
    return 0


async def remove_(name: Name, /, *, as_json: Json = False) -> int:
    """Remove an agent that no job asks.

    Example: daybook agents remove claude
    """
    prepare_prefect()
    from daybook.api import agents

    await agents.remove(name)
    if as_json:
        output.print_json({"removed": name})
    else:
        output.line(f"Removed the agent {name}")
    return 0


def command_words(command: str | None, arguments: tuple[str, ...]) -> list[str]:
    if command is None:
        return list(arguments)
    if arguments:
        raise InvalidInput("command and arguments", "only one of these can be given")
    import shlex

    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidInput("command", f"cannot be split: {error}", "check its quotes") from None
    if not words:
        raise InvalidInput("command", "is blank", "write the program and its arguments")
    return words


@contextmanager
def _unknown_as_not_found(name: str) -> Iterator[None]:
    """Raise `NotFound` for an unknown agent, because the command names it as its target."""
    try:
        yield
    except UnknownName as error:
        raise NotFound("agent", name) from error


def _usage_line(answer: dict[str, Any]) -> str:
    """Return the model, tokens and cost of an answer as one line."""
    usage = answer["usage"]
    parts = (answer["model"] or "model", formatting.tokens(usage), formatting.cost(usage))
    return "(" + ", ".join(filter(None, parts)) + ")"


def _setting_text(value: Any) -> str:
    """Return a setting as text: the items of a list, `temperature 0.2` for an object."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {each}" for name, each in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)


def _block(agent: dict[str, Any]) -> None:
    settings = dict(agent["settings"])
    if "command" in settings:
        settings["command"] = " ".join(map(formatting.quoted, settings["command"]))
    output.line(f"{agent['name']} ({agent['kind']})", style="bold")
    pairs = [
        (name.replace("_", " "), _setting_text(value)) for name, value in settings.items() if value
    ]
    pairs.append(("problem", agent["problem"] or ""))
    pairs.append(("jobs", ", ".join(agent.get("jobs", []))))
    output.fields([(name, value) for name, value in pairs if value])
