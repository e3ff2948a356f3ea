"""Folders for agents that are programs. Features add them (`Feature.program_folders`).

An entry in the setting `tools` of such an agent names one of their words, or single folders, such
as `word.name` or `word.pattern-*`. All other entries name tool servers (`mcp_config`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence

from daybook.agents.base import ProgramFolder, is_folder_entry
from daybook.agents.pictures import Picture
from daybook.agents.program_folders import PLACES
from daybook.errors import InvalidInput
from daybook.execution.builtin_tools import FIND_SECONDS
from daybook.feature import features
from daybook.tools.server_blocks import ToolServers

PICTURES = "daybook-pictures"
"""Beginning of the name of the folder with the pictures of a prompt."""


async def check(entries: Iterable[str], servers: ToolServers) -> None:
    """Raise `InvalidInput` for an entry that names both folders and a saved server.

    Raise also the errors of Prefect's client.
    """
    named = [each for each in entries if is_folder_entry(each)]
    saved = await servers.names() if named else ()
    for entry in named:
        name = entry.partition(".")[0]
        if name in saved:
            problem = f'"{entry}" is ambiguous: it is a word of Daybook and of the saved server'
            raise InvalidInput("tools", problem, "save the server under another name")


async def find(entries: Iterable[str]) -> tuple[ProgramFolder, ...]:
    """Return the folders that ``entries`` name, sorted by name.

    Raise `UnknownName` if an entry names no folder, and `InvalidInput` if they cannot be read.
    """
    found: dict[str, ProgramFolder] = {}
    for entry in filter(is_folder_entry, entries):
        word, _, pattern = entry.partition(".")
        found |= {each.name: each for each in await _load(word, pattern or "*")}
    return tuple(each for _, each in sorted(found.items()))


def of_pictures(run_id: str, pictures: Sequence[Picture]) -> ProgramFolder:
    """Return the folder in which a program finds the pictures of its prompt."""
    contents = [each.content for each in pictures]
    names = [f"{number}.{each.suffix}" for number, each in enumerate(pictures, 1)]
    digest = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in contents))
    files = dict(zip(names, contents, strict=True))
    return ProgramFolder(f"{PICTURES}-{run_id[:12]}", digest.hexdigest(), files)


def describe(folder: ProgramFolder) -> str:
    """Return a text for the program with the paths of the folder's files."""
    paths = ", ".join("/".join([*PLACES[0], folder.name, each]) for each in folder.files)
    return f"The pictures are files in the working directory: {paths}"


async def _load(word: str, pattern: str) -> Sequence[ProgramFolder]:
    feature = next(each for each in features() if word in dict(each.program_folders))
    try:
        load = feature.load(dict(feature.program_folders)[word])
        async with asyncio.timeout(FIND_SECONDS):
            folders: Sequence[ProgramFolder] = await load(pattern)
    except TimeoutError:
        problem = f'"{word}" did not give its folders within {FIND_SECONDS:g} s'
        raise InvalidInput("tools", problem, "check the ledger, which it reads") from None
    except Exception as error:
        if feature.is_own:
            raise
        problem = f'"{word}" cannot be used ({type(error).__name__}: {error})'
        raise InvalidInput("tools", problem, "leave it out") from None
    return folders
