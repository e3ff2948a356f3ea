"""The reader of crontabs, and the shell scripts that its jobs become."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from daybook.errors import InvalidInput
from daybook.features.imports import crontab, shell
from daybook.features.imports.source import SourceJob
from daybook.jobs.model import new_job
from tests import rows
from tests.unit.features.imports import files
from tests.unit.features.imports.files import utc


def read(text: str) -> tuple[SourceJob, ...]:
    return crontab.read_text("crontab", text.encode()).jobs


def run(prompt: str) -> str:
    """Return what the shell prints, started as the agent starts it."""
    command = shell.SETTINGS["command"]
    return subprocess.run(command, input=prompt, capture_output=True, text=True, check=True).stdout


def test_a_line_with_its_zone_and_variables(tmp_path: Path) -> None:
    source = crontab.read(files.crontab(tmp_path))
    (job,) = source.jobs
    assert job.name == "report"
    assert job.fields == {
        "agent": "shell",
        "session": "new",
        "prompt": "export GREETING='good morning'\n~/bin/report.sh --team \"$TEAM\"  # for all",
        "cron": "0 9 * * 1-5",
        "timeout": "24h",
        "retries": 0,
        "catch_up": "none",
        "enabled": True,
        "timezone": "Europe/Berlin",
    }
    assert source.notes == (
        "cron mailed what the commands print to ops@example.org: set --channel",
    )


def test_a_variable_holds_for_the_lines_after_it() -> None:
    text = "A=1\n@daily echo\nA=2\nCRON_TZ=UTC\nHOME=/srv\n@daily echo\nCRON_TZ=\n@daily echo\n"
    first, second, third = read(text)
    assert first.fields["prompt"] == "export A=1\necho"
    assert "timezone" not in first.fields
    assert second.fields["prompt"] == "export A=2\nexport HOME=/srv\ncd /srv || exit 1\necho"
    assert second.fields["timezone"] == "UTC"
    assert "timezone" not in third.fields


def test_values_are_read_as_cron_reads_them() -> None:
    cases = {
        'A=" padded "': " padded ",
        "A = bare words ": "bare words",
        "A='it is $HOME'": "it is $HOME",
        'A="b': '"b',
        "A=": "",
        "'A'=quoted": "quoted",
        "A=b=c # d": "b=c # d",
    }
    for (line, wanted), trying in rows.each(list(cases.items())):
        with trying:
            (job,) = read(f'{line}\n@daily printf "%s" "$A"\n'.replace("%", "\\%"))
            assert run(job.fields["prompt"]) == wanted


def test_every_schedule_of_cron_is_one_of_daybook() -> None:
    cases = {
        "@hourly": "@hourly",
        "@Daily": "@daily",
        "@midnight": "@midnight",
        "@weekly": "@weekly",
        "@monthly": "@monthly",
        "@annually": "@annually",
        "*/5 * * * *": "*/5 * * * *",
        "0\t9 \t1,15 * *": "0 9 1,15 * *",
        "0 0 * jan-mar sun": "0 0 * jan-mar sun",
        "0 22 * * 7": "0 22 * * 7",
    }
    for (expr, wanted), trying in rows.each(list(cases.items())):
        with trying:
            (job,) = read(f"{expr} true\n")
            made = new_job(
                now=utc("2026-11-26T00:00:00"),
                default_timezone="UTC",
                name="a",
                **job.fields,
            )
            assert getattr(made.schedule, "expr", "") == wanted
            assert job.disabled_reason == ""


def test_days_that_cron_joins_otherwise_are_disabled() -> None:
    for (expr, is_same), trying in rows.each(
        [("0 0 13 * 5", True), ("0 0 */2 * 1", False), ("0 0 1 * */2", False), ("0 0 * * 1", True)]
    ):
        with trying:
            (job,) = read(f"{expr} true\n")
            assert (job.disabled_reason == "") == is_same
            assert len(job.notes) == (not is_same)


def test_the_shell_does_what_cron_does_with_a_line() -> None:
    """The right column is what `sh -c` prints for the command with that standard input."""
    cases = {
        "echo a; echo b": "a\nb\n",
        "cat": "",
        "cat; echo end": "end\n",
        "cat%one%two": "one\ntwo\n",
        "cat%one%two%": "one\ntwo\n",
        "cat -%": "",
        r"cat%100\%%END": "100%\nEND\n",
        r"cat % padded": " padded\n",
        r"cat%\a\\b": "\\a\\\\b\n",
        r"echo 5\%": "5%\n",
        r"printf '\%s' 'a\b'": "a\\b",
        "(exit 0) && { read x; echo $x; }%y": "y\n",
        "echo '$HOME' # comment": "$HOME\n",
        "cat # comment%x": "x\n",
    }
    for (line, wanted), trying in rows.each(list(cases.items())):
        with trying:
            (job,) = read(f"@daily {line}\n")
            assert run(job.fields["prompt"]) == wanted
            (other,) = read(f"SHELL=/bin/bash\n@daily {line}\n")
            assert run(other.fields["prompt"]) == wanted


def test_another_shell_gets_the_command() -> None:
    (job,) = read("SHELL=/bin/bash\n@daily echo ${BASH_VERSION:+bash} {a,b}\n")
    assert run(job.fields["prompt"]) == "bash a b\n"


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("dump --password=hunter2", ["--password"]),
        ("dump --db-password hunter2", ["--db-password"]),
        ("dump -token 'hunter2'", ["-token"]),
        ("API_KEY=hunter2 dump", ["API_KEY"]),
        ("curl -s https://ann:hunter2@example.org/x", ["https://"]),
        ("curl -u ann:hunter2 https://example.org", ["-u"]),
        ("curl -H 'Authorization: Bearer hunter2' https://example.org", ["Authorization"]),
        ("mysqldump -uann -phunter2 shop", ["-p"]),
        ("sshpass -p hunter2 scp a b:", ["-p"]),
        ("x --secret hunter2 && y --secret hunter3 --api-key hunter4", ["--secret", "--api-key"]),
        ('dump --password=$PASSWORD --token "$(cat /etc/token)" --password-file /etc/p', []),
        ("curl -u ann -H 'Authorization: Bearer $TOKEN' https://example.org:80/a@b", []),
        ("mysql -p shop; mkdir -p a; ssh -p 22 host; rsync --passive --keep x", []),
    ],
)
def test_the_names_of_secrets_in_a_command_are_found(line: str, names: list[str]) -> None:
    (job,) = read(f"@daily {line}\n")
    assert shell.names_of_secrets(job.fields["prompt"]) == names


def test_secrets_are_left_out_and_the_job_is_disabled() -> None:
    (job,) = read("DB_PASSWORD=hunter2\nLEVEL=1\nEMPTY_TOKEN=\n@daily dump\n")
    assert job.fields["prompt"] == "export LEVEL=1\nexport EMPTY_TOKEN=''\ndump"
    assert job.disabled_reason == shell.SECRET_REASON
    assert "left out DB_PASSWORD" in job.notes[0]
    assert "hunter2" not in repr(job)


def test_a_line_is_recognised_by_what_it_says() -> None:
    text = "0 9 * * * a\n0 9 * * * a\n0 10 * * * a\n"
    ids = [job.id for job in read(text)]
    assert len(set(ids)) == 3
    assert ids[1] == f"{ids[0]}-2"
    moved = "# new\nLANG=C\n0 10 * * *   a\n" + "0  9 * * * a\n"
    assert [job.id for job in read(moved)] == [ids[2], ids[0]]
    assert read("CRON_TZ=UTC\n0 9 * * * a\n")[0].id != ids[0]


def test_broken_crontabs_are_refused_with_their_line(tmp_path: Path) -> None:
    cases: list[tuple[bytes, str]] = [
        (b"", "crontab: is empty"),
        (b"\n \n", "crontab: is empty"),
        (b"0 9 * * * a\n# b", "line 2: is not complete: the line does not end"),
        (b"0 9 * * * a\nB=1", "line 2: is not complete: the line does not end"),
        (b"0 9 * * * \xff\n", "line 1: is not UTF-8"),
        (b"0 9 * * * a\0b\n", "is not a text"),
        (b"# x\n@reboot start\n", "line 2: @reboot is no due time.*systemctl --user enable"),
        (b"@fortnightly a\n", "line 1: @fortnightly is unknown"),
        (b"0 9 * * *\n", "line 1: has no command"),
        (b"@daily\n", "line 1: has no command"),
        (b"0 9 backup\n", "line 1: has no command"),
        (b"\n2A=b\n", "line 2: '2A' is not the name of a variable"),
    ]
    for (content, problem), trying in rows.each(cases):
        with trying, pytest.raises(InvalidInput, match=problem) as refused:
            crontab.read_text("crontab", content)
        assert "nothing was imported" in str(refused.value)
    assert crontab.read_text("crontab", b"# nothing yet\n").jobs == ()


def test_the_name_of_a_job_is_that_of_its_script_without_options() -> None:
    cases = {
        "mysqldump -u bob -phunter2secret shop > /tmp/d.sql": "mysqldump",
        "/opt/scripts/notes/create_daily_note.py": "create_daily_note",
        "/usr/bin/ruby /opt/scripts/notes/bump_link.rb": "bump_link",
        "php -f /var/www/app/cron.php": "cron",
        "cd /srv/app && ./bin/sync.sh --token hunter2": "sync",
        "PGPASSWORD=hunter2 pg_dump shop": "pg_dump",
        "env TOKEN=hunter2 nice -n 5 /opt/b.sh": "b",
        "flock -n /tmp/hunter2.lock /opt/backup.sh": "backup",
        "sudo -u hunter2 /opt/backup.sh": "backup",
        "timeout -k 5 30 curl -s https://u:hunter2@h/x": "curl",
        "bash -c 'dump -phunter2'": "command",
        "echo 'hunter2; hunter2'": "echo",
        "$HOME/hunter2 -x": "hunter2",
        "flock -n /tmp/l -c 'curl https://h/hunter2'": "command",
        "sudo -p hunter2 -C 3 /opt/backup.sh": "backup",
        "timeout -s KILL 1h backup.sh": "backup",
        "PASS='a; hunter2 b' pg_dump shop": "pg_dump",
        "PASS=$(echo hunter2 | base64) pg_dump shop": "command",
        "PASS=`echo hunter2 x` pg_dump shop": "command",
        "PASS='a; hunter2 pg_dump shop": "command",
        "node -p hunter2.length": "command",
        "java -jar /opt/sync.jar --key hunter2": "sync",
    }
    for (command, name), trying in rows.each(list(cases.items())):
        with trying:
            (job,) = read(f"@daily {command}\n")
            assert job.name == name
            assert "hunter2" not in job.name or name == "hunter2"


def test_the_comment_above_names_a_job_whose_script_is_not_clear() -> None:
    for (comment, name), trying in rows.each(
        [
            ("# Nightly backup", "nightly-backup"),
            ("# 0 5 * * * dump -phunter2", "command"),
            ("#PASSWORD=hunter2", "command"),
            ("# m h dom mon dow command", "command"),
            ("# Nightly\nA=1", "command"),
        ]
    ):
        with trying:
            (job,) = read(f"{comment}\n@daily sh -c 'dump'\n")
            assert job.name == name


def test_a_random_time_of_cronie_is_one_time_that_stays() -> None:
    for (expr, field, allowed), trying in rows.each(
        [
            ("0~59 3 * * *", 0, range(60)),
            ("~ 3 * * *", 0, range(60)),
            ("30~ 3 * * *", 0, range(30, 60)),
            ("0 1~4 * * *", 1, range(1, 5)),
            ("0 3 ~ * *", 2, range(1, 32)),
        ]
    ):
        with trying:
            (job,), (again,) = read(f"{expr} a.sh\n"), read(f"# new\n{expr} a.sh\n")
            assert int(job.fields["cron"].split()[field]) in allowed
            assert job == replace(again, where=job.where)
            assert job.notes == (
                f"cron chose a random time for each ~; here the schedule is always "
                f"{job.fields['cron']!r}",
            )
    (job,) = read("40~10 3 * * * a.sh\n")
    assert job.fields["cron"] == "40~10 3 * * *"  # the writer refuses it as invalid


def test_the_job_of_a_last_line_without_a_line_break_is_disabled() -> None:
    first, last = read("@daily a\n0 4 * * * /opt/b/backup.sh")
    assert last.fields["prompt"] == "/opt/b/backup.sh"
    assert (last.disabled_reason, last.notes) == (
        crontab.UNFINISHED_REASON,
        (crontab.UNFINISHED_NOTE,),
    )
    assert (first.disabled_reason, first.notes) == ("", ())


@pytest.mark.parametrize(
    "line", ["17 * * * * root cd / && run-parts /etc/cron.hourly", "@daily www-data php -f x.php"]
)
def test_a_line_that_names_a_user_is_refused_in_any_file(line: str) -> None:
    with pytest.raises(InvalidInput, match=r"line 2: names the user .*crontab -l -u USER"):
        read(f"SHELL=/bin/sh\n{line}\n")
    assert read("@daily root -b -q x.C\n@daily www-data\n")


def test_a_crontab_of_the_system_names_users() -> None:
    with pytest.raises(InvalidInput, match="crontab -l -u USER"):
        crontab.read(Path("/etc/cron.d/anything"))
