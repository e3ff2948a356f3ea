"""Work directory of a job: which folders the setting allows, and why one cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daybook.errors import InvalidInput
from daybook.processes import locations
from tests.rows import each

SETTING = "DAYBOOK_ALLOWED_WORK_DIRS"


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the home of a user, with folders in it and beside it."""
    home = tmp_path / "home"
    (home / "repo").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (home / "inside").symlink_to(home / "repo")
    (home / "outside").symlink_to(tmp_path / "other")
    (home / "notes").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv(SETTING, raising=False)
    return home


def test_a_folder_in_the_users_home_is_allowed_and_its_links_are_resolved(user: Path) -> None:
    assert locations.job_folder("") == ""
    rows = [("~", ""), ("~/repo", "repo"), ("~/inside", "repo"), (f"{user}/repo/../repo/", "repo")]
    for (written, expected), trying in each(rows):
        with trying:
            assert locations.job_folder(written) == str(user.resolve() / expected)


def test_the_setting_replaces_the_users_home(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = user.parent / "other"
    monkeypatch.setenv(SETTING, f"~/repo, {other}")
    assert locations.job_folder("~/outside") == str(other.resolve())
    with pytest.raises(InvalidInput, match=f"use a folder in ~/repo, {other}, or let"):
        locations.job_folder("~")
    monkeypatch.setenv(SETTING, "")
    with pytest.raises(InvalidInput, match=r"outside the allowed folders \(let the operator add"):
        locations.job_folder("~/repo")


def test_a_folder_that_cannot_be_used_is_refused_with_its_reason(user: Path) -> None:
    other = user.parent / "other"
    rows = [
        ("~/none", f"{user}/none does not exist on this machine (create it, or use another folder"),
        ("~/notes", f"{user}/notes is not a folder (use a folder)"),
        ("~/outside", f"{user}/outside leads to {other.resolve()}, which is outside the allowed"),
        ("~/repo/../../other", f"leads to {other.resolve()}, which is outside the allowed folders"),
        (str(other), f"{other} is outside the allowed folders (use a folder in ~, or let the"),
        (f"{user}2", f"{user}2 is outside the allowed folders"),
        ("~nobody-of-this-name/x", "is outside the allowed folders"),
    ]
    for (written, problem), trying in each(rows):
        with trying:
            with pytest.raises(InvalidInput) as refused:
                locations.job_folder(written)
            assert refused.value.field == "work_dir"
            assert problem in str(refused.value)


def test_a_folder_that_is_not_writable_is_refused(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # root may do all
    with pytest.raises(InvalidInput, match=r"~?/repo is not writable by this user"):
        locations.job_folder("~/repo")
