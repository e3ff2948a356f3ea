"""The page of the floor: each row has a test or a reason, each marker a row."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs import floor

from tests.conftest import REPOSITORY

TITLE = 'title = "A scheduler"\n'
ROW = '[24]\nworks = ["runs now"]\n'
SHOWS = '@pytest.mark.floor("B", "runs now")\ndef test_a_job_runs_now(): ...\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a repository whose system B has one row, which a test shows."""
    for folder in ("docs", "tests/floor", "tests/unit"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "docs" / "requirements.md").write_text("23. A timeout.\n24. Run now.\n")
    for system in "acde":
        (tmp_path / "tests" / "floor" / f"{system}.toml").write_text(TITLE)
    write_rows(tmp_path, ROW)
    write_tests(tmp_path, SHOWS)
    return tmp_path


def write_rows(root: Path, text: str) -> None:
    (root / "tests" / "floor" / "b.toml").write_text(TITLE + text)


def write_tests(root: Path, text: str) -> None:
    (root / "tests" / "unit" / "test_jobs.py").write_text(f"import not_installed\n\n{text}")


def refused(root: Path) -> list[str]:
    with pytest.raises(ValueError) as caught:
        floor.page(root)
    first, *problems = str(caught.value).splitlines()
    assert first == "docs/floor.md cannot be written:"
    return problems


def test_the_page_of_the_repository_is_up_to_date() -> None:
    """If the page differs, `make docs` writes it."""
    assert (REPOSITORY / "docs" / "floor.md").read_text() == floor.page()


def test_a_row_has_its_test_or_its_reason(root: Path) -> None:
    write_rows(
        root, '[24]\nworks = ["runs now"]\n[24.differs]\n"runs | twice" = "once is enough"\n'
    )
    write_tests(root, f"class TestRun:\n    {SHOWS.replace('def', '    def')}\n")
    page = floor.page(root)
    name = "tests/unit/test_jobs.py::test_a_job_runs_now"
    assert f"| 24 | runs now | works: `{name}` |" in page
    assert "| 24 | runs \\| twice | differs: once is enough |" in page
    assert "| [B](#b) | A scheduler | 2 | 1 | 1 |" in page


def test_rows_are_in_the_order_of_their_requirements(root: Path) -> None:
    write_rows(root, f'{ROW}[23.differs]\n"never ends" = "it is ended"\n')
    page = floor.page(root)
    assert page.index("never ends") < page.index("runs now")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            f'{ROW}[23]\nworks = ["ends"]\n',
            'b.toml: "ends" has no test and no reason (mark the test that shows it)',
        ),
        (
            '[24.differs]\n"runs now" = "later"\n',
            'b.toml: "runs now" differs, but tests/unit/test_jobs.py::test_a_job_runs_now shows '
            "that it works",
        ),
        ("", 'test_jobs.py::test_a_job_runs_now: tests/floor/b.toml has no row "runs now"'),
        (f'{ROW}[23.differs]\n"ends" = " "\n', 'b.toml: "ends" differs without a reason'),
        (f'{ROW}[23]\nworks = ["runs now"]\n', 'b.toml: "runs now" appears twice'),
        (f'{ROW}[25]\nworks = ["ends"]\n', "b.toml: docs/requirements.md has no requirement 25"),
        (f'{ROW}partly = ["ends"]\n', "b.toml: 24.partly: unknown key (use works or differs)"),
    ],
)
def test_a_wrong_row_is_an_error(root: Path, text: str, problem: str) -> None:
    write_rows(root, text)
    assert any(each.endswith(problem) for each in refused(root)), problem


MISPLACED = 'test_jobs.py:3: write @pytest.mark.floor("B", "the behaviour") above a test'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('@pytest.mark.floor("B", name)\ndef test_it(): ...\n', MISPLACED),
        ('@pytest.mark.floor("F", "runs now")\ndef test_it(): ...\n', MISPLACED),
        ('@pytest.mark.floor("BC", "runs now")\ndef test_it(): ...\n', MISPLACED),
        ('@pytest.mark.floor("runs now")\ndef test_it(): ...\n', MISPLACED),
        ('@pytest.mark.floor("B", "runs now", why="x")\ndef test_it(): ...\n', MISPLACED),
        ("@pytest.mark.floor\ndef test_it(): ...\n", MISPLACED),
        ('pytestmark = pytest.mark.floor("B", "runs now")\n', MISPLACED),
        ('@pytest.mark.floor("B", "runs now")\ndef helper(): ...\n', MISPLACED),
        (
            f"@pytest.mark.skipif(True, reason='later')\n{SHOWS}",
            "test_jobs.py::test_a_job_runs_now: a test that may not pass shows nothing",
        ),
    ],
)
def test_a_wrong_marker_is_an_error(root: Path, text: str, problem: str) -> None:
    write_tests(root, text)
    assert any(each.endswith(problem) for each in refused(root)), problem


def test_a_system_without_a_title_is_an_error(root: Path) -> None:
    (root / "tests" / "floor" / "c.toml").write_text("")
    assert refused(root) == ["tests/floor/c.toml: title is missing"]
