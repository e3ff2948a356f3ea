"""The models of Prefect's client, whose validators are built before the processes are forked."""

from __future__ import annotations

import importlib
from contextlib import suppress

from pydantic import BaseModel

MODULES = (
    "prefect.client.schemas.actions",
    "prefect.client.schemas.objects",
    "prefect.client.schemas.responses",
    "prefect.events.schemas.events",
)
"""Modules with the models that workers and the processes of runs use."""


def complete() -> None:
    """Build the validators of the models, unless they are built.

    Otherwise each process would build them at the first use, and have its own copy.
    """
    for name in MODULES:
        for model in list(vars(importlib.import_module(name)).values()):
            if isinstance(model, type) and issubclass(model, BaseModel) and model is not BaseModel:
                with suppress(Exception):  # the process gets the same error at the first use
                    model.model_rebuild()  # does nothing if it is complete
