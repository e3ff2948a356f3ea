"""The programs of a job that work in a worktree: `setup` and `verify`.

They run without a shell, with the variables of `environment.DEFAULT_NAMES`, and with a folder for
caches that the runs of the job share (`XDG_CACHE_HOME`, which uv, pip and others use).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from daybook.agents import process
from daybook.agents.program_sandbox import ProgramSandbox, cache_variables, make_cache, to_start
from daybook.execution import sandboxing
from daybook.ledger.texts import sanitize
from daybook.processes import environment, group, locations
from daybook.processes.pipes import EndsPipe
from daybook.redaction import redact_remembered, redact_tokens

MAX_OUTPUT_BYTES = 20_000
"""Maximum length of an output: the first and the last half of it."""

MAX_QUOTED_CHARACTERS = 2_000
"""Maximum length of an output in an error."""

_NOT_STARTED = (126, 127)
"""Exit codes of a shell that cannot run a program, or does not find it."""

# One pipe, so that the lines of both outputs are in the order in which they were printed.
_MERGED = 'exec "$@" 2>&1'


@dataclass(frozen=True)
class ProgramEnd:
    """How a program ended: ``problem`` is "" if it succeeded, and ``output`` is what it printed.

    ``is_missing`` if it could not be started, which no change of files repairs.
    """

    problem: str
    output: str
    is_missing: bool = False

    def in_words(self) -> str:
        """Return the problem with the end of the output, for an error."""
        end = self.output[-MAX_QUOTED_CHARACTERS:]
        return f"{self.problem}; {f'its output ends: {end}' if end else 'it printed nothing'}"


async def run(
    command: Sequence[str],
    folder: Path,
    job: str,
    seconds: float,
    sandbox: ProgramSandbox | None,
) -> ProgramEnd:
    """Run a program in ``folder`` for at most ``seconds``; ``job`` is an id.

    Raise the errors of `ProgramSandbox.wrap`.
    """
    cache = str(sandboxing.cache_folder(job, sandbox.level if sandbox else "off"))
    make_cache(cache)
    variables = environment.select(environment.DEFAULT_NAMES)
    variables |= cache_variables(cache)
    named = shlex.join(command)
    try:
        found = locations.find_program(command[0], str(folder), variables)
        program = to_start(command[0], found, sandbox)
        ended = await process.run(
            ["/bin/sh", "-c", _MERGED, "sh", program, *command[1:]],
            folder=str(folder),
            environment=variables,
            stdin=None,
            seconds=max(seconds, 0.0),
            output=EndsPipe(MAX_OUTPUT_BYTES),
            sandbox=sandbox,
        )
    except OSError as error:
        return ProgramEnd(f"{named} cannot be started: {error.strerror}", "", is_missing=True)
    except ValueError as error:
        return ProgramEnd(f"{named} cannot be started: {error}", "", is_missing=True)
    refused = sandbox.warnings() if sandbox else ()
    output = "\n".join([ended.output.decode(errors="replace").strip(), *refused]).strip()
    problem = ""
    if ended.timed_out:
        problem = f"{named} was not done within {seconds:.0f} s"
    elif ended.code != os.EX_OK:
        problem = f"{named} {group.describe_exit(ended.code)}"
    if ended.exceeded:
        problem = f"{named} was ended by its sandbox: {ended.exceeded}"
    output = sanitize(redact_tokens(redact_remembered(output)))
    # In a sandbox, the shell may find fewer programs.
    return ProgramEnd(problem, output, is_missing=ended.code in _NOT_STARTED)
