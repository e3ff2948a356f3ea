"""Reader of users' crontabs, with the rules of Vixie's cron, cronie and Debian's cron.

A line is a comment, a variable, or a schedule with a command::

    CRON_TZ=Europe/Berlin
    0 9 * * 1-5  report.sh --to team  # not a comment: the shell gets the whole line
    @daily       mail me%Dear me,%all is well\\%

A job has the name of its script or program, or, if this is not clear, of the comment directly above
its line. It never contains an option, because an option may be a password.

An unescaped `%` ends the command. The text after it is the command's standard input, in which each
`%` stands for a line break.
"""

from __future__ import annotations

import hashlib
import pwd
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from daybook import plain_text
from daybook.features.imports import shell
from daybook.features.imports.source import COPY_HINT, Source, SourceJob, broken, read_bytes
from daybook.jobs.model import JobFields
from daybook.names import default_name
from daybook.processes import environment
from daybook.schedules.cron import ALIASES, DAY, HOUR, MINUTE, MONTH, WEEKDAY, FieldKind

STANDARD_INPUT = "standard input"

_VARIABLE = re.compile(r"""("[^"]*"|'[^']*'|[^\s"'=]+)[ \t]*=[ \t]*(.*)""")
_ZONE, _MAIL = "CRON_TZ", "MAILTO"
_OF_CRON = (
    *("MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING"),
    *("RANDOM_DELAY", "START_HOURS_RANGE"),
)
"""Other variables that cron itself reads. They are not passed to the command."""
_FIELDS = 5
_RANDOM = re.compile(r"(?<![\w-])(\d{0,2})~(\d{0,2})(?![\w/-])", re.ASCII)
"""A random range of cronie, such as `0~59`; a missing end is the end of the field's range."""
_USERS = ("root", "www-data", "nobody")
"""Users that the crontabs of most systems name; this machine may have others."""

REBOOT_HINT = (
    "nothing was imported; a job here has due times: let systemd start the command "
    "(`systemctl --user enable`), and import the rest: "
    "crontab -l | grep -v '^@reboot' | daybook import crontab -"
)
_SYSTEM_HINT = "import the crontab of each user: crontab -l -u USER | daybook import crontab -"
UNFINISHED_REASON = "imported from a line that may be cut off"
UNFINISHED_NOTE = (
    "its line has no line break, so the file may be cut off; the job is disabled: check the command"
)
_LINE_HINT = "nothing was imported; correct the line, or put # before it"


def read(path: Path) -> Source:
    """Return the jobs of a user's crontab. Raise `InvalidInput` for a crontab of the system.

    Raise the errors of `read_text` too.
    """
    if path.resolve() == Path("/etc/crontab") or path.resolve().parent == Path("/etc/cron.d"):
        raise broken(path.name, "is a crontab of the system: its lines name users", _SYSTEM_HINT)
    return read_text(path.name, read_bytes(path))


def read_text(name: str, content: bytes) -> Source:
    """Return the jobs of a crontab. ``name`` is the name of its file in errors.

    Raise `InvalidInput` if it is empty, incomplete or not UTF-8, and for an invalid or `@reboot`
    line.
    """
    text = _decoded(name, content)
    zone, variables, mail = "", dict[str, str](), ""
    jobs, counts, comment = list[SourceJob](), Counter[str](), ""
    for number, written in enumerate(text.split("\n"), 1):
        line, where = written.strip(" \t\r"), f"{name}, line {number}"
        if not line or line.startswith("#"):
            comment = line
            continue
        if (found := _VARIABLE.fullmatch(line)) is None:
            expr, command = _split(where, line)
            first, _, rest = command.partition(" ")
            if rest and not rest.startswith("-") and _is_user(first, variables):
                raise broken(where, f"names the user {first}", _SYSTEM_HINT)
            known = SourceJob(_id(zone, expr, command, counts), _title(comment), where, {})
            jobs.append(_job(known, expr, command, zone, variables))
            continue
        comment = ""
        key, value = _unquoted(found[1]), _unquoted(found[2].strip())
        if not environment.VARIABLE_NAME.fullmatch(key):
            raise broken(where, f"{key!r} is not the name of a variable", _LINE_HINT)
        if key == _ZONE:
            zone = value
        elif key == _MAIL:
            mail = value
        elif key not in _OF_CRON:
            variables[key] = value
    notes = [f"cron mailed what the commands print to {mail}: set --channel"] if mail else []
    if written:  # the last line has no line break
        last = jobs[-1] if jobs else None
        if last is None or last.where != where:
            raise broken(where, "is not complete: the line does not end", COPY_HINT)
        reason = last.disabled_reason or UNFINISHED_REASON
        jobs[-1] = replace(last, disabled_reason=reason, notes=(*last.notes, UNFINISHED_NOTE))
    return Source.of("crontab", jobs, notes=notes)


def _decoded(name: str, content: bytes) -> str:
    try:
        text = plain_text.decode(content)
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise broken(f"{name}, line {number}", "is not UTF-8 text", _LINE_HINT) from None
    if not text.strip():
        raise broken(name, "is empty", "nothing was imported; `crontab -l` prints a crontab")
    if "\0" in text:
        raise broken(name, "is not a text", COPY_HINT)
    return text


