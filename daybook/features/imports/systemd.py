"""Reader of systemd's timers. Each `OnCalendar` of a timer becomes a job that runs its service.

::

    backup.timer   [Timer]    OnCalendar=Mon..Fri 09:00   Persistent=true
    backup.service [Service]  ExecStart=/usr/bin/tar -cf %h/a.tar docs

Both files are in one folder. A command of systemd is not a command line for a shell. So the reader
quotes the words of the command, and the shell that runs it gets the same words.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

from daybook import plain_text
from daybook.errors import InvalidInput
from daybook.features.imports import on_calendar, shell
from daybook.features.imports.source import (
    COPY_HINT,
    RefusedJob,
    Source,
    SourceJob,
    broken,
    read_bytes,
)
from daybook.jobs.model import JobFields
from daybook.processes import environment
from daybook.schedules import durations

Section = Mapping[str, list[str]]
"""The values of each key of a section, in order. An empty value removes the values before it."""

_TIMER, _SERVICE = ".timer", ".service"
_WITHOUT_DUE_TIMES = (
    *("OnActiveSec", "OnBootSec", "OnStartupSec", "OnUnitActiveSec", "OnUnitInactiveSec"),
    *("OnClockChange", "OnTimezoneChange"),
)
_TIMER_KEYS = ("OnCalendar", "Persistent", "RandomizedDelaySec", "Unit")
_NOT_NEEDED = (
    *("AccuracySec", "FixedRandomDelay", "RemainAfterElapse", "DeferReactivation"),
    *("Type", "RemainAfterExit", "Description", "Documentation", "WantedBy", "Also"),
)
"""Keys that change neither the due times nor the command, so the reader ignores them."""
_WAKE_SYSTEM = "WakeSystem"
"""Key of a timer that Daybook leaves out: it changes whether the machine sleeps, not the due times.
"""
_COMMANDS = ("ExecStartPre", "ExecStart", "ExecStartPost")
_SERVICE_KEYS = (*_COMMANDS, "Environment", "WorkingDirectory", "RuntimeMaxSec", "TimeoutStartSec")
_REFUSED = {
    "User": "the worker's own user runs it: import it there, as a timer of that user",
    "Group": "the worker's own user and group run it",
    "DynamicUser": "the worker's own user runs it",
    "EnvironmentFile": "write its variables as Environment=, or read the file in the command",
    "PassEnvironment": "name the variables in the settings of the agent shell",
    "RootDirectory": "the worker's own root applies",
    "RootImage": "the worker's own root applies",
    "ExecCondition": "use a check: daybook add --check",
}
"""Keys that change the effect of the command. Each has a hint about a replacement."""
_SECONDS = {
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3_600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
    **dict.fromkeys(("w", "week", "weeks"), 604_800),
}
_SPAN = re.compile(r"(\d+)\s*([A-Za-z]*)")
_TRUE, _FALSE = ("1", "yes", "true", "on", "y", "t"), ("0", "no", "false", "off", "n", "f")
_WORD = re.compile(r"""\s*((?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\\.|[^\s"'\\])+)""")
_VARIABLE = re.compile(r"\$\$|\$\{[A-Za-z_]\w*\}", re.ASCII)
_WHOLE_VARIABLE = re.compile(r"\$([A-Za-z_]\w*)", re.ASCII)
_SPLIT_VARIABLE = re.compile(r"(?<!\S)\$[A-Za-z_]", re.ASCII)
"""A variable that is a whole word of a shell command. It may also match inside a quoted word."""
_PROMPT_BRACE = re.compile(r"\{(?=\{)")
"""The first of the two braces at the beginning of a variable of a prompt."""
_ESCAPES = {";": ";", "n": "\n", "t": "\t", "s": " ", "\\": "\\", '"': '"', "'": "'"}
_FIX = "nothing was imported; correct the unit, or leave its timer out"
_TO_ADD = "Daybook starts no job at a boot: `daybook add --every 1h …` adds an interval"


def read(path: Path) -> Source:
    """Return the jobs of a `.timer` file, or of all `.timer` files in a folder.

    Leave out a timer without calendar expressions, with a note. A timer that Daybook cannot
    translate is a refused job. Raise `InvalidInput` for another file, and for a folder without
    timers.
    """
    if path.is_dir():
        files = sorted(path.glob(f"*{_TIMER}"))
        if not files:
            raise broken(path.name, f"has no file *{_TIMER}", "name the folder of the units")
    else:
        files = [path]
        if path.suffix != _TIMER:
            raise broken(path.name, f"is no *{_TIMER} file", "name a timer, or its folder")
    jobs, notes, refused = list[SourceJob](), list[str](), list[RefusedJob]()
    for each in files:
        try:
            jobs += list(_jobs(each, notes))
        except InvalidInput as error:
            refused.append(RefusedJob(each.name, each.stem, error))
    return Source.of("systemd", jobs, notes=notes, refused=refused)


def _jobs(file: Path, notes_of_source: list[str]) -> Iterator[SourceJob]:
    timer, notes = _read_unit(file), list[str]()
    settings = timer.get("Timer", {})
    if other := [name for name in _WITHOUT_DUE_TIMES if settings.get(name)]:
        if settings.get("OnCalendar"):
            raise broken(file.name, f"has {other[0]} beside OnCalendar", _FIX)
        notes_of_source.append(f"left out {file.name}: {other[0]} is no due time. {_TO_ADD}")
        return
    unit = _last(settings, "Unit") or file.with_suffix(_SERVICE).name
    if "@" in unit or "/" in unit or not unit.endswith(_SERVICE):
        raise broken(file.name, f"starts {unit}, which is no plain service", _FIX)
    service_file = file.with_name(unit)
    if not service_file.is_file():
        hint = f"nothing was imported; write it there: systemctl cat {unit}"
        raise broken(file.name, f"starts {unit}, which is not in its folder", hint)
    service = _read_unit(service_file)
    left_out = _refuse_unknown(file.name, timer, "Timer", _TIMER_KEYS, notes)
    unknown = {f"Timer.{key}": _last(settings, key) for key in left_out if key in settings}
    unknown.pop(f"Timer.{_WAKE_SYSTEM}", None)
    _refuse_unknown(unit, service, "Service", _SERVICE_KEYS, notes)
    fields = _command(unit, service.get("Service", {}), notes)
    fields["catch_up"] = "latest" if _flag(file.name, settings, "Persistent") else "none"
    if delay := _span(file.name, settings, "RandomizedDelaySec"):
        fields["stagger"] = delay
    if description := _last(service.get("Unit", {}), "Description"):
        fields["description"] = description
    expressions = settings.get("OnCalendar", [])
    if not expressions:
        raise broken(file.name, "has no OnCalendar", _FIX)
    reason = str(fields.pop("disabled_reason"))
    for number, expression in enumerate(expressions, 1):
        suffix = "" if number == 1 else f"-{number}"
        where = f"{file.name}, OnCalendar"
        yield SourceJob(
            id=f"{file.name}{suffix}",
            name=f"{file.stem}{suffix}",
            where=where,
            fields={**fields, **on_calendar.schedule(where, expression)},
            disabled_reason=reason,
            notes=tuple(notes),
            unknown=unknown,
        )


def _command(unit: str, service: Section, notes: list[str]) -> JobFields:
    """Return the fields of a job that runs the commands of a service.

    `disabled_reason` is the reason to disable the job, or "". Raise `InvalidInput` for a service
    that no command of a shell can replace.
    """
    commands = [_script(unit, line) for key in _COMMANDS for line in service.get(key, [])]
    if (kind := _last(service, "Type") or "simple") not in ("simple", "exec", "oneshot"):
        raise broken(unit, f"has the type {kind}, whose program runs on in the background", _FIX)
    if not service.get("ExecStart"):
        raise broken(unit, "has no ExecStart", _FIX)
    variables = dict[str, str]()
    for line in service.get("Environment", []):
        for word in _words(unit, line):
            name, _, value = _specified(unit, word).partition("=")
            if environment.VARIABLE_NAME.fullmatch(name) is None:
                raise broken(unit, f"has the Environment= {name!r}, which is no name", _FIX)
            variables[name] = value
    given, reason = shell.without_secrets(variables, notes)
    folder = _last(service, "WorkingDirectory")
    lines = [f"export {name}={_literal(value)}" for name, value in given.items()]
    if folder:
        is_optional, folder = folder.startswith("-"), _specified(unit, folder.lstrip("-"))
        folder = '"$HOME"' if folder == "~" else _literal(folder)
        lines.append(f"cd {folder} || {'true' if is_optional else 'exit 1'}")
    command = " && ".join(commands)
    if _SPLIT_VARIABLE.search(command):
        # systemd splits a variable's value into words, but does not expand a `*` in it.
        lines.append("set -f")
    lines.append(command)
    # Only a service of the type oneshot is still starting while its command runs.
    limit = _span(unit, service, "TimeoutStartSec" if kind == "oneshot" else "RuntimeMaxSec")
    return {
        "agent": shell.AGENT,
        "session": "new",
        "prompt": "\n".join(lines),
        "timeout": limit or shell.TIMEOUT,
        "retries": 0,
        "enabled": True,
        "disabled_reason": reason,
    }


def _script(unit: str, line: str) -> str:
    """Return a line of systemd as a command of the shell. The word `;` separates two commands.

    Raise `InvalidInput` for a line without a command.
    """
    commands = [list[str]()]
    for word in _written_words(unit, line):
        if word == ";":
            commands.append([])
        else:
            commands[-1].append(word)
    found = [_shell_command(unit, line, words) for words in commands if words]
    if not found:
        raise broken(unit, f"{line!r} is no command", _FIX)
    return " && ".join(found)


def _shell_command(unit: str, line: str, words: list[str]) -> str:
    first, *others = words
    marks = re.match(r"[-@:+!|]*", first)
    assert marks is not None
    if wrong := marks[0].strip("-:"):
        raise broken(unit, f"{line!r} begins with {wrong}, which no shell does", _FIX)
    if not (first := first[marks.end() :]):
        raise broken(unit, f"{line!r} is no command", _FIX)
    command = " ".join(
        _quoted(_specified(unit, _word(unit, line, each)), variables=":" not in marks[0])
        for each in (first, *others)
    )
    return f"{{ {command} || true; }}" if "-" in marks[0] else command


def _words(unit: str, line: str) -> Iterator[str]:
    """Split a line into words as systemd does, and resolve their quotes and escapes."""
    return (_word(unit, line, each) for each in _written_words(unit, line))


def _written_words(unit: str, line: str) -> Iterator[str]:
    """Split a line into words as systemd does, but leave the quotes and escapes in them.

    Raise `InvalidInput` for a quote or an escape without its end.
    """
    position, line = 0, line.strip()
    while position < len(line):
        found = _WORD.match(line, position)
        if found is None:
            raise broken(unit, f"{line!r} has a quote or a backslash without its end", _FIX)
        position = found.end()
        yield found[1]


def _word(unit: str, line: str, written: str) -> str:
    """Return a word without its quotes and escapes. Raise `InvalidInput` for an unknown escape."""
    word, quote, letters = list[str](), "", iter(written)
    for letter in letters:
        if letter == "\\":
            escaped = next(letters)
            if escaped not in _ESCAPES:
                raise broken(unit, f"{line!r} has the escape \\{escaped}", _FIX)
            word.append(_ESCAPES[escaped])
        elif letter == quote:
            quote = ""
        elif not quote and letter in "\"'":
            quote = letter
        else:
            word.append(letter)
    return "".join(word)


def _specified(unit: str, word: str) -> str:
    """Replace the specifiers in a word, such as %h by the user's home folder. Return the word.

    Raise `InvalidInput` for a specifier other than `%h`, `%n`, `%N` and `%%`.
    """

    def value(found: re.Match[str]) -> str:
        known = {
            "%": "%",
            "h": os.path.expanduser("~"),
            "n": unit,
            "N": unit.removesuffix(_SERVICE),
        }
        if found[1] not in known:
            raise broken(unit, f"has the specifier %{found[1]}", _FIX)
        return known[found[1]]

    return re.sub(r"%(.?)", value, word)


def _quoted(word: str, *, variables: bool = True) -> str:
    """Quote a word for the shell, but not its variables, which the shell replaces.

    systemd replaces `${NAME}` anywhere in a word. It replaces `$NAME` only if this is the whole
    word, and then splits the value into words.
    """
    if not variables:
        return _literal(word.replace("$$", "$"))
    if (whole := _WHOLE_VARIABLE.fullmatch(word)) is not None:
        return f"${whole[1]}"
    parts, position = list[str](), 0
    for found in _VARIABLE.finditer(word):
        parts.append(_literal(word[position : found.start()], empty=""))
        parts.append("'$'" if found[0] == "$$" else f'"{found[0]}"')
        position = found.end()
    parts.append(_literal(word[position:], empty=""))
    return "".join(parts) or "''"


def _literal(text: str, empty: str = "''") -> str:
    """Return ``text`` quoted for the shell, or ``empty``.

    An empty quoted string divides each `{{`, which would begin a variable of a prompt.
    """
    return _PROMPT_BRACE.sub("{''", shlex.quote(text)) if text else empty


def _read_unit(file: Path) -> dict[str, dict[str, list[str]]]:
    """Return the sections of a unit file. Raise `InvalidInput` if the file is not complete.

    Raise it also for an invalid line, and if there are drop-ins, which would change the unit.
    """
    where = file.name
    if file.with_name(f"{where}.d").is_dir():
        hint = f"nothing was imported; write the whole unit to a file: systemctl cat {where}"
        raise broken(where, "has drop-ins beside it", hint)
    try:
        text = plain_text.decode(read_bytes(file))
    except UnicodeDecodeError:
        raise broken(where, "is not UTF-8 text", COPY_HINT) from None
    if not text.strip():
        raise broken(where, "is empty", COPY_HINT)
    if not text.endswith("\n"):
        raise broken(where, "is not complete: its last line does not end", COPY_HINT)
    sections = dict[str, dict[str, list[str]]]()
    section: dict[str, list[str]] | None = None
    for number, written in _joined_lines(text):
        line = written.strip()
        if not line:
            continue
        if line[0] == "[" and line[-1] == "]":
            section = sections.setdefault(line[1:-1], {})
            continue
        key, is_pair, value = (part.strip() for part in line.partition("="))
        if section is None or not is_pair or not key:
            raise broken(f"{where}, line {number}", f"{line!r} is no KEY=VALUE of a section", _FIX)
        section[key] = [*section.get(key, []), value] if value else []
    return sections


def _joined_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line of a unit file, without comments, with its number.

    As in systemd, a line that ends in a backslash without a backslash before it continues in the
    next line. A comment continues nowhere, and may stand between the parts of a line.
    """
    begins, joined = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        if line.lstrip()[:1] in ("#", ";"):
            continue
        begins, joined = begins or number, joined + line
        backslashes = len(line) - len(line.rstrip("\\"))
        if backslashes % 2:
            joined = f"{joined[:-1]} "
            continue
        yield begins, joined
        begins, joined = 0, ""
    if joined:
        yield begins, joined


def _refuse_unknown(
    unit: str,
    sections: Mapping[str, Section],
    main: str,
    known: tuple[str, ...],
    notes: list[str],
) -> list[str]:
    """Raise `InvalidInput` for keys that change the effect of the job.

    Add a note about other keys, and return them.
    """
    left_out = list[str]()
    for name, section in sections.items():
        for key, values in section.items():
            if not values or key in _NOT_NEEDED or (name == main and key in known):
                continue
            if key in _REFUSED:
                raise broken(unit, f"has {key}=", f"nothing was imported; {_REFUSED[key]}")
            if key.startswith(("Condition", "Assert")):
                raise broken(
                    unit, f"has {key}=", f"nothing was imported; {_REFUSED['ExecCondition']}"
                )
            left_out.append(key)
    if left_out:
        notes.append(f"left out of {unit}: {', '.join(left_out)}")
    return left_out


def _last(section: Section, key: str) -> str:
    return (section.get(key) or [""])[-1]


def _flag(where: str, section: Section, key: str) -> bool:
    text = _last(section, key).lower()
    if text and text not in _TRUE + _FALSE:
        raise broken(where, f"{key}={text} is neither yes nor no", _FIX)
    return text in _TRUE


def _span(where: str, section: Section, key: str) -> str:
    """Return a duration in Daybook's format. Return "" if it is missing, zero or infinite.

    Raise `InvalidInput` if it is not a duration in whole seconds.
    """
    text = _last(section, key)
    if text in ("", "0", "infinity"):
        return ""
    parts = _SPAN.findall(text)
    if "".join(number + unit for number, unit in parts) != re.sub(r"\s", "", text) or any(
        unit not in _SECONDS for _, unit in parts
    ):
        raise broken(where, f"{key}={text} is no duration in whole seconds", _FIX)
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in parts)
    return durations.to_text(timedelta(seconds=seconds)) if seconds else ""
