"""Words of other programs that are not commands or options of Daybook, and their replacements.

For an unknown word, the error message first uses these tables, and only then searches for a command
or an option with a similar spelling. A text in a table is a command line in backticks, or a
sentence that may contain such a command line.
"""

from __future__ import annotations

from collections.abc import Sequence

_SETTINGS = (
    "settings are DAYBOOK_… variables, or lines of config.toml in the home; "
    "`daybook doctor` checks them"
)

COMMANDS = {
    # --- the scheduler
    "start": "`daybook up` starts the scheduler, `daybook run JOB` a run",
    "stop": "`daybook cancel JOB` ends a run, `daybook pause JOB` a job, `daybook down` everything",
    "restart": "`daybook down`, then `daybook up`",
    "init": "`daybook up` creates all that is missing",
    "upgrade": "install the new version, then `daybook down` and `daybook up`",
    "version": "`daybook --version`",
    "info": "`daybook status`",
    "cost": "`daybook spend` shows the cost by job, agent or day, `daybook runs` of each run",
    "usage": "`daybook spend` shows the cost by job, agent or day, `daybook runs` of each run",
    "config": _SETTINGS,
    "settings": _SETTINGS,
    "login": "`daybook open`; for the account of an agent `daybook agents add --help`",
    "auth": "`daybook open`; for the account of an agent `daybook agents add --help`",
    "ui": "`daybook open`",
    "dashboard": "`daybook open`",
    "deploy": "`daybook sync`; for flows of a repository `prefect deploy`",
    # --- Prefect
    "server": "`daybook up`",
    "server stop": "`daybook down`",
    "deployment": "`daybook list`",
    "deployment run": "`daybook run JOB`",
    "flow-run": "`daybook runs`",
    "work-pool": "`daybook status`",
    # --- jobs
    "create": "`daybook add SCHEDULE PROMPT`",
    "schedule": "`daybook add SCHEDULE PROMPT`",
    "copy": "`daybook show JOB --json` has all fields for `daybook add`",
    "jobs": "`daybook list`",
    "job": "`daybook list`",
    "job list": "`daybook list`",
    "job add": "`daybook add SCHEDULE PROMPT`",
    "cron": "`daybook add SCHEDULE PROMPT`, `daybook list`, `daybook status`",
    "cron add": "`daybook add SCHEDULE PROMPT`",
    "cron list": "`daybook list`",
    "cron status": "`daybook status`",
    "crontab": "`daybook list`; `daybook import crontab -` reads a crontab",
    "-l": "`daybook list`",
    "-e": "`daybook edit JOB`",
    "list-timers": "`daybook next`",
    "get": "`daybook show JOB`",
    "get jobs": "`daybook list`",
    "describe": "`daybook show JOB`",
    "inspect": "`daybook show JOB`",
    "view": "`daybook show JOB`",
    "update": "`daybook edit JOB`",
    "set": "`daybook edit JOB`",
    "rename": "`daybook edit JOB --name NAME`",
    "disable": "`daybook pause JOB`",
    "enable": "`daybook resume JOB`",
    "unpause": "`daybook resume JOB`",
    "delete": "`daybook remove JOB`",
    # --- runs
    "trigger": "`daybook run JOB`",
    "rerun": "`daybook retry RUN`",
    "watch": "`daybook logs -f JOB` follows a run; to watch a page see `daybook add --help --all`",
    "tail": "`daybook logs -f JOB`",
    "output": "`daybook runs JOB`",
    "history": "`daybook runs JOB`",
    "ps": "`daybook list`, or `daybook runs --status running`",
    "kill": "`daybook cancel JOB`",
    # --- agents, secrets
    "agent": "`daybook agents list`",
    "agent list": "`daybook agents list`",
    "models": "`daybook agents list`",
    "secret": "`daybook secrets list`",
    "secret set": "`daybook secrets add NAME`",
}
"""Replacements for commands of one or two words."""

INSTEAD_OF_ARGUMENTS = {
    "list": "`daybook show JOB`, or `daybook list --name TEXT`",
    "status": "`daybook show JOB`",
    "mcp": "`daybook tools add NAME` adds an MCP server for agents, `daybook tools list` lists all",
    "worker": "use `daybook worker`, or for one that runs `daybook workers drain NAME`",
}
"""Replacements for commands without arguments, if the user adds a job or another word."""

INSTEAD_OF_JOBS = {"run list": "`daybook runs`"}
"""Replacements for commands whose second word Daybook would read as the name of a job."""

IN_GROUPS = {
    "create": "add",
    "new": "add",
    "set": "add",
    "delete": "remove",
    "get": "show",
    "describe": "show",
    "inspect": "show",
    "view": "show",
}
"""The command of a group for a word of another program, such as `create` in `agents create`.

A group need not have the command.
"""

OPTIONS = {
    "-a": "`--all`",
    "-d": "`--detach`",
    "-f": "`--yes`",
    "--force": "`--yes`",
    "-y": "`--yes`",
    "--yes": "leave it out, because this command does not ask",
    "-L": "`--limit`",
    "-q": "`--json` prints nothing else",
    "--quiet": "`--json` prints nothing else",
    "-o": "`--json`",
    "--output": "`--json`",
    "--format": "`--json`",
    "-m": "the prompt is the text after the schedule",
    "--message": "the prompt is the text after the schedule",
    "--deliver": "`--channel`",
    "--command": "an agent runs a command: `daybook agents add --help`",
    "--repeat": "`--max-runs`",
    "--dry-run": "`daybook next` shows due times, `daybook run JOB --dry-run` what a run would do",
    "--id": "write the name or id without an option",
    "--job": "write the name or id without an option",
    "--failed": "`--failing`",
    "--search": "`--name`",
    "--all": "`daybook list` and `daybook runs` show paused and failed ones too",
    "--tail": "`daybook logs JOB` prints the whole log",
    "--last": "`--limit`",
    "-n": "`--limit`",
    "--limit": "`daybook runs JOB`",
    "--fix": "each finding names its fix",
}
"""Replacements for options of any command."""

OPTIONS_OF = {
    "list --job": "`--name`",
    "agents add -m": "`--model`",
    "ask -m": "`--model`",
    "run -m": "`--prompt`",
}
"""Replacements for options of one command."""


def instead_of_command(words: Sequence[str], group: Sequence[str], names: Sequence[str]) -> str:
    """Return the replacement for the unknown command at the start of ``words``, or "".

    ``group`` has the words before ``words``, and ``names`` are the commands of this group.
    """
    if group:
        known = COMMANDS.get(" ".join([*group, words[0]]), "")
        other = IN_GROUPS.get(words[0], "")
        return known or (f"`daybook {' '.join([*group, other])}`" if other in names else "")
    return COMMANDS.get(" ".join(words[:2])) or COMMANDS.get(words[0], "")


def instead_of_option(option: str, names: Sequence[str]) -> str:
    """Return the replacement for an unknown option; "" if there is none.

    ``names`` are the options of the command. An option is proposed only if it is in ``names``.
    """
    text = OPTIONS.get(option, "")
    proposed = text.removeprefix("`").partition("`")[0]
    if proposed.startswith("-") and proposed not in names:
        return OPTIONS.get(proposed, "")
    return text


def sentence(instead: str) -> str:
    """Return a text of these tables as the end of a sentence."""
    is_one_command = instead.count("`") == 2 and instead.startswith("`") and instead.endswith("`")
    return f"use {instead}" if is_one_command else instead
