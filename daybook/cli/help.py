"""Short help pages: the commands and options that most people need.

`--help --all` shows the whole page, as the reference documentation does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclopts.help import DefaultFormatter

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

COMMON_OPTIONS = frozenset(
    {
        "--schedule",
        "--on-demand",
        "--tz",
        "--name",
        "--agent",
        "--webhook",
        "--tool",
        "--timeout",
        "--retries",
        "--channel",
        "--json",
        "--help",
    }
)
"""The options in the short help of `daybook add` and `daybook edit`."""


class OptionsInShort(DefaultFormatter):
    """Shows the arguments, and those options that are in `COMMON_OPTIONS`."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        shown = [
            entry
            for entry in panel.entries
            if entry.positional_label or not COMMON_OPTIONS.isdisjoint(entry.names)
        ]
        if shown:
            super().__call__(console, options, panel.copy(entries=shown))


class CommandsInShort(DefaultFormatter):
    """Shows the commands of the first panel with their help.

    Other commands have only their name.
    """

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        if panel.format == "parameter" or panel.title == "Commands":
            super().__call__(console, options, panel)
            return
        from rich.padding import Padding

        names = ", ".join(name for entry in panel.entries for name in entry.names[:1])
        console.print(Padding(f"{panel.title}: {names}", (0, 0, 0, 2)), highlight=False)
