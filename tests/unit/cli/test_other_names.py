"""Names from other programs: aliases, and suggestions for commands that have another name here."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from cyclopts import App

from daybook import __version__
from daybook.cli import other_words
from daybook.cli.main import app
from tests import rows

pytestmark = pytest.mark.usefixtures("stored")


@pytest.mark.parametrize(
    ("alias", "command"),
    [
        ("ls --json", "list --json"),
        ("rm nothing", "remove nothing"),
        ("session ls --json", "session list --json"),
        ("help", "--help"),
        ("help agents add", "agents add --help"),
    ],
)
def test_an_alias_is_the_same_command(
    daybook: Callable[..., Any], alias: str, command: str
) -> None:
    assert daybook(*alias.split()) == daybook(*command.split())


def test_the_version_has_a_short_option(daybook: Callable[..., Any]) -> None:
    assert daybook("-V").out == f"{__version__}\n"


def test_a_command_of_another_program_has_an_answer(daybook: Callable[..., Any]) -> None:
    for (words, instead), trying in rows.each(other_words.COMMANDS.items()):
        with trying:
            result = daybook(*words.split(), "brief")
            assert (result.code, result.out) == (2, "")
            answer = other_words.sentence(instead)
            assert result.err == f'daybook: there is no command "{words.split()[0]}": {answer}\n'


def _options(command: App) -> set[str]:
    return {name for each in command.assemble_argument_collection() for name in each.names}


def test_each_answer_names_commands_and_options_that_exist() -> None:
    common = ("add", "edit", "list", "pause", "remove", "runs", "up")
    all_options = set[str]().union(*(_options(app[name]) for name in common))
    tables = (other_words.COMMANDS, other_words.INSTEAD_OF_ARGUMENTS, other_words.OPTIONS)
    table = [row for each in tables for row in each.items()]
    for (_, instead), trying in rows.each(table):
        with trying:
            for typed in re.findall("`([^`]+)`", instead):
                program, *words = typed.replace(" --help --all", "").replace(" --help", "").split()
                if program.startswith("-"):
                    assert program in all_options
                elif program == "daybook" and words != ["--version"]:
                    chain, apps, _ = app.parse_commands(words)
                    assert chain
                    options = {each for each in words if each.startswith("-") and each != "-"}
                    assert options <= _options(apps[-1])


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("list --job weekly", 'there is no option "--job": use `--name`'),
        ("list weekly", '"weekly": `daybook show JOB`, or `daybook list --name TEXT`'),
        ("status weekly", 'unexpected argument "weekly": use `daybook show JOB`'),
        ("agents delete x", 'there is no command "delete": use `daybook agents remove`'),
        ("list -a", "`daybook list` and `daybook runs` show paused and failed ones too"),
        ("list -o json", 'there is no option "-o": use `--json`'),
        ("list --output=json", 'there is no option "--output": use `--json`'),
        ("runs --failed", "use `--failing`"),
        ("remove weekly -f", 'there is no option "-f": use `--yes`'),
        ("list -q", 'there is no option "-q": `--json` prints nothing else'),
        ("agents remove -q x", 'there is no option "-q": `--json` prints nothing else'),
        ("agents remove -y x", 'there is no option "-y": leave it out, because this command does'),
        ("tools remove x --force", 'there is no option "--force": leave it out, because this'),
        ("runs --last 5", 'there is no option "--last": use `--limit`'),
        ("logs --last 5 weekly", 'there is no option "--last": use `daybook runs JOB`'),
        ("ask -m gpt hi", 'there is no option "-m": use `--model`'),
        ("agents add x -m gpt", 'there is no option "-m": use `--model`'),
        ("run weekly -m hi", 'there is no option "-m": use `--prompt`'),
        ("mcp add x -- npx x", "`daybook tools add NAME` adds an MCP server for agents"),
        ("mcp list", "`daybook tools list` lists all"),
        ("worker start", 'unexpected argument "start": use `daybook worker`'),
        ("server start", 'there is no command "server": use `daybook up`'),
        ("deployment ls", 'there is no command "deployment": use `daybook list`'),
        ("flow-run ls", 'there is no command "flow-run": use `daybook runs`'),
        ("pause -a", 'there is no option "-a": use `--all`'),
        ("add --message x", "the prompt is the text after the schedule"),
        ("add x --dry-run", "`daybook next` shows due times"),
        ("lisst", 'there is no command "lisst"; did you mean "list"? (see `daybook --help`)'),
        ("list --taag x", 'did you mean "--tag"? (see `daybook list --help`)'),
    ],
)
def test_an_unknown_word_has_the_answer_of_its_command(
    daybook: Callable[..., Any], typed: str, answer: str
) -> None:
    result = daybook(*typed.split())
    assert (result.code, result.out) == (2, "")
    assert answer in result.err


def test_a_word_that_is_not_near_any_command_has_no_suggestion(daybook: Callable[..., Any]) -> None:
    for typed in ("frobnicate", "stoop", "agents frobnicate", "list --frobnicate"):
        result = daybook(*typed.split())
        assert result.code == 2
        assert "did you mean" not in result.err


def test_the_number_to_show_and_the_confirmation_have_short_options(
    daybook: Callable[..., Any],
) -> None:
    for command in ("runs", "list", "next"):
        assert len(daybook(command, "-n", "1", "--json").json) == 1
    assert daybook("remove", "nothing", "-y") == daybook("remove", "nothing", "--yes")