def _title(comment: str) -> str:
    """Return the text of a comment that describes a line; "" for one that may be a line itself."""
    text = comment.lstrip("# \t")
    is_line = not text[:1].isalpha() or "=" in text or text.startswith("m h ")
    return "" if is_line else text


def _is_user(word: str, variables: Mapping[str, str]) -> bool:
    """Return whether the first word of a command names a user, as in a crontab of the system."""
    if word in _USERS:
        return True
    try:
        pwd.getpwnam(word)
    except (KeyError, ValueError):
        return False
    return shutil.which(word, path=variables.get("PATH")) is None


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def _split(where: str, line: str) -> tuple[str, str]:
    """Return the schedule and the command of a line. Raise `InvalidInput` for an invalid line."""
    if line.startswith("@"):
        expr, *rest = line.split(maxsplit=1)
        if expr.lower() == "@reboot":
            raise broken(where, "@reboot is no due time", REBOOT_HINT)
        if expr.lower() not in ALIASES:
            known = f"use one of {' '.join(ALIASES)}; {_LINE_HINT}"
            raise broken(where, f"{expr} is unknown", known)
    else:
        *fields, command = (line.split(maxsplit=_FIELDS) + [""] * _FIELDS)[: _FIELDS + 1]
        expr, rest = " ".join(fields).strip(), [command] if command else []
    if not rest:
        raise broken(where, "has no command after its schedule", _LINE_HINT)
    return expr, rest[0]


def _id(zone: str, expr: str, line: str, counts: Counter[str]) -> str:
    """Return an id that depends only on the time zone, schedule and command of a line.

    So a repeated import recognises the line at another place or with other variables. ``counts``
    has the numbers of equal lines so far; the second of them gets another id.
    """
    digest = hashlib.sha256(f"{zone}\n{expr}\n{line}".encode()).hexdigest()[:12]
    counts[digest] += 1
    return digest if counts[digest] == 1 else f"{digest}-{counts[digest]}"


def _job(
    known: SourceJob, expr: str, line: str, zone: str, variables: Mapping[str, str]
) -> SourceJob:
    """Return the job of a line, with the id and the place that ``known`` has."""
    command, stdin = _command(line)
    name, notes = default_name(shell.program_name(command) or known.name or "command"), list[str]()
    if "~" in expr:
        expr = _fixed(expr, known.id)
        notes.append(f"cron chose a random time for each ~; here the schedule is always {expr!r}")
    given, reason = shell.without_secrets(variables, notes)
    program = given.pop("SHELL", shell.PROGRAM)
    if program not in (shell.PROGRAM, "sh"):
        command = f"exec {shlex.quote(program)} -c {shlex.quote(command)}"
    if unlike := _unlike_cron(expr):
        reason = reason or f"imported: {unlike}"
        notes.append(f"it is disabled, because no schedule here is the same as {expr!r}")
    fields: JobFields = {
        **shell.fields(command, variables=given, folder=given.get("HOME", ""), stdin=stdin),
        "cron": expr,
        "timeout": shell.TIMEOUT,
        "retries": 0,
        "catch_up": "none",
        "enabled": True,
    }
    if zone:
        fields["timezone"] = zone
    return replace(known, name=name, fields=fields, disabled_reason=reason, notes=tuple(notes))


def _fixed(expr: str, job_id: str) -> str:
    """Return the schedule with one number in place of each random range `A~B` of cronie.

    The numbers depend only on the line, so that a repeated import chooses the same ones.
    """
    kinds = (MINUTE, HOUR, DAY, MONTH, WEEKDAY)
    return " ".join(
        _RANDOM.sub(partial(_number, kind=kind, job_id=job_id), text)
        for kind, text in zip(kinds, expr.split(), strict=True)
    )


def _number(found: re.Match[str], kind: FieldKind, job_id: str) -> str:
    """Return a number of a random range; return an invalid range unchanged."""
    low, high = int(found[1] or kind.low), int(found[2] or kind.high)
    if high < low:
        return found[0]
    digest = hashlib.sha256(f"{job_id} {kind.name}".encode()).hexdigest()
    return str(low + int(digest, 16) % (high - low + 1))


def _unlike_cron(expr: str) -> str:
    """Return a note if cron combines the days of ``expr`` differently; "" if it does not.

    If the day of the month or the weekday begins with `*`, cron requires both to match; Daybook
    does so only if one of them is exactly `*`.
    """
    if expr.startswith("@"):
        return ""
    day, weekday = expr.split()[2], expr.split()[4]
    joined = any(each.startswith("*") for each in (day, weekday)) and "*" not in (day, weekday)
    return "due only if both day of the month and weekday match" if joined else ""


def _command(line: str) -> tuple[str, str | None]:
    """Return the command and its standard input. The input is None if the line has none."""
    command, rest = list[str](), iter(line)
    for letter in rest:
        if letter == "%":
            return "".join(command).rstrip(), _input("".join(rest)) or None
        following = next(rest, "") if letter == "\\" else ""
        command.append("%" if following == "%" else letter + following)
    return "".join(command), None


def _input(text: str) -> str:
    lines, rest = list[str](), iter(text)
    for letter in rest:
        following = next(rest, "") if letter == "\\" else ""
        if following == "%":
            lines.append("%")
        elif letter == "%":
            lines.append("\n")
        else:
            lines.append(letter + following)
    return "".join(lines)
