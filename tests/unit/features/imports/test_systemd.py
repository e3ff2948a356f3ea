"""The reader of systemd's timers: their calendar, their units, and their commands in a shell."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.features.imports import on_calendar, systemd
from daybook.features.imports.source import Source
from daybook.jobs import prompts
from daybook.jobs.model import new_job
from daybook.jobs.upcoming import between
from tests import rows
from tests.unit.features.imports.files import checked, utc
from tests.unit.features.imports.files import systemd as units

ANALYZE = shutil.which("systemd-analyze")
TIMER = "[Timer]\nOnCalendar=Mon..Fri 09:00\n"
SERVICE = "[Service]\nExecStart=/bin/true\n"

SCHEDULES: dict[str, dict[str, str]] = {
    "minutely": {"cron": "* * * * *"},
    "hourly": {"cron": "0 * * * *"},
    "daily": {"cron": "0 0 * * *"},
    "Weekly": {"cron": "0 0 * * 1"},
    "monthly": {"cron": "0 0 1 * *"},
    "quarterly": {"cron": "0 0 1 1,4,7,10 *"},
    "semiannually": {"cron": "0 0 1 1,7 *"},
    "yearly": {"cron": "0 0 1 1 *"},
    "*:0/15": {"cron": "0-59/15 * * * *"},
    "9:00,30": {"cron": "0,30 9 * * *"},
    "Mon..Fri *-*-* 09,17:30:00": {"cron": "30 9,17 * * 1-5"},
    "sat,Sunday 10:00": {"cron": "0 10 * * 6,7"},
    "Mon..Wed,Fri 12:05:30": {"cron": "30 5 12 * * 1-3,5"},
    "*-*-* *:*:0/20": {"cron": "0-59/20 * * * * *"},
    "*-02..05/2-01 04:00": {"cron": "0 4 1 2-5/2 *"},
    "*-*-1/7 04:00": {"cron": "0 4 1-31/7 * *"},
    "12-24 18:00": {"cron": "0 18 24 12 *"},
    "Thu": {"cron": "0 0 * * 4"},
    "*-*-05": {"cron": "0 0 5 * *"},
    "*-*~01 18:00": {"cron": "0 18 L * *"},
    "Sat *-*-1..7 18:00:00": {"cron": "0 18 * * 6#1"},
    "Mon,Tue *-*-08..14": {"cron": "0 0 * * 1#2,2#2"},
    "Mon..Wed *-01-15..21 9:00": {"cron": "0 9 * 1 1#3,2#3,3#3"},
    "Sun *-22..28": {"cron": "0 0 * * 0#4"},
    "Fri *-*-29..31": {"cron": "0 0 * * 5#5"},
    "Mon *-05~07/1": {"cron": "0 0 * 5 L1"},
    "Sun *-*~7/1 18:00": {"cron": "0 18 * * L0"},
    "*-02~1": {"cron": "0 0 L 2 *"},
    "2026-03-15 14:30": {"at": "2026-03-15T14:30:00"},
    "daily utc": {"cron": "0 0 * * *", "timezone": "UTC"},
    "Mon 08:00 Asia/Tokyo": {"cron": "0 8 * * 1", "timezone": "Asia/Tokyo"},
}


def read(folder: Path, timer: str = TIMER, service: str = SERVICE) -> Source:
    return checked(systemd.read(units(folder, timer, service)))


def run(prompt: str) -> list[str]:
    return subprocess.run(
        ["/bin/sh"], input=prompt, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_a_calendar_expression_is_the_same_schedule_in_cron() -> None:
    for (expression, wanted), trying in rows.each(list(SCHEDULES.items())):
        with trying:
            assert on_calendar.schedule("a", expression) == wanted


@pytest.mark.slow
@pytest.mark.skipif(ANALYZE is None, reason="service absent: systemd-analyze")
def test_due_times_are_those_that_systemd_computes() -> None:
    begin, count = utc("2026-01-30T23:59:59"), 40
    for expression, trying in rows.each(list(SCHEDULES)):
        with trying:
            words = [str(ANALYZE), "calendar", f"--iterations={count}", expression]
            words.append(f"--base-time={begin:%Y-%m-%d %H:%M:%S}")
            printed = subprocess.run(
                words, capture_output=True, text=True, check=True, env={"TZ": "UTC"}
            ).stdout
            theirs = [
                datetime.strptime(each, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
                for each in re.findall(r"(?:Next elapse|Iter\. #\d+): \w+ (\S+ \S+) UTC", printed)
            ]
            assert theirs
            fields: dict[str, Any] = {**on_calendar.schedule("a", expression)}
            job = new_job(now=begin, default_timezone="UTC", name="a", prompt="x", **fields)
            ours = between(job.schedule, job.policy, begin, theirs[-1] + timedelta(seconds=1))
            assert list(ours) == theirs


def test_what_cron_cannot_say_is_refused_with_the_reason() -> None:
    cases = {
        "2027-02-30 10:00": "does not exist",
        "Mon *-*-1..6 04:00": "both a weekday and a day of the month",
        "*-*~2": "from the end of a month",
        "2026..2030-*-* 04:00": "names a year",
        "*:0:0.5": "fractions of a second",
        "*:*/5": "no part of a calendar expression",
        "Fri..Mon 04:00": "no weekday",
        "Someday 04:00": "no weekday",
        "10": "no calendar expression",
        "": "no calendar expression",
        "tomorrow at noon": "no",
    }
    for (expression, problem), trying in rows.each(list(cases.items())):
        with trying, pytest.raises(InvalidInput, match=problem) as refused:
            on_calendar.schedule("backup.timer", expression)
        assert "daybook add" in str(refused.value)


def test_a_timer_with_its_service(tmp_path: Path) -> None:
    timer = (
        "# a comment\n[Unit]\nDescription=Timer\n[Timer]\nOnCalendar=weekly\nOnCalendar=\n"
        "OnCalendar=Mon..Fri 09:00 Europe/Berlin\nOnCalendar=Sat 10:00\nPersistent=true\n"
        "RandomizedDelaySec=1h 30min\nWakeSystem=yes\n[Install]\nWantedBy=timers.target\n"
    )
    service = (
        "[Unit]\nDescription=Write a report\nAfter=network.target\n[Service]\nType=oneshot\n"
        'Environment=A=1 "B=two words" API_TOKEN=abc\nWorkingDirectory=~\nNice=5\n'
        "ExecStart=/usr/bin/env \\\n  true\nTimeoutStartSec=90\nRuntimeMaxSec=5\n"
    )
    source = read(tmp_path, timer, service)
    first, second = source.jobs
    assert (first.id, first.name) == ("backup.timer", "backup")
    assert (second.id, second.name) == ("backup.timer-2", "backup-2")
    assert first.fields == {
        "agent": "shell",
        "session": "new",
        "prompt": "export A=1\nexport B='two words'\ncd \"$HOME\" || exit 1\n/usr/bin/env true",
        "timeout": "1m30s",
        "retries": 0,
        "enabled": True,
        "catch_up": "latest",
        "stagger": "1h30m",
        "description": "Write a report",
        "cron": "0 9 * * 1-5",
        "timezone": "Europe/Berlin",
    }
    assert second.fields["cron"] == "0 10 * * 6"
    assert first.disabled_reason == "imported without its secrets"
    notes = " ".join(first.notes)
    for part in ("API_TOKEN", "backup.timer: WakeSystem", "backup.service: After, Nice"):
        assert part in notes


def test_an_unknown_key_of_the_timer_is_an_unknown_value_of_the_job(tmp_path: Path) -> None:
    """A newer systemd may have keys that change the due times, as RandomizedOffsetSec does."""
    timer = TIMER.replace("[Timer]", "[Timer]\nRandomizedOffsetSec=1h\nWakeSystem=yes")
    (job,) = read(tmp_path, timer).jobs
    assert job.unknown == {"Timer.RandomizedOffsetSec": "1h"}


def test_a_command_gets_the_words_that_systemd_gives_it(tmp_path: Path) -> None:
    script = tmp_path / "words"
    script.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\n')
    script.chmod(0o755)
    cases = {
        "a b": ["a", "b"],
        "'a b' \"c d\"": ["a b", "c d"],
        "a; b && c | d > e": ["a;", "b", "&&", "c", "|", "d", ">", "e"],
        "$$HOME `id` *": ["$HOME", "`id`", "*"],
        "${TWO} x${TWO}y $TWO": ["1 2", "x1 2y", "1", "2"],
        "--name=$TWO $TWO$TWO $NO": ["--name=$TWO", "$TWO$TWO"],
        "100%% %N": ["100%", "backup"],
        r"a\sb": ["a b"],
        "it\\'s": ["it's"],
        r"a \; b ';'": ["a", ";", "b", ";"],
        "$STARS '$TWO $STARS'": ["*", "/*", "$TWO $STARS"],
        "{{job}} '{{due}} {{{work_dir}}}' ${BRACES}": [
            *("{{job}}", "{{due}} {{{work_dir}}}", "{{job}}")
        ],
    }
    for (line, wanted), trying in rows.each(list(cases.items())):
        with trying:
            environment = "'TWO=1 2' 'STARS=* /*' BRACES={{job}}"
            service = f"[Service]\nEnvironment={environment}\nExecStart={script} {line}\n"
            (job,) = read(tmp_path, TIMER, service).jobs
            assert prompts.used(job.fields["prompt"]) == []
            assert run(job.fields["prompt"]) == [f"<{each}>" for each in wanted]


def test_several_commands_run_until_one_fails(tmp_path: Path) -> None:
    service = (
        "[Service]\nExecStartPre=-/bin/false\nExecStart=/bin/echo one\nExecStart=/bin/echo two\n"
        "ExecStartPost=:/bin/echo $$HOME\n"
    )
    (job,) = read(tmp_path, TIMER, service).jobs
    assert run(job.fields["prompt"]) == ["one", "two", "$HOME"]
    (job,) = read(tmp_path, TIMER, service.replace("echo one", "false")).jobs
    with pytest.raises(subprocess.CalledProcessError):
        run(job.fields["prompt"])


def test_a_word_that_is_a_semicolon_separates_two_commands(tmp_path: Path) -> None:
    service = (
        "[Service]\nType=oneshot\nExecStart=-/bin/false ; /bin/echo 'a ; b' ; :/bin/echo $$A ;\n"
    )
    (job,) = read(tmp_path, TIMER, service).jobs
    assert run(job.fields["prompt"]) == ["a ; b", "$A"]


@pytest.mark.parametrize(("kind", "timeout"), [("oneshot", "1m"), ("simple", "2m"), ("exec", "2m")])
def test_the_timeout_is_the_limit_that_systemd_applies_to_the_command(
    tmp_path: Path, kind: str, timeout: str
) -> None:
    limits = "TimeoutStartSec=60\nRuntimeMaxSec=2m\n"
    (job,) = read(tmp_path, TIMER, f"{SERVICE}Type={kind}\n{limits}").jobs
    assert job.fields["timeout"] == timeout


def test_units_that_mean_something_else_are_refused(tmp_path: Path) -> None:
    start = "ExecStart=/bin/true\n"
    cases = [
        (TIMER, f"[Service]\n{start}User=root\n", "User="),
        (TIMER, f"[Service]\n{start}EnvironmentFile=/etc/a\n", "EnvironmentFile="),
        (TIMER, f"[Unit]\nConditionACPower=true\n[Service]\n{start}", "ConditionACPower="),
        (TIMER, f"[Service]\n{start}Type=forking\n", "forking"),
        (TIMER, "[Service]\nExecStart=+/bin/true\n", "begins with"),
        (TIMER, "[Service]\nExecStart=/bin/echo %i\n", "%i"),
        (TIMER, "[Service]\nExecStart=/bin/echo 'a\n", "quote"),
        (TIMER, "[Service]\nType=oneshot\n", "no ExecStart"),
        (TIMER, "[Service]\nExecStart=;\n", "no command"),
        (TIMER, f"[Service]\n{start}Environment=a;id=1\n", "no name"),
        (TIMER, "[Service]\nExecStart=/bin/tr", "not complete"),
        (TIMER, "", "is empty"),
        (TIMER, "ExecStart=/bin/true\n", "line 1"),
        ("[Timer]\nPersistent=true\n", SERVICE, "no OnCalendar"),
        ("[Timer]\nOnCalendar=daily\nPersistent=perhaps\n", SERVICE, "neither yes nor no"),
        ("[Timer]\nOnCalendar=daily\nOnBootSec=5min\n", SERVICE, "OnBootSec"),
        ("[Timer]\nOnCalendar=daily\nUnit=other.service\n", SERVICE, "not in its folder"),
        ("[Timer]\nOnCalendar=daily\nUnit=a@b.service\n", SERVICE, "no plain service"),
        ("[Timer]\nOnCalendar=daily\nUnit=../a.service\n", SERVICE, "no plain service"),
        ("[Timer]\nOnCalendar=daily\nRandomizedDelaySec=1M\n", SERVICE, "no duration"),
        ("[Timer]\nOnCalendar=daily\nRandomizedDelaySec=soon\n", SERVICE, "no duration"),
    ]
    for (timer, service, problem), trying in rows.each(cases):
        with trying, pytest.raises(InvalidInput, match=re.escape(problem)):
            read(tmp_path, timer, service)
    units(tmp_path)
    (tmp_path / "backup.service.d").mkdir()
    units(tmp_path, name="sound")
    source = systemd.read(tmp_path)
    assert [job.id for job in source.jobs] == ["sound.timer"]
    assert [(job.id, job.name) for job in source.refused] == [("backup.timer", "backup")]
    with pytest.raises(InvalidInput, match="systemctl cat"):
        checked(systemd.read(tmp_path))


def test_a_folder_has_all_timers_and_one_without_due_times_is_left_out(tmp_path: Path) -> None:
    units(tmp_path)
    units(tmp_path, name="report")
    units(tmp_path, "[Timer]\nOnBootSec=5min\nOnUnitActiveSec=1h\n", name="boot")
    source = systemd.read(tmp_path)
    assert [each.name for each in source.jobs] == ["backup", "report"]
    (note,) = source.notes
    assert "left out boot.timer: OnBootSec is no due time" in note
    assert "daybook add --every 1h" in note
    for path, problem in ((tmp_path / "backup.service", "no *.timer"), (tmp_path / "no", "no *.")):
        with pytest.raises(InvalidInput, match=re.escape(problem)):
            checked(systemd.read(path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"has no file \*\.timer"):
        systemd.read(tmp_path / "empty")


def test_a_comment_that_ends_in_a_backslash_does_not_swallow_the_next_line(
    tmp_path: Path,
) -> None:
    timer = "[Timer]\n# the old time was in C:\\\nOnCalendar=Mon 09:00\nOnCalendar=Tue 09:00\n"
    service = (
        "[Service]\n; C:\\\nEnvironment=DRY_RUN=1\nExecStart=/bin/echo a \\\n# between \\\n  b\n"
    )
    source = read(tmp_path, timer, service)
    assert sorted(job.fields["cron"] for job in source.jobs) == ["0 9 * * 1", "0 9 * * 2"]
    for job in source.jobs:
        assert "DRY_RUN" in job.fields["prompt"]
        assert run(job.fields["prompt"]) == ["a b"]


def test_two_backslashes_at_the_end_of_a_line_do_not_continue_it(tmp_path: Path) -> None:
    file = tmp_path / "a.timer"
    file.write_text("[Unit]\nDescription=C:\\\\\n[Timer]\nOnCalendar=daily\n")
    assert systemd._read_unit(file)["Timer"] == {"OnCalendar": ["daily"]}
