"""Options that several commands share, and parsers of their values.

If a parser cannot parse a value, or cannot read a file, it raises `InvalidInput`. A file that is
not UTF-8 or too long counts as a file that it cannot read.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

from cyclopts import Parameter

from daybook import home, json_text, plain_text
from daybook.cli import completion
from daybook.errors import InvalidInput

_JSON_OBJECT_EXAMPLES = {
    "output_schema": """use one such as '{"type": "object"}' or @schema.json""",
    "params": """use one such as '{"full": true}' or @params.json""",
    "check_params": """use one such as '{"folder": "inbox"}' or @params.json""",
}
"""The hint for an invalid JSON object, by option. Other options have no hint."""

Json = Annotated[bool, Parameter(name="--json", help="Print JSON only.")]
Job = Annotated[str, Parameter(help="Job name, id or unique id prefix.", completer=completion.jobs)]
Jobs = Annotated[
    str,
    Parameter(
        name="JOB",
        help="Job name, id or unique id prefix. Several may be given.",
        completer=completion.jobs,
    ),
]
"""Type of the parameter `*jobs` of a command for several jobs."""
Yes = Annotated[bool, Parameter(alias="-y", help="Do not ask for confirmation.")]
Watch = Annotated[
    bool, Parameter(alias="-w", help="Update the output every 2 seconds, until Ctrl-C.")
]
Absolute = Annotated[bool, Parameter(help="Show local times instead of relative ones.")]
Limit = Annotated[int, Parameter(alias="-n", help="Maximum number to show.", show_default=True)]


@contextmanager
def on_interrupt(
    handler: Callable[[int, FrameType | None], object] = signal.default_int_handler,
) -> Iterator[None]:
    """Let ``handler`` handle Ctrl-C while the block waits for the user.

    The default handler raises `KeyboardInterrupt`. In a coroutine, asyncio's own handler would only
    cancel the task, which has no effect before the block ends.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def is_confirmed(question: str, yes: bool) -> bool:
    """Return whether the user confirms ``question``. If ``yes`` is true, the user has confirmed it.

    Raise `InvalidInput` if ``yes`` is false and stdin is not a terminal.
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise InvalidInput(
            "yes", f"is missing: {question}", "add --yes to do it without a terminal"
        )
    print(f"{question}? [y/N] ", end="", file=sys.stderr, flush=True)
    with on_interrupt():
        return sys.stdin.readline().strip().lower() in ("y", "yes")


MAX_LIMIT = 1_000_000


def check_limit(limit: int, field: str = "limit") -> None:
    """Raise `InvalidInput`, which names ``field``, for a limit below 1 or above `MAX_LIMIT`."""
    if limit < 1:
        raise InvalidInput(field, f"{limit} is too small", "use 1 or more")
    if limit > MAX_LIMIT:
        raise InvalidInput(field, f"{limit} is too large", f"use {MAX_LIMIT:,} or less")


def split_command(field: str, text: str) -> list[str]:
    """Return the words of a program and its arguments. Quotes work as in a shell."""
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidInput(
            field, f"{text!r} cannot be parsed: {error}", "close the quotes"
        ) from None


def metadata(text: str, field: str = "metadata") -> dict[str, object]:
    """Return the object of one option for pairs, which is `name=value` or a JSON object."""
    if text.lstrip().startswith("{"):
        return parse_json_object(field, text)
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        hint = "write name=value, or a JSON object"
        raise InvalidInput(field, f'"{text}" has no name or no "="', hint)
    return {name.strip(): value}


def header(text: str) -> tuple[str, str]:
    """Return the name and the value of a header `Name: value`."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        # A text without a name may be a secret, so the error must not contain it.
        raise InvalidInput("headers", "a header has no name or no colon", 'write "Name: value"')
    return name.strip(), value.strip()


def text_or_file(field: str, text: str) -> str:
    """Return the text; for `@` and a path the content of the file, for `@-` standard input.

    `@@` at the beginning stands for one `@`.
    """
    if text.startswith("@@"):
        return text[1:]
    hint = "write @@ for a text that begins with @"
    return read_file(field, text[1:], hint) if text.startswith("@") else text


def prompt_or_file(text: str | None) -> str | None:
    """Return the prompt as `text_or_file` does. `-` also means standard input; None returns None.

    Remove the last line break of a file. Raise `InvalidInput` for an empty file.
    """
    if text == "-":
        text = "@-"
    if text is None or not text.startswith("@"):
        return text
    prompt = text_or_file("prompt", text)
    if not prompt.strip():
        raise InvalidInput("prompt", f"{_file_label(text[1:])} is empty")
    return prompt.removesuffix("\n")


def read_file(field: str, path: str, hint: str = "") -> str:
    """Return the text of a file, or of standard input for `-`.

    Raise `InvalidInput`, with ``hint`` if the file cannot be read.
    """
    from daybook.jobs.action_fields import MAX_BODY_LENGTH  # no field accepts a longer text

    source: int | str = 0 if path == "-" else path
    try:
        with open(source, encoding=plain_text.ENCODING, closefd=path != "-") as file:
            text = file.read(MAX_BODY_LENGTH + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        problem = f"{_file_label(path)} cannot be read: {why}"
        raise InvalidInput(field, problem, "" if path == "-" else hint) from error
    if len(text) > MAX_BODY_LENGTH:
        hint = f"use at most {MAX_BODY_LENGTH:,} characters"
        raise InvalidInput(field, f"{_file_label(path)} is too long", hint)
    return text


def _file_label(path: str) -> str:
    return "standard input" if path == "-" else path


def parse_json_object(field: str, text: str) -> dict[str, object]:
    """Return the JSON object in the text.

    If the text is `@` and a path, return that in the file.
    """
    if text.startswith("@"):
        text = read_file(field, text[1:])
    try:
        value = json_text.read(text)
    except ValueError as error:
        raise InvalidInput(
            field, f"is not valid JSON: {error}", _JSON_OBJECT_EXAMPLES.get(field, "")
        ) from error
    if not isinstance(value, dict):
        raise InvalidInput(field, "is not a JSON object", _JSON_OBJECT_EXAMPLES.get(field, ""))
    return value


def prepare_prefect() -> None:
    """Set Prefect's server and deny inspection of this process, which may then have a credential.

    Call this before importing any part of Prefect.
    """
    from daybook.processes import proc

    proc.deny_inspection()
    home.configure_prefect()
