"""The allow-list of an agent's tools: entries as the operator writes them. Imports nothing.

==================================  ==========================================
``search``                          all tools of the saved server ``search``
``search.find``, ``search.get_*``   one of its tools, or those that match
``reindex``                         the Python tool of that name
``daybook``, ``daybook.cron_list``  Daybook's own tools, or one of them
==================================  ==========================================
"""

from __future__ import annotations

OWN_TOOLS = "daybook"
"""Names Daybook's own tools, even if something else has that name."""

MAX_ENTRIES = 50
MAX_ENTRY_LENGTH = 200


def check(entries: list[str]) -> list[str]:
    """Return ``entries``; raises ValueError for an entry that cannot name a tool."""
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"are too many; legal are {MAX_ENTRIES} entries")
    for entry in entries:
        if not entry or len(entry) > MAX_ENTRY_LENGTH or not entry.isprintable() or " " in entry:
            raise ValueError("has an entry that names no tool; write server, or server.tool")
        if "://" in entry:
            raise ValueError(
                f'"{entry}" is an address; save the server with `daybook tools add`, and name it'
            )
    return entries


def check_servers(entries: list[str]) -> list[str]:
    """Return ``entries``, for an agent that can use only whole servers; raises ValueError."""
    for entry in check(entries):
        if "." in entry or "*" in entry:
            raise ValueError(
                f'"{entry}" names a part of a server; a program is given the whole of it: '
                f"{entry.partition('.')[0].rstrip('*')}"
            )
    return entries
