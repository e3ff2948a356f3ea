"""Variables of a prompt.

================  ==================================================================
`{{due}}`         due time of the run, in ISO format
`{{job}}`         name of the job
`{{last_output}}` answer of the job's last succeeded run
`{{work_dir}}`    absolute path of the job's work directory
`{{check}}`       result or output of the job's check
`{{change}}`      the change that the job's watch found, as a unified diff
`{{payload}}`     payload of the request to a hook, in JSON; `{{payload.action}}` is one value in it
`{{output:JOB}}`  answer of the job JOB: of the run that started this run, or else its last success
================  ==================================================================

When a job gets its prompt, `check` refuses any other name in double braces. `render` leaves all
other double braces in the text unchanged. A variable's value is never expanded again, because it
may be a model's answer or an external text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from daybook.errors import InvalidInput
from daybook.jobs import payloads

JOB_VARIABLES = ("due", "job", "last_output", "work_dir")
"""Variables that the prompt of a check may use too."""
CHECK_VARIABLES = ("check", "change")
"""Variables that a job's check sets."""
VARIABLES = (*JOB_VARIABLES, *CHECK_VARIABLES, payloads.PAYLOAD)

OUTPUT = "output:"
"""Start of the name of a variable whose value is another job's answer."""
_NAMED = re.compile(r"\{\{\s*+(output:[^{}]*+|[\w.:-]+)\s*\}\}")


def check(
    prompt: str, known: Sequence[str] = VARIABLES, field: str = "prompt", kept: str = ""
) -> None:
    """Raise `InvalidInput` for an unknown variable, which `render` would leave in the prompt.

    Raise it also for `{{output:}}` without the name of a job. The unknown variables of the prompt
    ``kept`` are legal.
    """
    legal = {each[1] for each in _NAMED.finditer(kept)}
    for found in _NAMED.finditer(prompt):
        if found[1].startswith(OUTPUT) and known is VARIABLES:
            if not found[1].removeprefix(OUTPUT).strip():
                raise InvalidInput(field, f"{found[0]} names no job", "write {{output:<job>}}")
        elif payloads.is_payload(found[1]) and payloads.PAYLOAD in known:
            pass
        elif found[1] not in known and found[1] not in legal:
            matches = difflib.get_close_matches(found[1].lower(), known, n=1)
            hint = f"did you mean {{{{{matches[0]}}}}}? " if matches else ""
            text = f"{hint}known: {', '.join(in_braces(known))}"
            raise InvalidInput(field, f"unknown variable {found[0]}", text)


def in_braces(variables: Sequence[str]) -> list[str]:
    """Return the variables in double braces, as a prompt contains them."""
    return [f"{{{{{each}}}}}" for each in variables]


def render(prompt: str, values: Mapping[str, str], known: Sequence[str] = VARIABLES) -> str:
    """Replace each of ``known`` by its value; a variable without a value becomes empty."""

    def value(found: re.Match[str]) -> str:
        name, job = found[1], found[1].removeprefix(OUTPUT)
        name = name if job == name else output_of(job.strip())
        return values.get(name, "") if name in (*known, *values) else found[0]

    return _NAMED.sub(value, prompt)


def used(prompt: str) -> list[str]:
    """Return the variables that `render` replaces in this prompt, with their braces."""
    return [
        found[0]
        for found in _NAMED.finditer(prompt)
        if found[1] in VARIABLES or found[1].startswith(OUTPUT) or payloads.is_payload(found[1])
    ]


def output_of(job: str) -> str:
    """Return the name of the variable that holds the answer of this job."""
    return OUTPUT + job


def outputs(prompt: str) -> list[str]:
    """Return the names of the jobs whose answers the prompt uses, each once."""
    found = (each[1] for each in _NAMED.finditer(prompt))
    names = (name.removeprefix(OUTPUT).strip() for name in found if name.startswith(OUTPUT))
    return list(dict.fromkeys(names))


def payload_variables(prompt: str) -> list[str]:
    """Return the variables of the payload that the prompt uses, each once."""
    found = (each[1] for each in _NAMED.finditer(prompt))
    return list(dict.fromkeys(name for name in found if payloads.is_payload(name)))


def rename_output(prompt: str, old: str, new: str) -> str:
    """Return the prompt with `{{output:…}}` of the job ``old`` changed to the job ``new``."""

    def renamed(found: re.Match[str]) -> str:
        job = found[1].removeprefix(OUTPUT)
        is_old = job != found[1] and job.strip() == old
        return f"{{{{{output_of(new)}}}}}" if is_old else found[0]

    return _NAMED.sub(renamed, prompt)


def uses_variable(prompt: str, variable: str) -> bool:
    """Return whether the prompt uses this variable."""
    return any(found[1] == variable for found in _NAMED.finditer(prompt))
