"""The option with which a program of a preset prints its answer while it writes it.

Older versions of the program refuse the option, so a program gets it only if its ``--help`` names
it. The option is in no stored command: an agent keeps its command for years.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from daybook.agents import process
from daybook.agents.presets import PRESETS
from daybook.agents.program_sandbox import ProgramSandbox

HELP_SECONDS = 10.0
"""Maximum time for ``--help``. A slower program does not get the option."""

_known: dict[str, bool] = {}
"""Whether the help of a program names the option, by the program's path."""


async def with_option(
    output: str,
    arguments: Sequence[str],
    *,
    folder: str,
    environment: Mapping[str, str],
    sandbox: ProgramSandbox | None,
    seconds: float,
) -> list[str]:
    """Return the ``arguments``, whose first is the program, with the option if it is supported.

    Only a program with the name of the preset ``output`` is started for its help, once per process,
    for at most ``seconds``, and in the ``sandbox`` if there is one.
    """
    program, *more = arguments
    preset = PRESETS.get(output)
    option = preset.partial_option if preset is not None else ""
    if preset is None or not option or option in more:
        return [program, *more]
    if Path(program).name != preset.command[0]:
        return [program, *more]
    if program not in _known:
        try:
            printed = await process.run(
                [program, "--help"],
                folder=folder,
                environment=environment,
                stdin=None,
                seconds=min(seconds, HELP_SECONDS),
                grace_seconds=0.0,
                sandbox=sandbox.anew() if sandbox is not None else None,
            )
        except (OSError, ValueError):  # the run itself reports it
            return [program, *more]
        _known[program] = not printed.timed_out and option.encode() in printed.output
    return [program, option, *more] if _known[program] else [program, *more]
