"""Regular expressions: each takes time that is linear in the length of its text.

Most of them read text from outside (a header, an answer of a model, a prompt), some in a server
with one thread. `CASES` has, for each pattern of the product, the method that uses it and texts
that make a careless pattern slow. A pattern without a case fails.
"""

from __future__ import annotations

import ast
import gc
import importlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from daybook import redaction
from daybook.errors import InvalidInput
from daybook.execution import checks, markdown
from daybook.http import request, secrets

ROOT = Path(__file__).parents[2]
PACKAGES = ("daybook", "flows", "blocks", "deployments")
USES_OF_REGEX = (
    "daybook/short_text.py",  # only `\\X`, one grapheme cluster
    "daybook/features/work_tools/patterns.py",  # a model's expression, with a time limit
)

SIZES = (2_000, 8_000, 32_000, 128_000)
"""Characters. Each is four times the one before."""
STEEPEST = 9.0
"""Four times the text may take so many times as long: 4 is linear, 16 is quadratic."""
NOTHING = 0.005
"""Seconds of CPU below which a measurement says nothing, and needs to say nothing."""


@dataclass(frozen=True)
class Text:
    """Hostile text of any length: ``pump`` repeated between ``head`` and ``tail``."""

    pump: str
    head: str = ""
    tail: str = ""

    def of(self, size: int) -> str:
        return self.head + self.pump * (size // len(self.pump)) + self.tail


def _texts(*given: str | Text) -> tuple[Text, ...]:
    return tuple(Text(each) if isinstance(each, str) else each for each in given)


@dataclass(frozen=True)
class Case:
    """The method that uses a pattern, and texts that could make it slow.

    ``sample`` is an example of a pattern that the code creates at run time.
    """

    method: str
    texts: tuple[Text, ...]
    sample: str = ""


def case(method: str, *texts: str | Text, sample: str = "") -> Case:
    return Case(method, _texts(*texts), sample)


CASES: dict[str, Case] = {
    "daybook/http/bodies.py:_CHARSETS": case("match", "u", "utf-", "gb", "iso2022_"),
    "daybook/ledger/references.py:_APPROVAL": case(
        "fullmatch", "a", Text("a", "", "."), Text("1", "abcd.", ".")
    ),
    "daybook/ledger/references.py:_SHORT_ID": case("fullmatch", "a", Text("1", "", "g")),
    "daybook/ledger/references.py:_WHOLE_ID": case("fullmatch", "a", Text("1", "", "g")),
    "daybook/names.py:_ID_FORM": case(
        "fullmatch", "a", Text("a", "", "."), Text("1", "abcd.", ".")
    ),
    "daybook/files/documents.py:_OCTAL": case("match", "0", Text("7", "0o"), Text("7", "0o", "8")),
    "daybook/prefect/summary.py:_MARKUP": case("sub", "a", "[", "\\", "*`"),
    # --- jobs, schedules, tasks
    "daybook/jobs/action_fields.py:_NO_TEXT": case("search", "a", "\ue000"),
    "daybook/schedules/bounds.py:_DAY": case("fullmatch", "1", "2026-01-01"),
    "daybook/schedules/bounds.py:_HOURS": case(
        "fullmatch", Text(" ", "09:00", "x"), Text(" ", "09:00-")
    ),
    "daybook/schedules/cron.py:_ITEM": case(
        "fullmatch", "a", "a-a", Text("1", "", "/"), Text("1", "1-")
    ),
    "daybook/schedules/cron.py:_NTH": case(
        "fullmatch", "a", Text("1", "", "#"), Text("1", "1#", "!")
    ),
    "daybook/schedules/cron.py:re.match('[hr](\\\\(|/|$)')": case("match", "h", "r", "h("),
    "daybook/schedules/cron.py:re.fullmatch('l\\\\d')": case("fullmatch", "l", Text("1", "l")),
    "daybook/schedules/durations.py:_FRACTION": case(
        "fullmatch", "1", Text(" ", "1", "x"), Text("1", ".", "!"), Text("a", ".1", "!")
    ),
    "daybook/schedules/durations.py:_SHAPE": case(
        "fullmatch", "1", "1d", Text("1", "1d1h1m"), "d", "day", Text("1", "1day1hour1minute")
    ),
    "daybook/schedules/phrases.py:_TIME": case("fullmatch", "1", "noon", Text("a.", "1:11")),
    "daybook/schedules/phrases.py:_CLOCK": case("fullmatch", "1", Text(" ", "1:11", "x")),
    "daybook/schedules/days.py:_ORDINAL": case("fullmatch", "1", "1st"),
    "daybook/schedules/days.py:_RANGE": case(
        "match", "1", "from 1st to ", Text("1", "from "), Text("st", "from 1st to 1")
    ),
    "daybook/schedules/phrases.py:"
    "re.fullmatch('(?:on )?(?:[a-z]+ )?\\\\d{1,2} [a-z]+ \\\\d{4}')": case(
        "fullmatch", "a", "on ", "a 1 ", Text("a", "on a 1 "), Text("1", "on a 1 a ")
    ),
    "daybook/schedules/phrases.py:re.fullmatch(f'every {pattern}(?: (?P<days>.+))?')": case(
        "fullmatch",
        "every ",
        Text(", :15", "every hour at :00"),
        Text(", and :15", "every hour at :00", "x"),
        Text(" ", "every hour at :00", "\n"),
        sample=r"every hour at (:\d\d(?:(?:,|,? and) :\d\d)*)(?: (?P<days>.+))?",
    ),
    "daybook/schedules/schedule.py:_ONE_TIME": case(
        "match", "1", "in ", "at ", "2026-01-01 ", Text("1", "at "), Text(" ", "at 1")
    ),
    "daybook/http/request.py:_SECONDS": case("fullmatch", "1", Text("1", "1."), "1."),
    "daybook/features/imports/crontab.py:_RANDOM": case("sub", "1", "~", "1~", "1~1", "-1~"),
    "daybook/features/imports/on_calendar.py:re.sub('\\\\b0')": case("sub", "0", "0 ", "a0"),
    "daybook/features/imports/shell.py:_INTERPRETERS": case(
        "fullmatch", "1", "sh", Text("1.", "python")
    ),
    "daybook/features/imports/shell.py:_SCRIPT": case(
        "fullmatch", "a", "/", "a/", "$", Text("a/", "", " ")
    ),
    "daybook/features/imports/shell.py:_SECRET_OPTION": case(
        "finditer", "a", Text("a-", "--"), Text("a", "--"), "--token ", Text(" ", "--token", "-")
    ),
    "daybook/features/imports/shell.py:_SECRET_VARIABLE": case(
        "finditer", "a", "KEY", Text("_", "", "KEY=")
    ),
    "daybook/features/imports/shell.py:_SECRET_IN_URL": case(
        "finditer", "a", "a://", "a://a:", Text("a", "a://"), Text(":", "a://"), Text("a", "a://:")
    ),
    "daybook/features/imports/shell.py:_SECRET_HEADER": case(
        "finditer", "a", "token", "token:", Text(" ", "token:"), Text(" ", "token: Bearer")
    ),
    "daybook/features/imports/shell.py:_CURL_SECRET": case(
        "finditer", "curl ", Text(" ", "curl"), Text("a", "curl -u"), "curl -u ", "-u "
    ),
    "daybook/features/imports/shell.py:_MYSQL_SECRET": case(
        "finditer", "mysql ", Text(" ", "mysql"), Text("a", "mysql"), "mysql -p "
    ),
    "daybook/features/imports/shell.py:_SSHPASS_SECRET": case(
        "finditer", "sshpass ", Text(" ", "sshpass")
    ),
    "daybook/features/imports/shell.py:_SCRIPT_SUFFIX": case(
        "fullmatch", "s", ".s", Text("s", ".", "h")
    ),
    "daybook/operations/prefect_login.py:_DOCUMENTATION": case(
        "fullmatch", "/", "/api", Text("/", "/api/docs"), Text("a", "/docs/", "\n")
    ),
    "daybook/operations/service.py:"
    "re.search('connect to (system scope |user scope )?bus|not been booted')": case(
        "search", "connect to ", "connect to user scope ", "not been "
    ),
    "daybook/schedules/durations.py:_WITH_FRACTION": case(
        "fullmatch", "1", "1.", Text(" ", "1.5", "x"), Text("1", "1."), Text("hour", "1.5")
    ),
    "daybook/zone_names.py:_OFFSET": case("fullmatch", "1", "+1", Text("0", "gmt+")),
    "daybook/zone_names.py:_WITHOUT_MACHINE": case("sub", "p", "posix/"),
    "daybook/home.py:_NOT_IN_A_HOME": case("search", "a", "/"),
    "daybook/schedules/phrases.py:_DATE": case("fullmatch", "1", "2026-01-01"),
    "daybook/schedules/phrases.py:_LIKE_A_PHRASE": case(
        "match", "1", "11:", Text("1", "2026-01-01 "), Text(":", "2026-01-01 at ", "x")
    ),
    "daybook/schedules/phrases.py:_HOURS": case(
        "fullmatch", "1", "every 1 ", "every 15 min ", Text("every 15 min between ", "1", " and 1 ")
    ),
    "daybook/schedules/phrases.py:_COUNTED": case(
        "fullmatch", "1", "s", "1s", Text("s", "1 minute", " ")
    ),
    "daybook/cli/field_options.py:_VARIABLE_NAME": case("fullmatch", "A", "A_", Text("_", "A_A")),
    "daybook/schedules/schedule.py:_INTERVAL": case(
        "match", "1", "at", "1at", " at", Text("at", "1"), Text(" a", "1 ")
    ),
    "daybook/jobs/notify.py:re.match('https?://')": case("match", "http", "https:/"),
    "daybook/jobs/payloads.py:_VARIABLE": case(
        "search",
        "{",
        "{{",
        "{{ ",
        "{{payload",
        "{{payload.a",
        Text(" ", "{{"),
        Text(" ", "{{payload"),
        Text(".a", "{{payload", "!"),
        Text("a", "{{payload."),
    ),
    "daybook/jobs/prompts.py:_NAMED": case(
        "finditer",
        "{",
        "{{",
        "{{a",
        "{{ ",
        Text(" ", "{{"),
        Text("a", "{{"),
        Text(" ", "{{a"),
        "}}",
        "{{output:",
        Text(" ", "{{output:"),
        Text("a ", "{{output:"),
    ),
    "daybook/execution/watches.py:_MARKUP": case(
        "search",
        "<",
        Text("a", "<"),
        Text("a ", "<a"),
        Text("/", "<a"),
        Text(" ", "<a"),
        Text("!", "<!"),
        "<a ",
        "<!-",
    ),
    "daybook/execution/watches.py:_HIDDEN_END": case("finditer", "<", "</", "</s", "</script"),
    "daybook/prefect/summary.py:re.findall('`+')": case("findall", "`", "`a"),
    "daybook/jobs/secret_references.py:SECRET": case(
        "findall",
        "{{secret:",
        "{{secret:a",
        "{{ secret: a-",
        Text(" ", "{{"),
        Text(" ", "{{secret:"),
        Text("a", "{{secret:"),
        Text("a-", "{{secret:a"),
        Text(" ", "{{secret:a"),
    ),
    "daybook/schedules/schedule.py:_BARE": case(
        "fullmatch", "1", "1a", "1 a", "a", Text(" ", "1"), Text("1", "1a"), Text(" 1a", "1a", "!")
    ),
    "daybook/schedules/schedule.py:_DATE": case("match", "1", "2026-1-1"),
    "daybook/schedules/schedule.py:_RFC3339": case(
        "fullmatch", "1", Text("1", "2026-01-01T00:00:00.", "!")
    ),
    "daybook/names.py:_CAPABILITY": case("match", "a", "-", Text("a", "", "!")),
    "daybook/redaction.py:_TOKEN": case("sub", "dbt_", "dbt_a", "a", Text("a", "dbt_"), "dbt_-"),
    # --- agents
    "daybook/agents/step_lines.py:_CLAUDE_CODE_FULL": case(
        "search", "prompt is too ", "exceed context ", "exceed", "a"
    ),
    "daybook/agents/step_lines.py:_CODEX_FULL": case(
        "search", "ran out of ", "context_length_", "exceeds the context ", "a"
    ),
    "daybook/agents/step_lines.py:_SESSION": case("fullmatch", "a", "-", Text("a", "", "!")),
    "daybook/json_text.py:_BRACKET": case("finditer", "[", "a"),
    "daybook/json_text.py:_BRACKET_OR_STRING": case(
        "finditer", '"', "\\", '"\\', Text("a", '"'), Text("\\", '"'), Text('\\"', '"'), "a"
    ),
    "daybook/json_text.py:_OPENING": case(
        "fullmatch", "`", " ", "~", Text("a", "```", "`"), Text("`", "", "a`"), Text("~", "", "`")
    ),
    "daybook/agents/providers.py:_EXTRA": case(
        "search", "pydantic-ai-slim[", "pydantic-ai-slim[a", Text("a", "pydantic-ai-slim[")
    ),
    "daybook/agents/providers.py:_VARIABLE": case("findall", "A", "A_", "A_KEY", "A_KEYA_", "A A_"),
    "daybook/agents/template.py:_PATTERN": case(
        "finditer", "{", "{a", "{{a", Text("a", "{{"), "{{a}"
    ),
    # --- imports
    "daybook/features/imports/on_calendar.py:_ITEM": case(
        "fullmatch", "1", Text("1", "1.."), Text("1", "1/"), "1..1/"
    ),
    "daybook/features/imports/on_calendar.py:_TIME": case(
        "fullmatch", "1", ":", "1:", Text("1", "1:1:")
    ),
    "daybook/features/imports/on_calendar.py:re.fullmatch('[A-Za-z]+/.+')": case(
        "fullmatch", "a", "a/"
    ),
    "daybook/features/imports/on_calendar.py:re.split('\\\\.\\\\.|-')": case(
        "split", ".", "-", "a.", "a-"
    ),
    "daybook/features/imports/systemd.py:_SPAN": case("findall", "1", "1 ", Text(" ", "1"), "1a"),
    "daybook/features/imports/systemd.py:_PROMPT_BRACE": case("sub", "{", "a{", "{a"),
    "daybook/features/imports/systemd.py:_SPLIT_VARIABLE": case(
        "search", "$", "a$", " $", "$1", "$a"
    ),
    "daybook/features/imports/systemd.py:_WHOLE_VARIABLE": case(
        "fullmatch", "$", "$a", Text("a", "$"), Text("$a", "$")
    ),
    "daybook/features/imports/systemd.py:_VARIABLE": case(
        "finditer", "$", "${", "${a", Text("a", "${"), "$a"
    ),
    "daybook/features/imports/systemd.py:_WORD": case(
        "match", " ", "a", '"', "'", "\\", '"a', '"\\', Text("a", '"'), Text("\\a", "'"), "a'"
    ),
    "daybook/features/imports/systemd.py:re.match('[-@:+!|]*')": case("match", "-", "a"),
    "daybook/features/imports/systemd.py:re.sub('%(.?)')": case("sub", "%", "%a"),
    "daybook/features/imports/systemd.py:re.sub('\\\\s')": case("sub", " ", "a "),
    # --- channels
    "daybook/delivery/channels/builtin.py:_NAME": case("match", "a", " ", "a ", Text("a", "", "!")),
    "daybook/delivery/channels/apprise.py:_CHAT": case(
        "match", ".", "@", "+", "a", Text("a", "@"), Text("a", "+"), Text("+", "a", "!"), "a@", "a+"
    ),
    "daybook/delivery/channels/apprise.py:re.split('[/?#]')": case("split", "/", "a"),
    "daybook/delivery/channels/apprise.py:re.split('[?&;]')": case("split", "?", "a"),
    "daybook/delivery/channels/prefect_blocks.py:re.split('[&;]')": case("split", "&", "a"),
    "daybook/delivery/channels/prefect_blocks.py:re.split('[^\\\\w-]+')": case(
        "split", "/", "a", "a/"
    ),
    "daybook/delivery/channels/text.py:_BLANKS": case("sub", " ", "a ", "\n ", "a  "),
    "daybook/delivery/channels/text.py:_FENCE": case("finditer", "`", "\n`", "\n ```", " ", "~"),
    "daybook/delivery/channels/text.py:_RINGS": case(
        "sub", "@", "@a", Text("a", "@"), "!", "@!", "@here", "@a@"
    ),
    # --- http, resources
    "daybook/resources/store.py:_NAME": case("match", "a", "a-", "-"),
    "daybook/http/guard.py:_LABEL": case("match", "a", "a-", "-"),
    "daybook/http/guard.py:_NUMBER": case("match", Text("1", "", "x"), Text("f", "0x", "x"), "0x"),
    "daybook/http/request.py:_NAME": case("match", "a", Text("a", "", ":")),
    "daybook/http/request.py:_VALUE": case("match", "a", Text(" ", "a"), Text("a", "", "\0"), "a "),
    "daybook/resources/secrets.py:_HOST": case(
        "match",
        ":",
        Text(":", "", "!"),
        "a",
        "tool:",
        "[",
        Text("a:", "[", "!"),
        Text("1:", "", "!"),
    ),
    "daybook/http/secrets.py:_BEGINS": case(
        "findall", "{", "{{", "{{ ", Text(" ", "{{"), "{{secret"
    ),
    "daybook/http/secrets.py:_SECRET_HEADER": case("search", "-", "token", "-token", "api-", "a"),
    "daybook/http/secrets.py:_SECRET_PARAM": case("fullmatch", "secret", "client_", "api_key"),
    "daybook/http/secrets.py:_SECRET_VALUE": case(
        "search",
        "eyJ-",
        "eyJ-a",
        "-eyJ",
        "eyJ.",
        Text("a", "eyJ"),
        Text("a-", "eyJ"),
        Text("-eyJaaaaaaaa"),
        Text("a", "eyJaaaaaaaa."),
        Text("a-", "eyJaaaaaaaa."),
        Text("eyJaaaaaaaa-", "", ".a"),
        Text(" ", "Bearer"),
        Text("a", "Bearer "),
        "Bearer ",
        "Bearer a",
        "Bearer Bearer",
        "-----BEGIN ",
        "-----BEGIN PRIVATE KEY ",
        Text(" ", "-----BEGIN "),
        Text("PRIVATE KEY ", "-----BEGIN "),
        "SG.",
        "SG.aaaaaaaaaaaaaaaa",
        "SG.aaaaaaaaaaaaaaaa-",
        Text("a", "SG."),
        "sk-",
        "sk_a",
        "ghp_",
        "xoxb-a",
        "AKIA",
        "AIza",
        "ya29.",
        "whsec_",
        "a",
        " ",
        "-",
    ),
    # --- execution
    "daybook/execution/markdown.py:_CODE": case("search", "a", "~", "~~"),
    "daybook/execution/markdown.py:_FENCE": case("findall", "`", "``a", "a"),
    "daybook/execution/markdown.py:_MARKED": case("sub", "\ue000", Text("1", "\ue000"), "\ue0001"),
    "daybook/execution/markdown.py:_LINK": case("search", "]", "](", Text(" ", "](", "http:/")),
    "daybook/execution/markdown.py:_RISKY": case(
        "sub", "!", "!a", "![", "<", Text("!", "", "a["), "!!a", "](", Text(" ", "](", "http:/")
    ),
    "daybook/execution/checks.py:_OPENING": case(
        "match",
        "`",
        "~",
        Text("\t", "```"),
        Text("a", "```"),
        Text("\t", "```a", "!"),
        Text("a\t", "```"),
        Text("\r", "```"),
    ),
    "daybook/prefect/run_names.py:_OURS": case(
        "fullmatch",
        "a",
        " 2026-01-01 00:00:00 UTC",
        " 2026-01-01 00:00:00 UTC (",
        Text(" to 2026-01-01 00:00:00 UTC", "a 2026-01-01 00:00:00 UTC"),
        Text("1", "a 2026-01-01 00:00:00 UTC to 2026-01-01 00:00:00 UTC, "),
    ),
    "daybook/prefect/run_names.py:_RANDOM": case("fullmatch", "a", "a-", Text("a", "a-", "!")),
    "daybook/execution/agent_tools.py:_ILLEGAL": case("sub", "a", "!"),
    # --- ledger, Prefect, keeper, processes, operations
    "daybook/keeper/leadership.py:_READS": case("search", "/", "/filter", "/count/", "/filter/a"),
    "daybook/ledger/texts.py:_PERHAPS": case("search", "\\", "\\u", "\\u00", "\\ud"),
    "daybook/ledger/texts.py:_UNKEPT": case("sub", "a", "\0"),
    "daybook/processes/environment.py:VARIABLE_NAME": case("fullmatch", "a", Text("a", "", "-")),
    "daybook/processes/environment.py:_SECRET": case("search", "KE", "TOK", "A", "CREDENTIA"),
    "daybook/operations/host_names.py:_HOST": case("match", "a", "[", ":1", Text("1", "a:", "a")),
    "daybook/diagnosis/checks/prefect.py:SUBMIT_MESSAGE": case(
        "match", "Worker '", Text("a", "Worker '"), Text("' submitting flow", "Worker 'a")
    ),
    "daybook/prefect/work_pool.py:re.fullmatch(f'{own_name}(-\\\\d+)?')": case(
        "fullmatch", Text("1", "daybook-", "x"), "daybook-", sample=r"daybook(-\d+)?"
    ),
    "daybook/prefect/work_pool.py:re.fullmatch(f'{re.escape(socket.gethostname())}-[0-9a-f]{{6}}(-\\\\d+)?')": case(  # noqa: E501
        "fullmatch", Text("1", "host-abcdef-", "x"), "host-", sample=r"host-[0-9a-f]{6}(-\d+)?"
    ),
    "daybook/prefect/projection.py:_ONCE": case(
        "fullmatch",
        "DTSTART;TZID=",
        Text("a", "DTSTART;TZID="),
        Text("\n", "DTSTART:20260101T000000"),
        Text("=", "DTSTART:20260101T000000\nRRULE:", "!"),
    ),
    "daybook/operations/service.py:re.findall('^(\\\\w+)=(.*)$')": case(
        "findall", "a", "a=", "=", "\n", "a=\n", Text("a", "a=")
    ),
    "daybook/operations/service.py:re.findall('^\\\\t(state|pid) = (.*)$')": case(
        "findall", "\t", "\tstate = ", "\tpid", Text("a", "\tpid = ")
    ),
    "daybook/operations/service.py:re.fullmatch('[A-Za-z_]\\\\w*')": case(
        "fullmatch", "a", Text("a", "", "-")
    ),
    "daybook/operations/service.py:re.search('[\"\\'\\\\\\\\]')": case("search", "a", " "),
    "daybook/operations/service.py:re.search('\\\\d+')": case("search", "a", "1"),
    "daybook/operations/service.py:re.sub('^~(?=/|$)')": case("sub", "~", "~/", "a"),
    # --- files and imports
    "daybook/files/documents.py:_PAIR": case(
        "sub", "\\", "\\u", "\\ud8", "\\ud800", "\\ud800\\u", "\\ud800\\udc0"
    ),
    "daybook/files/documents.py:re.compile('(?:~|null|Null|NULL|)\\\\Z')": case(
        "match", "~", "null"
    ),
    "daybook/files/documents.py:re.compile('(?:true|True|TRUE|false|False|FALSE)\\\\Z')": case(
        "match", "true", "f"
    ),
    "daybook/files/documents.py:re.compile('[-+]?[0-9]+\\\\Z')": case(
        "match", "1", Text("1", "-", "a")
    ),
    "daybook/files/documents.py:re.compile('(?:[-+]?(?:\\\\.[0-9]+|[0-9]+(?:\\\\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\\\\.(?:inf|Inf|INF)|\\\\.(?:nan|NaN|NAN))\\\\Z')": case(  # noqa: E501
        "match", "1", "1.", Text("1", "1.", "a"), Text("1", "1e", "a"), Text("1", ".", "a"), ".inf"
    ),
    "daybook/files/export.py:_NOT_IN_A_NAME": case("sub", "-", "a", "a-"),
    "daybook/features/imports/crontab.py:_VARIABLE": case(
        "fullmatch", "a", Text(" ", "a"), Text('a"', '"'), Text("=", "a"), Text("'", "'", "="), " a"
    ),
    "daybook/features/imports/picobot.py:_WEEKDAY": case("sub", "1", "/", "/1", "1/"),
    "daybook/features/imports/records.py:_GO_DURATION": case(
        "findall", "1", "1.", ".", ".1", "1h", Text("1", "1."), "1m1"
    ),
    "daybook/features/imports/records.py:_GO_ZONE": case(
        "fullmatch", "a", "TZ=", Text("a", "TZ="), Text(" ", "TZ=a"), Text("a ", "TZ=")
    ),
    "daybook/features/imports/writer.py:_OF_SCHEDULE": case(
        "search", "a", "tz", "_tz", Text("a", "_t", "!"), Text("a", "start", "!")
    ),
    "daybook/features/imports/writer.py:_CAMEL_CASE": case(
        "sub", "a", "aA", "A", Text("aA", "", "1")
    ),
    "daybook/owners.py:_SET_NAME": case("fullmatch", "a", "-", "a.", Text("a", "", "/")),
    # --- CLI, repository, settings
    "daybook/cli/output.py:re.sub('[\\x7f-\\x9f]')": case("sub", "a", "\x7f"),
    "daybook/cli/error_text.py:_WORD": case("sub", "a_", "a_a", "a", Text("a_a", "", "1"), "a_a "),
    "daybook/repository.py:re.sub('\\\\W')": case("sub", "a", "/"),
    "daybook/settings.py:_NAME": case("match", "a", "a.", "1.", "1", Text("a.", "", "!"), "-."),
    "daybook/settings.py:_POSTGRESQL": case(
        "match",
        Text("/", "postgres://", "#"),
        Text("a/", "postgres://", "#"),
        Text("a", "postgres://"),
    ),
    "daybook/settings.py:_PUBLIC_URL": case(
        "match",
        Text("a.", "https://", "/"),
        Text("a", "https://", "!"),
        Text("1", "https://a:"),
        "https://a.",
    ),
    "daybook/web/endpoint.py:re.fullmatch('/[a-z][a-z0-9-]*/')": case(
        "fullmatch", "/a", Text("a", "/"), Text("-", "/a", "/")
    ),
    "daybook/web/formatting.py:_BACKTICKS": case("sub", "`", "`a", "`a`", Text("a", "`")),
    "daybook/settings.py:re.sub('([?&])sslmode=')": case("sub", "?", "?sslmode", "&sslmode="),
    "daybook/settings.py:re.search('field \"(\\\\w+)\"')": case(
        "search", 'field "', 'field "a', Text("a", 'field "')
    ),
}


@cache
def found() -> dict[str, ast.Call]:
    """Return each call that creates or uses a pattern, by its name in `CASES`."""
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {name: call for path in paths for name, call in _found_in(path)}


_FUNCTIONS = {
    "compile",
    "match",
    "fullmatch",
    "search",
    "sub",
    "subn",
    "split",
    "findall",
    "finditer",
}


def _found_in(path: Path) -> Iterator[tuple[str, ast.Call]]:
    place, tree = path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())
    named = {
        id(statement.value): ast.unparse(target)
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Assign)
        for target in statement.targets
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=what)) if (
                what in _FUNCTIONS
            ):
                used = f"re.{what}({ast.unparse(node.args[0])})"
                name = named.get(id(node), used) if what == "compile" else used
                yield f"{place}:{name}", node
            case (
                ast.ImportFrom(module="re" | "regex") | ast.Import(names=[ast.alias(name="regex")])
            ) if place not in USES_OF_REGEX:
                raise AssertionError(f"{place}: write `import re`, so that patterns are found here")
            case ast.keyword(arg="pattern" | "regex"):
                raise AssertionError(
                    f"{place}:{node.value.lineno}: a pattern that is not found here"
                )


