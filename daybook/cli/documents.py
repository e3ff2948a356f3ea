"""Commands for settings documents (list, show and remove), and helpers for other such commands.

`list_command`, `show_command` and `remove_command` return a command. They take the path of its
operation, such as "daybook.api.secrets:show". The operation is imported when the command runs, so
`--help` works without importing a database.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Annotated, Any

from cyclopts import Parameter

from daybook import plain_text
from daybook.cli import completion, output
from daybook.cli.command import Answer, command
from daybook.cli.completion import Completer
from daybook.cli.options import on_interrupt
from daybook.errors import InvalidInput, NotFound, UnknownName

Command = Callable[..., Awaitable[int]]

NewName = Annotated[str, Parameter(help="Name of lowercase letters, digits and dashes.")]


def list_command(operation: str, help_text: str, show: Callable[[Any], None]) -> Command:
    """Return a command that lists all documents. ``show`` prints them for people."""

    async def list_() -> Answer:
        yield (listed := await resolve_name(operation)())
        show(listed)

    list_.__doc__ = help_text
    return command(uses_prefect=True)(list_)


def show_command(
    operation: str,
    noun: str,
    help_text: str,
    show: Callable[[Any], None],
    *,
    name_help: str = "",
    completer: Completer | None = None,
) -> Command:
    """Return a command that shows one document. ``show`` prints it for people.

    Here and in `remove_command`, ``completer`` returns the names that Tab offers. The default is
    the names of the documents with this ``noun``.
    """

    async def show_(name: str, /) -> Answer:
        with unknown_as_not_found(noun):
            details = await resolve_name(operation)(name)
        yield details
        show(details)

    show_.__annotations__["name"] = _name(noun, completer, name_help)
    show_.__doc__ = help_text
    return command(uses_prefect=True)(show_)


def remove_command(
    operation: str, noun: str, help_text: str, completer: Completer | None = None
) -> Command:
    """Return a command that removes one document."""

    async def remove_(name: str, /) -> Answer:
        await resolve_name(operation)(name)
        yield {"removed": name}
        output.line(f"Removed the {noun} {name}")

    remove_.__annotations__["name"] = _name(noun, completer)
    remove_.__doc__ = help_text
    return command(uses_prefect=True)(remove_)


def _name(noun: str, completer: Completer | None, help_text: str = "") -> Any:
    """Return the annotation of a document's name."""
    help_text = help_text or f"The {noun.rpartition(' ')[2]}'s name."
    return Annotated[
        str, Parameter(help=help_text, completer=completer or completion.documents(noun))
    ]


@contextmanager
def unknown_as_not_found(noun: str) -> Iterator[None]:
    """Raise `NotFound` in place of `UnknownName` for the document that the command names.

    An unknown secret stays `UnknownName`, because the command does not name it.
    """
    try:
        yield
    except UnknownName as error:
        if error.field == "secret":
            raise
        raise NotFound(noun, error.name, known=error.known) from error


def read_hidden_value(field: str, label: str, file: str) -> str:
    """Return a value from standard input or a prompt, without its last line break.

    ``file`` is the name of the example file in the error. Raise `InvalidInput` if the value is
    blank or not UTF-8.
    """
    problem, fix = "standard input is empty", f"redirect a file: < {file}"
    if sys.stdin.isatty():
        from getpass import getpass

        with on_interrupt():
            value = getpass(f"{label}: ")
        problem, fix = "nothing was typed", f"type it at the prompt, or {fix}"
    else:
        try:
            value = plain_text.read_input()
        except UnicodeDecodeError:
            raise InvalidInput(field, "is not UTF-8 text") from None
    if not value.strip():
        raise InvalidInput(field, problem, fix)
    return value.removesuffix("\n").removesuffix("\r")
