"""The home's signing secret: created once on first use, rotated without a gap."""

from __future__ import annotations

import stat
from datetime import timedelta

import pytest

from daybook.delivery import home_secret
from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.signing_secrets import signing_key
from tests import key_makers, side_by_side
from tests.unit.delivery.rows import NEW, NOON, OLD


def test_the_secret_is_created_on_first_use_and_stays(daybook_home: Home) -> None:
    made = home_secret.default_secret(daybook_home, NOON)
    assert len(signing_key(made)) == 32
    assert home_secret.default_secrets(daybook_home, NOON) == [made]
    file = daybook_home.path / "webhook-secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == f"{made}\n"
    assert [each.name for each in daybook_home.path.iterdir() if "webhook" in each.name] == [
        "webhook-secret"
    ]


def test_two_homes_have_different_secrets(daybook_home: Home) -> None:
    other = Home(daybook_home.path.parent / "other").make()
    assert home_secret.default_secret(other, NOON) != home_secret.default_secret(daybook_home, NOON)


def test_concurrent_processes_create_one_shared_secret(daybook_home: Home) -> None:
    found = side_by_side.at_once(key_makers.signing_secret, [(daybook_home, NOON)] * 4)
    assert set(found) == {home_secret.default_secret(daybook_home, NOON)}


def test_the_setting_takes_precedence_and_cannot_be_rotated(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_WEBHOOK_SECRET", OLD)
    assert home_secret.default_secrets(daybook_home, NOON) == [OLD]
    assert not daybook_home.webhook_secret.exists()
    with pytest.raises(InvalidInput, match="DAYBOOK_WEBHOOK_SECRET"):
        home_secret.rotate_default(daybook_home, NOON)


def test_after_a_rotation_both_secrets_are_valid_for_a_day(daybook_home: Home) -> None:
    old = home_secret.default_secret(daybook_home, NOON)
    new = home_secret.rotate_default(daybook_home, NOON)
    before, after = NOON + timedelta(hours=23, minutes=59), NOON + timedelta(hours=24)
    assert home_secret.default_secrets(daybook_home, before) == [new, old]
    assert home_secret.default_secrets(daybook_home, after) == [new]
    assert stat.S_IMODE(daybook_home.webhook_secret.stat().st_mode) == 0o600

    with pytest.raises(InvalidInput, match="still valid"):
        home_secret.rotate_default(daybook_home, before)
    assert home_secret.default_secrets(daybook_home, before) == [new, old]
    newest = home_secret.rotate_default(daybook_home, after)
    assert home_secret.default_secrets(daybook_home, after) == [newest, new]


def test_a_rotation_that_keeps_nothing_ends_the_old_secret_at_once(daybook_home: Home) -> None:
    home_secret.default_secret(daybook_home, NOON)
    home_secret.rotate_default(daybook_home, NOON)
    new = home_secret.rotate_default(daybook_home, NOON, keep=timedelta(0))
    assert home_secret.default_secrets(daybook_home, NOON) == [new]


@pytest.mark.parametrize(
    "text",
    ["", "s3cr3t-but-none\n", "whsec_c2hvcnQ=\n", f"{OLD} 2026-01-15T12:00:00+00:00\n",
     f"{NEW}\n{OLD} tomorrow\n", f"{NEW}\n{OLD} 2026-01-15T12:00:00\n"],
    ids=["empty", "none", "short", "only an old one", "no time", "a time without a zone"],
)  # fmt: skip
def test_a_file_without_a_valid_secret_is_refused_and_not_quoted(
    daybook_home: Home, text: str
) -> None:
    daybook_home.webhook_secret.write_text(text)
    with pytest.raises(InvalidInput, match="holds no signing secret") as refused:
        home_secret.default_secrets(daybook_home, NOON)
    assert "s3cr3t" not in str(refused.value) and OLD not in str(refused.value)
    assert daybook_home.webhook_secret.read_text() == text
