"""Shell completion: the `daybook completion` command, and the names that Tab offers.

The script that the command prints contains the commands, options and choices. For the names of
jobs, runs, tokens and settings documents, the script runs `daybook __complete …`, which cyclopts
answers with the completers in this module. A completer returns names with descriptions. If it
raises an error, Tab offers no names. The names of settings documents come from the ledger's copies,
so that Tab does not wait for Prefect. Channels are an exception, because a block without a copy can
be a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Parameter

from daybook import api, home
from daybook.cli import output
from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext

_T = TypeVar("_T")
_RUNS_OFFERED = 20
PREFECT_TIMEOUT_SECONDS = 2.0
"""Maximum time to wait for the names of channels. After this time, Tab offers no names."""

Names = list[tuple[str, str]]
"""Pairs of a name and its description."""

Completer = Callable[["CompletionContext"], Names]
"""Function that returns the names that Tab offers for an argument or an option."""


def completion_(
    shell: Annotated[
        Literal["bash", "zsh", "fish"] | None,
        Parameter(help="The shell. [default: the one that runs this command]"),
    ] = None,
    /,
    *,
    install: Annotated[
        bool, Parameter(help="Write the script to the shell's folder for completions.")
    ] = False,
) -> int:
    """Print or install a script with which Tab completes commands, options and names.

    Without --install, load it in the shell itself: `source <(daybook completion bash)`.

    Example: daybook completion --install
    """
    from cyclopts.completion import ShellDetectionError, detect_shell

    from daybook.cli.main import app

    try:
        chosen = shell or detect_shell()
    except ShellDetectionError:
        raise InvalidInput("shell", "is not known here", "write bash, zsh or fish") from None
    if chosen not in ("bash", "zsh", "fish"):
        raise InvalidInput("shell", f"{chosen} is not supported", "use bash, zsh or fish")
    if not install:
        output.line(app.generate_completion(shell=chosen))
        if chosen == "zsh":  # a file in $fpath does not need this line, but `source` does
            output.line("compdef _cyclopts_daybook daybook")
        return 0
    output.line(f"Wrote {app.install_completion(shell=chosen)}")
    output.say("Open a new shell to use it.")
    return 0


def of_choices(choices: Iterable[str]) -> Completer:
    """Return the completer of an option that takes one of ``choices``."""
    return lambda context: [(choice, "") for choice in choices]


def jobs(context: CompletionContext) -> Names:
    if not _has_ledger():
        return []
    return [(job.name, job.words) for job in _result(api.jobs.list_jobs())]


def jobs_and_runs(context: CompletionContext) -> Names:
    if not _has_ledger():
        return []
    newest = _result(api.runs.history(limit=_RUNS_OFFERED))
    return jobs(context) + [(run.id[:8], f"{run.job}, {run.status}") for run in newest]


def documents(noun: str) -> Completer:
    """Return the completer of names of settings documents. ``noun`` is their `BlockStore.noun`."""

    def complete(context: CompletionContext) -> Names:
        return [(name, "") for name in _result(api.documents.names(noun))] if _has_ledger() else []

    return complete


agents, secrets, tool_servers = documents("agent"), documents("secret"), documents("tool server")


def channels(context: CompletionContext) -> Names:
    from daybook.processes import proc

    # `daybook.cli.options.prepare_prefect` does the same, but that module imports this module.
    proc.deny_inspection()
    home.configure_prefect()
    return list(_result(api.channels.names(PREFECT_TIMEOUT_SECONDS)).items())


def tokens(context: CompletionContext) -> Names:
    if not _has_ledger():
        return []
    return [(each.name, each.owner) for each in _result(api.tokens.list_tokens())]


def _has_ledger() -> bool:
    """Return whether the ledger exists. Do not open it, because that would create it.

    For a database other than SQLite, return True without a check.
    """
    from pathlib import Path

    from daybook import settings

    backend, _, path = settings.load().ledger_address.partition(":///")
    return not backend.startswith("sqlite") or Path(path).exists()


def _result(call: Coroutine[Any, Any, _T]) -> _T:
    import asyncio

    return asyncio.run(call)
