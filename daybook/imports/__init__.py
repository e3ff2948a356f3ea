"""Imports: readers of other schedulers' files, and the one writer of what they found.

Each reader (`anna`, `omniagent`, `hotplex`, `picobot`) turns a file into a `source.Source`; it
writes nothing and knows no ledger. `writer.write` stores a source in one transaction.

To add a system: a module here with `read(path)`, its name in `source.System` and in `READERS`, and
its table in `docs/guides/imports.md`.
"""

from collections.abc import Callable
from pathlib import Path

from daybook.imports import anna, hotplex, omniagent, picobot
from daybook.imports.source import Source, System

READERS: dict[System, Callable[[Path], Source]] = {
    "anna": anna.read,
    "omniagent": omniagent.read,
    "hotplex": hotplex.read,
    "picobot": picobot.read,
}
"""The function that reads a system's file. It raises `InvalidInput` naming what is wrong."""