def test_every_pattern_has_a_case() -> None:
    assert set(found()) - set(CASES) == set(), "give each new pattern a case with hostile texts"
    assert set(CASES) - set(found()) == set(), "there is no such pattern (anymore)"


def _pattern(name: str) -> re.Pattern[str]:
    place, _, variable = name.partition(":")
    if not variable.startswith("re."):
        module = importlib.import_module(place.removesuffix(".py").replace("/", "."))
        pattern = getattr(module, variable)
        assert isinstance(pattern, re.Pattern)
        return pattern
    if CASES[name].sample:
        return re.compile(CASES[name].sample)
    return re.compile(ast.literal_eval(found()[name].args[0]), re.IGNORECASE)


@pytest.mark.parametrize("name", CASES)
def test_a_pattern_takes_linear_time(name: str) -> None:
    of, pattern = CASES[name], _pattern(name)

    def use(text: str) -> None:
        match of.method:
            case "sub":
                pattern.sub("", text)
            case "finditer":
                for _ in pattern.finditer(text):
                    pass
            case method:
                getattr(pattern, method)(text)

    for text in of.texts:
        _check_is_linear(use, text)


def _headers(text: str) -> None:
    request.check("POST", {"X-Team": text})
    secrets.refuse_literal_headers({"X-Team": text})


