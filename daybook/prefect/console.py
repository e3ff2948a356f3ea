"""Suppression of Prefect's log lines in the terminal, while a flow runs inside a command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_console_logs() -> Iterator[None]:
    """Keep Prefect's loggers from writing to the terminal; Prefect still stores their lines."""
    from prefect.logging.handlers import PrefectConsoleHandler

    removed = [
        (logger, handler)
        for logger in map(logging.getLogger, ["", *logging.root.manager.loggerDict])
        for handler in logger.handlers
        if isinstance(handler, PrefectConsoleHandler)
    ]
    for logger, handler in removed:
        logger.removeHandler(handler)
    try:
        yield
    finally:
        for logger, handler in removed:
            logger.addHandler(handler)
