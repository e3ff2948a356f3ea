"""Conversion between `InvalidInput` and pydantic's errors, so that users only see `InvalidInput`.

A pydantic validator may raise only ``ValueError`` and pydantic's own errors. So Daybook's models
raise a pydantic error that carries the `InvalidInput`. Code that builds a model from user input
does so inside `raising_invalid_input`, which converts the error back. The models stay ordinary
pydantic models, with which Prefect can validate parameters.
"""

from __future__ import annotations

import difflib
import marshal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from daybook.errors import InvalidInput

STORED = {"stored": True}
"""Context of validation for values from the ledger, which were valid when they were stored.

The time zone of a stored schedule may be missing on this machine. The job is readable, and the
search for its due times raises `InvalidInput`.
"""

M = TypeVar("M", bound=BaseModel)


def parse_stored(model: type[M], stored: Mapping[str, object]) -> M:
    """Return the instance of an immutable model that the ledger stores as JSON.

    Instances are cached, because validation takes long and many jobs share a policy and recipients.
    """
    return cast(M, _parse_stored(model, marshal.dumps(cast(Any, stored), _WITHOUT_REFERENCES)))


_WITHOUT_REFERENCES = 0
"""Version of `marshal` whose bytes do not depend on the identity of the values in it."""


@lru_cache(maxsize=512)
def _parse_stored(model: type[BaseModel], key: bytes) -> BaseModel:
    return model.model_validate(marshal.loads(key), context=STORED)


def as_pydantic(error: InvalidInput) -> PydanticCustomError:
    """Return ``error`` as an error that a pydantic validator may raise."""
    return PydanticCustomError(
        "invalid_input",
        "{message}",
        {"message": str(error), "field": error.field, "problem": error.problem, "hint": error.hint},
    )


class _RaisingPydanticError:
    """The context manager that `raising_pydantic_error` returns; it has no state.

    A list of 2,000 jobs enters it 18,000 times, and a generator takes about twenty times as long.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, InvalidInput):
            raise as_pydantic(error) from error


_RAISING_PYDANTIC_ERROR = _RaisingPydanticError()


def raising_pydantic_error() -> AbstractContextManager[None]:
    """Convert an `InvalidInput` to the pydantic error that carries it; for use in a validator."""
    return _RAISING_PYDANTIC_ERROR


@contextmanager
def raising_invalid_input(known: Iterable[str] = ()) -> Iterator[None]:
    """Convert pydantic's `ValidationError` for user input to an `InvalidInput` for its first error.

    ``known`` has the model's fields, as for `from_pydantic`.
    """
    try:
        yield
    except ValidationError as error:
        raise from_pydantic(error.errors()[0], known) from None


def from_pydantic(details: ErrorDetails, known: Iterable[str] = ()) -> InvalidInput:
    """Return one of pydantic's errors as an `InvalidInput` that names the field.

    ``known`` has the names to suggest for an unknown field. If ``known`` maps names to a model's
    fields, the error for a number out of range states the range.
    """
    context: Mapping[str, object] = details.get("ctx", {})
    if details["type"] == "invalid_input":
        return InvalidInput(str(context["field"]), str(context["problem"]), str(context["hint"]))
    # The innermost name: for an item of a list, the name of the list.
    field = next((each for each in reversed(details["loc"]) if isinstance(each, str)), "job")
    if details["type"] == "extra_forbidden":
        return unknown_field(field, _fields_at(details["loc"][:-1], known))
    if details["type"] == "missing":
        return InvalidInput(field, "is missing")
    if context.keys() & _BOUNDS and isinstance(known, Mapping) and field in known:
        return InvalidInput(field, f"{details['input']!r} is not valid", _range(known[field]))
    if "expected" in context:
        return InvalidInput(
            field, f"{details['input']!r} is not valid", f"use {context['expected']}"
        )
    problem = details["msg"]
    return InvalidInput(field, problem[:1].lower() + problem[1:])


def _fields_at(place: Iterable[int | str], known: Iterable[str]) -> Iterable[str]:
    """Return the fields of the model at ``place``, or ``known`` if no field there has a model."""
    for name in place:
        field = known.get(name) if isinstance(known, Mapping) else None
        known = getattr(getattr(field, "annotation", None), "model_fields", known)
    return known


_BOUNDS = frozenset({"ge", "le"})


def _range(field: FieldInfo) -> str:
    """Return the hint for the range of a number field: `use 0 to 10`, `use 1 or more`."""
    bounds = {
        name: getattr(each, name)
        for each in field.metadata
        for name in _BOUNDS
        if getattr(each, name, None) is not None
    }
    if len(bounds) == 2:
        return f"use {bounds['ge']} to {bounds['le']}"
    return f"use {bounds['ge']} or more" if "ge" in bounds else f"use at most {bounds['le']}"


def unknown_field(field: str, known: Iterable[str]) -> InvalidInput:
    """Return the error for an unknown field; its hint has similar names or, without any, all."""
    names = sorted(known)
    near = difflib.get_close_matches(field, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return InvalidInput(field, "unknown field", hint if names else "")