_MARKDOWN = _texts(
    *(
        "[",
        "![",
        "`a",
        "`a`",
        "`a\nb` ",
        "> ",
        "- a\n",
        "* a\n",
        "*a_",
        "**a ",
        "<a",
        "<!--",
        "[a](",
        "(",
    ),
    *(
        "[a]: b\n",
        "\\",
        "|a",
        "a\n\n",
        "!",
        "~~~\n",
        "```\n",
        "> `<b>\n`",
        "`",
        "[a](<b>",
        "-\n",
        "&a;",
    ),
    Text("[", "`<b>` "),
    Text("[a][b] ", "`<b>` "),
    Text("a\n", "|a|b|\n|-|-|\n", "\n`<b>`"),
    Text("* a\n", "```\n<b>\n```\n"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("read", "texts"),
    [
        (redaction.redact_tokens, _texts("dbt_", "dbt_a")),
        (_headers, _texts("eyJ-", Text(" ", "Bearer", "a"), "a")),
        (secrets.refuse_literal_params, _texts("eyJ-", Text("a", "eyJ"))),
        (
            checks._unfenced,
            _texts(Text("\t", "```\n", "x"), Text("\n", "```\n", "x```"), Text("`", "```\n", "x")),
        ),
        (markdown.sanitize_markdown, _MARKDOWN),
        (markdown.fenced_block, _texts("`", "``a")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_function_that_reads_outside_text_takes_linear_time(
    read: Callable[[str], Any], texts: tuple[Text, ...]
) -> None:
    def use(text: str) -> None:
        with suppress(InvalidInput):
            read(text)

    for text in texts:
        _check_is_linear(use, text)


def _check_is_linear(use: Callable[[str], None], text: Text) -> None:
    """Fail at the first size that takes too much longer than the size before it."""
    before = None
    for size in SIZES:
        whole = text.of(size)
        seconds = _seconds(use, whole)
        if before is not None and seconds > max(before, NOTHING) * STEEPEST:
            seconds, before = (
                min(_seconds(use, each) for _ in range(3)) for each in (whole, text.of(size // 4))
            )
            steep = seconds / max(before, NOTHING)
            assert steep <= STEEPEST, f"{steep:.0f} times as long for four times {text} ({size})"
        before = seconds


def _seconds(use: Callable[[str], None], text: str) -> float:
    """Return the CPU time that this thread uses, without other load of the machine."""
    gc.disable()
    try:
        began = time.thread_time()
        use(text)
        return time.thread_time() - began
    finally:
        gc.enable()
