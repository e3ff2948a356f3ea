"""Table of the presets of command agents: programs whose output Daybook reads as steps.

To add a preset, write a reader of the program's output lines (`step_lines`), add a row to
`PRESETS`, and add the preset's name to `OutputFormat`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from daybook.agents.base import AgentRequest, is_folder_entry
from daybook.agents.step_lines import ClaudeCodeLines, CodexLines, StepLines
from daybook.errors import InvalidInput
from daybook.processes.environment import DEFAULT_NAMES

OutputFormat = Literal["text", "json", "claude-code", "codex"]
"""Format of a program's output. The output format of a preset has the name of the preset."""


@dataclass(frozen=True)
class Preset:
    """A program that prints its steps.

    ``lines`` creates the reader of the program's output. If the agent has tool servers,
    ``tool_arguments`` are added to the command. ``environment`` has the names of the variables from
    which the program reads its key. ``resume`` are further arguments that continue a conversation;
    {} is the program's own id of it. ``partial_option`` is the option with which the program prints
    its answer while it writes it (`partial_text`); "" for none. ``sandbox`` has the settings
    with which the program works in a sandbox: its installation, its login and its hosts.
    """

    command: tuple[str, ...]
    lines: Callable[[AgentRequest], StepLines]
    tool_arguments: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    partial_option: str = ""
    sandbox: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


PRESETS = {
    "claude-code": Preset(
        command=("claude", "-p", "--output-format", "stream-json", "--verbose"),
        lines=ClaudeCodeLines,
        partial_option="--include-partial-messages",
        tool_arguments=("--mcp-config={mcp_config}",),
        environment=("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR"),
        # The fork gets a new id, and the conversation itself ends with the last answer: a run that
        # fails afterwards must not add to it.
        resume=("--resume", "{}", "--fork-session"),
        sandbox={
            "sandbox_readable": ("~/.local/bin", "~/.local/share/claude", "~/.npm-global"),
            "sandbox_writable": ("~/.claude",),
            "sandbox_hosts": ("api.anthropic.com", "console.anthropic.com", "claude.ai"),
        },
    ),
    "codex": Preset(
        command=("codex", "exec", "--json", "--skip-git-repo-check"),
        lines=CodexLines,
        environment=("CODEX_API_KEY",),
        # After all options, because most options are not options of the subcommand. "-" makes the
        # subcommand read the prompt from standard input.
        resume=("resume", "{}", "-"),
        sandbox={
            "sandbox_readable": ("~/.local/bin", "~/.npm-global"),
            "sandbox_writable": ("~/.codex",),
            "sandbox_hosts": ("api.openai.com", "auth.openai.com", "chatgpt.com"),
        },
    ),
}
"""All presets, by their names."""


def apply(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a command agent: those of the preset, changed by ``fields``.

    The ``command`` in ``fields`` is a list of arguments to append to the preset's command. Raise
    `InvalidInput` for an unknown ``name`` of a preset.
    """
    preset = PRESETS.get(name)
    if preset is None:
        raise InvalidInput("preset", f'unknown "{name}"', f"use one of: {', '.join(PRESETS)}")
    tools = fields.get("tools", ())  # not validated yet
    is_list = isinstance(tools, list | tuple)
    only_folders = is_list and all(
        isinstance(each, str) and is_folder_entry(each) for each in tools
    )
    more = preset.tool_arguments if tools and not only_folders else ()
    names = [*fields.get("environment", DEFAULT_NAMES), *preset.environment]
    return {
        "output": name,
        **{field: [*given] for field, given in preset.sandbox.items()},
        **fields,
        "command": [*preset.command, *more, *fields.get("command", ())],
        "environment": list(dict.fromkeys(names)),
    }
