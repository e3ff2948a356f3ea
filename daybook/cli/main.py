"""The `daybook` program: its commands, and the translation of errors to messages and exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, takewhile
from typing import Any

from cyclopts import App, CycloptsError, Group, Parameter

from daybook import __version__
from daybook.errors import DaybookError, DiskFull, InvalidInput, NotFound
from daybook.feature import Commands, Feature, features, leaving_out
from daybook.home import home_path, is_disk_full

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_FIRST, _MORE, _OPERATE = "Commands", "More", "Operate"
_SECTIONS = {
    name: Group(name, sort_key=key) for key, name in enumerate((_FIRST, _MORE, _OPERATE), start=1)
}
_OPTIONS = Group("Options", sort_key=9)

app = App(
    name="daybook",
    help="Schedule the jobs of AI agents and record the outcome of every due time.",
    help_epilogue="First `daybook up`, then `daybook add --help`. All commands: `daybook --help "
    "--all`.",
    help_format="markdown",
    version=__version__,
    version_flags=("--version", "-V"),
    default_parameter=Parameter(negative=(), show_default=False),
    group_commands=_SECTIONS[_FIRST],
    group_parameters=_OPTIONS,
    print_error=False,
    exit_on_error=False,
)


_COMMANDS = (
    Commands(_FIRST, "machine", ("up", "down", "status", "doctor")),
    Commands(_FIRST, "today", ("today",)),
    Commands(_FIRST, "jobs", ("add",)),
    Commands(_FIRST, "job_list", ("list",)),
    Commands(_FIRST, "jobs", ("show", "edit", "pause", "resume", "remove")),
    Commands(_FIRST, "due", ("next",)),
    Commands(_FIRST, "runs", ("run", "runs", "logs", "cancel")),
    Commands(_MORE, "runs", ("ask", "retry")),
    Commands(_MORE, "machine", ("open",)),
    Commands(_MORE, "skips", ("skip", "snooze")),
    Commands(_MORE, "backfill", ("backfill",)),
    Commands(_MORE, "inbox", ("inbox",)),
    Commands(_MORE, "files", ("apply", "diff", "export", "schema")),
    Commands(_MORE, "mcp", ("mcp",)),
    Commands(_MORE, "completion", ("completion",)),
    Commands(_OPERATE, "machine", ("env", "worker", "keeper")),
    Commands(_OPERATE, "web", ("web",)),
    Commands(_OPERATE, "sync", ("sync", "conflicts")),
    Commands(
        _OPERATE,
        "maintenance",
        ("plan", "list", "remove"),
        "maintenance",
        "Plan times in which no job starts",
    ),
    Commands(
        _OPERATE,
        "service",
        ("install", "status", "logs", "uninstall"),
        "service",
        "Start Daybook at boot",
    ),
    Commands(
        _OPERATE,
        "ledger",
        ("prune", "rekey", "move"),
        "ledger",
        "Maintain the ledger",
    ),
    Commands(
        _MORE,
        "callbacks",
        ("list", "show", "retry"),
        "callbacks",
        "Show and retry callbacks and messages",
    ),
    Commands(
        "",
        "destinations",
        ("add", "list", "rotate", "test", "remove"),
        "callbacks destinations",
        "Manage callback URLs that have their own secret",
    ),
    Commands(
        _MORE,
        "sessions",
        ("list", "show", "send"),
        "session",
        "Show and continue stored sessions with agents",
    ),
    Commands(
        _MORE,
        "agents",
        ("add", "list", "show", "edit", "test", "remove"),
        "agents",
        "Manage agents",
    ),
    Commands(
        _MORE,
        "channels",
        ("list", "add", "test", "remove"),
        "channels",
        "Manage channels for answers and alerts",
    ),
    Commands(
        _MORE,
        "secrets",
        ("add", "list", "remove"),
        "secrets",
        "Manage secrets for {{secret:name}} in jobs",
    ),
    Commands(
        _OPERATE,
        "tokens",
        ("add", "list", "remove"),
        "tokens",
        "Manage tokens for MCP clients that use HTTP",
    ),
    Commands(
        _MORE,
        "tools",
        ("list", "show", "call", "test", "add", "remove"),
        "tools",
        "Manage tools and tool servers",
    ),
)
"""The commands of `daybook.cli`, in the order of `--help`. A group comes before those inside it."""

_ALIASES = {"list": ("ls",), "remove": ("rm",)}
"""Other names of commands, also of commands in groups."""

_MAX_COMMANDS_IN_HELP = 8
_group_apps: dict[str, App] = {}
_features_of_commands: dict[tuple[str, str], Feature] = {}
"""The features by the groups and names of their commands."""


def _register_commands() -> None:
    order = count()
    for commands in _COMMANDS:
        _add_commands("daybook.cli", commands, order, None)
    for each in features():
        for commands in each.commands:
            with leaving_out(each, "commands"):  # another command may have the name
                _add_commands(each.package, commands, order, each)
    for flag in ("--help", "--version"):
        app[flag].group = (_OPTIONS,)


def _add_commands(
    package: str, commands: Commands, order: Iterator[int], of_feature: Feature | None
) -> None:
    section, parent = _SECTIONS.get(commands.section), app
    if commands.group:
        parent = _add_group(commands, section, next(order))
        section = None
    for name in commands.names:
        path = f"{package}.{commands.module}:{name}_"
        _add_lazy_command(parent, path, name, group=section, sort_key=next(order))
        if of_feature is not None:
            _features_of_commands[parent.name[0], name] = of_feature


def _add_group(commands: Commands, section: Group | None, order: int) -> App:
    if commands.group in _group_apps:  # a feature adds commands to a group
        return _group_apps[commands.group]
    parent_path, _, name = commands.group.rpartition(" ")
    group = App(
        name=name,
        help=f"{commands.help}: {_command_names(commands)}",
        help_epilogue="",
        group=section,
        default_parameter=app.default_parameter,  # `App.generate_docs` needs this
        sort_key=order,
    )
    _group_apps.get(parent_path, app).command(group)
    _group_apps[commands.group] = group
    return group


def _command_names(commands: Commands) -> str:
    of_features = (given for each in features() for given in each.commands)
    all_commands = (*_COMMANDS, *of_features)
    subgroups = (each.group.partition(f"{commands.group} ")[2] for each in all_commands)
    own = [name for each in all_commands if each.group == commands.group for name in each.names]
    names = [*own, *filter(None, subgroups)]
    if len(names) > _MAX_COMMANDS_IN_HELP:
        return f"{', '.join(names[:4])}, …"
    return f"{', '.join(names)}."


def _add_lazy_command(parent: App, path: str, name: str, **settings: Any) -> None:
    """Add a command whose module is imported when it is called or when its help is shown."""
    parent.command(
        path,
        name=name,
        alias=_ALIASES.get(name, ()),
        help_epilogue="",
        **settings,
    )


_register_commands()


def main(tokens: Sequence[str] | None = None) -> int:
    """Run a command line (default: `sys.argv`). Return the exit code."""
    arguments = list(sys.argv[1:] if tokens is None else tokens)
    # A supervisor may start a program with closed streams.
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - until the exit
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        code = _run_command_line(arguments)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of stdout has closed it
        code = EXIT_BROKEN_PIPE
    try:
        sys.stdout.flush()
    except OSError:  # redirect stdout so that the flush at exit succeeds
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run_command_line(tokens: list[str]) -> int:
    try:
        tokens = _choose_help(_with_stdin_as_file(tokens))
        _load_for_help(tokens)
        with _usage_errors_as_invalid_input():
            command, bound, _ = app.parse_args(tokens)
        result: int | Coroutine[Any, Any, int] | None = command(*bound.args, **bound.kwargs)
        if isinstance(result, Coroutine):
            import asyncio

            result = asyncio.run(result)
        sys.stdout.flush()
        return result or 0
    except DaybookError as error:
        return report_error(error, tokens)
    except (KeyboardInterrupt, BrokenPipeError):
        raise
    except Exception as error:
        # If the error names no file, the full disk may be the disk of the output.
        if (
            isinstance(error, OSError)
            and error.errno in (errno.ENOSPC, errno.EDQUOT)
            and (error.filename or is_disk_full(home_path()))
        ):
            return report_error(DiskFull(str(error.filename or home_path())), tokens)
        if sys.flags.dev_mode:
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        wrapped = DaybookError(
            f"{text} (unexpected error; run `python -X dev -m daybook …` for a traceback)"
        )
        return report_error(wrapped, tokens)


def _with_stdin_as_file(tokens: list[str]) -> list[str]:
    """Return the tokens with `@-` for the prompt `-`, which the parser would read as an option."""
    is_prompt = tokens[:1] in (["add"], ["edit"], ["run"], ["ask"])
    if not (is_prompt or tokens[:2] == ["session", "send"]) or "--" in tokens:
        return tokens
    return ["@-" if token == "-" else token for token in tokens]


def _load_for_help(tokens: list[str]) -> None:
    """Import the commands that a help page lists, to read the first line of their docstrings."""
    group, depth = app, 0
    while subgroup := _group_apps.get(" ".join(tokens[: depth + 1])) if tokens[depth:] else None:
        group, depth = subgroup, depth + 1
    next_tokens = tokens[depth : depth + 1]
    if not next_tokens or next_tokens[0] in ("-h", "--help"):
        for name in list(group):
            of_feature = _features_of_commands.get((group.name[0], name))
            is_usable = False
            with leaving_out(of_feature, f"command {name}"):
                group[name]
                is_usable = True
            if not is_usable:
                del group[name]


def _choose_help(tokens: list[str]) -> list[str]:
    """Choose the short help pages or, for `--all`, the whole pages. Return the other tokens."""
    options = set(takewhile(lambda token: token != "--", tokens))
    if tokens[:1] == ["__complete"] or (tokens and options.isdisjoint(("-h", "--help"))):
        return tokens
    from daybook.cli.help import CommandsInShort, OptionsInShort

    is_whole = "--all" in options
    app.help_formatter = None if is_whole else CommandsInShort()
    for name in ("add", "edit"):
        app[name].help_formatter = None if is_whole else OptionsInShort()
        hint = f"`daybook {name} --help --all` shows all options."
        app[name].help_epilogue = "" if is_whole else hint
    return [token for token in tokens if token != "--all"] if is_whole else tokens


@contextmanager
def _usage_errors_as_invalid_input() -> Iterator[None]:
    try:
        yield
    except CycloptsError as error:
        from daybook.cli import error_text

        raise error_text.usage_error(error) from error


def report_error(error: DaybookError, tokens: list[str]) -> int:
    from daybook.cli import error_text, output

    spellings: dict[str, str] = {}
    if isinstance(error, InvalidInput):
        _, apps, _ = app.parse_commands(tokens)
        if apps[-1].default_command is not None:
            spellings = error_text.option_spellings(apps[-1], tokens)
    message = error_text.error_message(error, spellings)
    if isinstance(error, NotFound):  # this is, for example, the job `list` of `run list`
        message += error_text.other_meaning(tokens)
    output.say(f"daybook: {message}")
    if "--json" in takewhile(lambda token: token != "--", tokens):
        try:
            output.print_json(error_text.error_as_json(error, spellings))
        except BrokenPipeError:
            raise
        except OSError:  # the disk is full, but stderr has the message
            pass
    return error.exit_code
