"""Error messages of the command line: one sentence, which names the option as the user typed it.

`daybook.api` names fields as Python and JSON do (`on_demand`). Only this module translates such a
name into its spelling on the command line: `--on-demand`, or `PROMPT` for a positional argument.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import takewhile

from cyclopts import App, CycloptsError
from cyclopts.exceptions import (
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from daybook.cli import other_words
from daybook.errors import MAX_LISTED, DaybookError, InvalidFiles, InvalidInput, nearest_name
from daybook.json_text import JsonObject

COMMAND_LINE = "command line"
"""The field of an `InvalidInput` about the whole command line."""

_WORD = re.compile(r"(?<!\{\{)\b[a-z]+(?:_[a-z]+)*\b(?!\}\})")
"""A word of a hint that may be a field. A word in double braces is a variable of a prompt."""


def option_spellings(app: App, tokens: Iterable[str] = ()) -> dict[str, str]:
    """Return the spelling of each field of a command on the command line, by field.

    If a field is both a positional argument and an option, it is spelled as the option only if the
    option is among the ``tokens`` that the user typed.
    """
    options = {each.partition("=")[0] for each in takewhile(lambda each: each != "--", tokens)}
    spelling_of: dict[str, str] = {}
    for argument in app.assemble_argument_collection():
        name = argument.field_info.name
        if argument.name.startswith("--") or argument.index is not None:
            spelling = argument.name if argument.index is None else name.upper()
            field = name.rstrip("_")
            if argument.name.isupper():  # the argument has several values, such as JOB of `*jobs`
                field, spelling = argument.name.lower(), argument.name
            is_typed = not options.isdisjoint(each for each in argument.names if each[:2] == "--")
            if is_typed and not spelling_of.get(field, spelling).startswith("--"):
                spelling = f"--{field.replace('_', '-')}"
                spelling_of[field] = spelling
            spelling_of.setdefault(field, spelling)  # a positional argument comes first
    return spelling_of


def error_message(error: DaybookError, typed: Mapping[str, str]) -> str:
    """Return the error's message, with fields spelled as in ``typed`` (from `option_spellings`)."""
    if not isinstance(error, InvalidInput):
        return str(error)
    fields = error.field.split(" and ")
    field = " and ".join(typed.get(name, name) for name in fields)
    plain_names: Collection[str] = ()
    if error.field == "schedule" or len(fields) > 1:
        from daybook.schedules.fields import ScheduleFields
        from daybook.schedules.schedule import FIELD_NAMES

        if FIELD_NAMES in error.hint:
            plain_names = ScheduleFields.model_fields
    hint = _WORD.sub(
        lambda match: (
            typed.get(match[0], match[0])
            if "_" in match[0] or match[0] in plain_names
            else match[0]
        ),
        error.hint,
    )
    problem = error.problem if error.field == COMMAND_LINE else f"{field}: {error.problem}"
    return problem + (f" ({hint})" if hint else "")


def other_meaning(tokens: Sequence[str]) -> str:
    """Return "; " and the right command for ``tokens`` of another program; "" if they are not."""
    instead = other_words.INSTEAD_OF_JOBS.get(" ".join(tokens[:2]), "")
    return f"; {other_words.sentence(instead)}" if instead else ""


def error_as_json(error: DaybookError, typed: Mapping[str, str]) -> JsonObject:
    """Return `{"error": {"code", "message", "field"?, "mistakes"?}}`.

    ``field`` is as in `daybook.api`. Only `InvalidFiles` has ``mistakes``, at most `MAX_LISTED`.
    """
    body: JsonObject = {"code": error.code, "message": error_message(error, typed)}
    if isinstance(error, InvalidInput):
        body["field"] = error.field
    if isinstance(error, InvalidFiles):
        body["mistakes"] = [asdict(each) for each in error.mistakes[:MAX_LISTED]]
    return {"error": body}


def usage_error(error: CycloptsError) -> InvalidInput:
    """Return the `InvalidInput` for a command line that cannot be parsed."""
    if isinstance(error, UnusedCliTokensError):
        extra = " ".join(error.unused_tokens or [])
        problem = f'unexpected argument "{extra}"'
        if instead := other_words.INSTEAD_OF_ARGUMENTS.get(" ".join(error.command_chain or ())):
            return InvalidInput(COMMAND_LINE, f"{problem}: {other_words.sentence(instead)}")
        return InvalidInput(
            COMMAND_LINE,
            problem,
            _see_help(error) if " " in extra else "quote arguments with spaces",
        )
    if isinstance(error, MissingArgumentError):
        return _missing_value(error)
    if isinstance(error, UnknownOptionError | UnknownCommandError):
        return _unknown_word(error)
    problem = str(error).partition(" Available commands")[0].strip().removesuffix(".")
    return InvalidInput(COMMAND_LINE, problem)


def _unknown_word(error: UnknownOptionError | UnknownCommandError) -> InvalidInput:
    """Return the error about an unknown command or option. Its hint contains the right words."""
    group = list(error.command_chain or ())
    if isinstance(error, UnknownCommandError):
        words = list(error.unused_tokens or [""])
        names = [name for name in error.app or () if not name.startswith("-")]
        word, kind = words[0], "command"
        instead = other_words.instead_of_command(words, group, names)
    else:
        word, kind = (error.token.keyword or error.token.value).partition("=")[0], "option"
        names = [name for each in error.argument_collection for name in each.names]
        instead = other_words.OPTIONS_OF.get(" ".join([*group, word]), "")
        instead = instead or other_words.instead_of_option(word, names)
        if not group:
            instead = other_words.COMMANDS.get(word, instead)
    problem = f'there is no {kind} "{word}"'
    if instead:
        return InvalidInput(COMMAND_LINE, f"{problem}: {other_words.sentence(instead)}")
    if near := nearest_name(word, names):
        problem += f'; did you mean "{near}"?'
    return InvalidInput(COMMAND_LINE, problem, _see_help(error))


def _missing_value(error: MissingArgumentError) -> InvalidInput:
    """Return the error about a required argument or option, or about an option without a value."""
    assert error.argument is not None
    words = {each.partition("=")[0] for each in error.root_input_tokens or ()}
    if given := sorted(words & set(error.argument.names)):
        hint = "write a value that begins with a dash as --option=-value"
        return InvalidInput(COMMAND_LINE, f"{given[0]} has no value", hint)
    return InvalidInput(COMMAND_LINE, f"{error.argument.name} is missing", _see_help(error))


def _see_help(error: CycloptsError) -> str:
    return f"see `{' '.join(['daybook', *(error.command_chain or ())])} --help`"
