"""Settings from environment variables and the configuration file, and refused values."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from daybook import feature, settings
from daybook.errors import InvalidInput
from daybook.home import Home, current_home
from daybook.operations import ledger_setting


@pytest.mark.parametrize(
    "address",
    [
        "sqlite+aiosqlite:///ledger.db",
        "sqlite+aiosqlite:///~/ledger.db",
        "sqlite+aiosqlite:///:memory:",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///file:ledger?mode=memory&uri=true",
        "sqlite:////ledger.db",
        "postgresql+psycopg://localhost/ledger",
        "postgresql://localhost",
        "postgresql://localhost/",
        "postgresql://localhost/a/b",
        "mysql://localhost/ledger",
        "/ledger.db",
        "sqlite+aiosqlite:////what?/ledger.db",
    ],
)
def test_an_incomplete_or_unsupported_ledger_address_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", address)
    with pytest.raises(InvalidInput, match="absolute path") as refused:
        settings.load()
    assert refused.value.field == "DAYBOOK_LEDGER_URL"


def test_the_ledger_address_may_be_unset_or_an_absolute_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    assert settings.load().ledger_address == f"sqlite+aiosqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", f"sqlite+aiosqlite:///{tmp_path}/other.db")
    assert settings.load().ledger_address == f"sqlite+aiosqlite:///{tmp_path}/other.db"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("postgresql://localhost/book", "postgresql+asyncpg://localhost/book"),
        ("postgres://a:b%2Fc@db:5433/book", "postgresql+asyncpg://a:b%2Fc@db:5433/book"),
        ("postgresql+asyncpg://a@db/book", "postgresql+asyncpg://a@db/book"),
        ("postgresql:///book?host=/run/pg", "postgresql+asyncpg:///book?host=/run/pg"),
        (
            "postgresql://a@db/book?x=1&sslmode=verify-full",
            "postgresql+asyncpg://a@db/book?x=1&ssl=verify-full",
        ),
    ],
)
def test_common_forms_of_a_postgresql_address_are_accepted(
    given: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LEDGER_URL", given)
    assert settings.load().ledger_address == meant


@pytest.mark.floor("E", "An invalid value in the configuration file is refused")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("timezone = \n", ["is not valid TOML", "line 1"]),
        ("timezone = 'UTC\xff'\n", ["is not valid TOML"]),
        (
            "zone = 'UTC'\n",
            [
                "unknown settings: zone",
                "known: alert_channel, allow_shell, allowed_hosts, allowed_work_dirs,",
            ],
        ),
        ("[daybook]\ntimezone = 'UTC'\n", ["unknown settings: daybook", "known: alert_channel, "]),
        ("home = '/elsewhere'\n", ["unknown settings: home", "known: alert_channel, "]),
        ("timezone = 'Mars/Olympus'\n", ["timezone: unknown time zone", "Europe/Berlin"]),
        ("timezone = 'Factory'\n", ["timezone: unknown time zone", "Europe/Berlin"]),
        ("timezone = 'GMT+2'\n", ["timezone: unknown time zone", "Etc/GMT-2"]),
        ("max_concurrent = 0\n", ["max_concurrent: ", "greater than or equal to 1"]),
        ("allowed_hosts = ['a', 5]\n", ["allowed_hosts: 5 is no entry"]),
        ("allowed_work_dirs = ['/a, /b']\n", ["allowed_work_dirs: '/a, /b' is no entry"]),
    ],
)
def test_an_error_in_the_configuration_file_names_the_file(
    content: str, words: list[str], daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "DAYBOOK_TIMEZONE",
        "DAYBOOK_MAX_CONCURRENT",
    ):  # a variable would take precedence over the file
        monkeypatch.delenv(name, raising=False)
    file = daybook_home.path / "config.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(InvalidInput) as refused:
        settings.load()
    assert refused.value.field == str(file)
    for each in words:
        assert each in str(refused.value)


@pytest.mark.floor("E", "The settings are in a configuration file")
def test_an_environment_variable_takes_precedence_over_the_file(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (daybook_home.path / "config.toml").write_text("timezone = 'Asia/Tokyo'\nmax_concurrent = 7\n")
    monkeypatch.delenv("DAYBOOK_TIMEZONE", raising=False)
    assert (settings.load().timezone, settings.load().max_concurrent) == ("Asia/Tokyo", 7)
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "UTC")
    assert (settings.load().timezone, settings.load().max_concurrent) == ("UTC", 7)


@pytest.mark.parametrize("home", ["", "relative", "~/below"])
def test_the_ledger_is_in_the_home_that_all_processes_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("DAYBOOK_HOME", home)
    found = settings.load()
    assert found.home == current_home().path
    assert found.ledger_address == f"sqlite+aiosqlite:///{current_home().path}/ledger.db"
    assert found.home.is_absolute()


def test_a_folder_in_place_of_the_configuration_file_is_refused(daybook_home: Home) -> None:
    (daybook_home.path / "config.toml").mkdir()
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        settings.load()


@pytest.mark.floor("C", "At most four jobs run at a time by default")
def test_the_limit_of_concurrent_runs_is_four_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().max_concurrent == 4
    monkeypatch.setenv("DAYBOOK_MAX_CONCURRENT", "20")
    assert settings.load().max_concurrent == 20


@pytest.mark.parametrize("limit", ["0", "-1", "many", ""])
def test_a_limit_of_concurrent_runs_below_one_is_refused(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_MAX_CONCURRENT", limit)
    with pytest.raises(InvalidInput) as refused:
        settings.load()
    assert refused.value.field == "DAYBOOK_MAX_CONCURRENT"


@pytest.mark.parametrize(
    "value",
    [
        "",
        " , ",
        "intranet.example.org, 10.0.0.5,10.0.0.0/8",
        "localhost",
        "::1, [fd00::1], fd00::/8",
        "a_b.example., xn--bcher-kva.example",
    ],
)
def test_allowed_hosts_may_be_names_addresses_and_networks(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOWED_HOSTS", value)
    assert settings.load().allowed_hosts == value


@pytest.mark.parametrize(
    "entry",
    [
        "http://intranet.example.org",
        "intranet.example.org:8080",
        "intranet.example.org/path",
        "*.example.org",
        "10.0.0.1/8",
        "10.0.0",
        "010.0.0.1",
        "300.1.1.1",
        "[::1]:80",
        "fe80::1%eth0/64",
        "bücher.example",
        "a..example",
        "two names",
        "a" * 64,
    ],
)
def test_an_invalid_allowed_host_is_refused_and_named(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOWED_HOSTS", f"10.0.0.5, {entry}")
    with pytest.raises(InvalidInput, match="is not a host") as refused:
        settings.load()
    assert refused.value.field == "DAYBOOK_ALLOWED_HOSTS"
    assert f'"{entry}"' in str(refused.value)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("allowed_hosts", ["intranet.example", "10.0.0.0/8"]),
        ("allowed_work_dirs", ["/a", "~/b"]),
        ("ping_findings", ["late", "disk"]),
        ("execution_off", ["webhook", "tool-call"]),
        ("plugins", ["own.tools", "own.more"]),
    ],
)
def test_a_setting_with_several_entries_may_be_a_list_in_the_file(
    name: str, given: list[str], daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"DAYBOOK_{name.upper()}", raising=False)
    (daybook_home.path / "config.toml").write_text(f"{name} = {given}\n")
    assert settings.entries(getattr(settings.load(), name)) == given
    (daybook_home.path / "config.toml").write_text(f"{name} = []\n")
    assert settings.entries(getattr(settings.load(), name)) == []


def test_a_relative_folder_for_work_dirs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOWED_WORK_DIRS", "~/a, /b")
    assert settings.load().work_dir_roots == ["~/a", "/b"]
    monkeypatch.setenv("DAYBOOK_ALLOWED_WORK_DIRS", "/b, repos")
    with pytest.raises(InvalidInput, match='DAYBOOK_ALLOWED_WORK_DIRS: "repos" is relative; use'):
        settings.load()


@pytest.mark.parametrize(
    ("before", "url", "after"),
    [
        ("", "postgresql://u@h/d", 'ledger_url = "postgresql://u@h/d"\n'),
        ("# a\n[limits]\n", "x", 'ledger_url = "x"\n# a\n[limits]\n'),
        ('a = 1\n  ledger_url="y" # z\nb = 2\n', "x", 'ledger_url = "x"\na = 1\nb = 2\n'),
        ('ledger_url = "y"\nb = "ä"', "", 'b = "ä"'),
    ],
)
def test_the_address_of_the_ledger_is_replaced_and_other_lines_stay(
    tmp_path: Path, before: str, url: str, after: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(before)
    ledger_setting.set_ledger_url(file, url)
    assert file.read_text() == after
    assert [each.name for each in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    "text", ['ledger_url = """\ny"""\n', 'b = """\nledger_url = 1\n"""\n', '"ledger_url" = "y"\n']
)
def test_a_settings_file_of_another_form_stays_as_it_is(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match="write it on one line"):
        ledger_setting.set_ledger_url(file, "x")
    assert file.read_text() == text


def test_a_key_of_a_feature_that_is_left_out_stops_nothing(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (daybook_home.path / "config.toml").write_text('greeting = "hello"\nmax_light = 3\n')
    with pytest.raises(InvalidInput, match="unknown settings: greeting"):
        settings.load()
    monkeypatch.setitem(feature.failures, "greetings", "ModuleNotFoundError")
    assert settings.load().max_light == 3


class _Required(BaseModel):
    greeting: str


class _Taken(BaseModel):
    timezone: str = ""


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (object(), "this is no pydantic model"),
        (_Required, "greeting: a setting needs a default"),
        (_Taken, "timezone: a setting has this name already"),
    ],
)
def test_settings_of_a_feature_that_would_stop_every_command_are_left_out(
    part: object, why: str
) -> None:
    assert settings._unsuitable(part, {"timezone"}) == why


# --- the settings that were loaded last


def test_settings_are_read_again_only_after_a_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    file = tmp_path / "config.toml"
    first = settings.load()
    assert settings.load() is first
    file.write_text("max_concurrent = 5\n")
    second = settings.load()
    assert (second.max_concurrent, settings.load()) == (5, second)
    file.write_text("max_concurrent = 6\n")  # of the same length
    assert settings.load().max_concurrent == 6
    monkeypatch.setenv("DAYBOOK_MAX_CONCURRENT", "7")
    assert settings.load().max_concurrent == 7
    monkeypatch.delenv("DAYBOOK_MAX_CONCURRENT")
    assert settings.load().max_concurrent == 6
    file.unlink()
    assert settings.load() == first


def test_an_invalid_change_is_an_error_until_it_is_repaired(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    file = tmp_path / "config.toml"
    before = settings.load()
    file.write_text("max_concurrent = -1\n")
    for _ in range(2):
        with pytest.raises(InvalidInput, match="max_concurrent"):
            settings.load()
    file.unlink()
    assert settings.load() == before


def test_given_values_are_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    assert settings.load(max_concurrent=9).max_concurrent == 9
    assert settings.load().max_concurrent != 9
