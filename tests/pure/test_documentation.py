"""README and the pages of the site: links from outside of the site, and no repetitions."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest
from docs import generate

from tests.conftest import REPOSITORY
from tests.e2e import test_documented

OUTSIDE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]  # MkDocs checks the links of the others
PAGES = [
    *OUTSIDE,
    *sorted(str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "docs").rglob("*.md")),
]
PLACE_IN_CODE = re.compile(r"`([\w/]+\.py):([\w.]+)`")
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
ADDED = re.compile(r"\b(?:agents|channels|secrets|tools) add [\w-]+|--name [\w-]+")


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs name them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_link_leads_to_a_page_and_a_heading(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", (REPOSITORY / name).read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        assert (REPOSITORY / path).exists(), target
        assert not anchor or anchor in _anchors(REPOSITORY / path), target


def test_no_paragraph_appears_twice() -> None:
    """Generated pages repeat short rows of tables, so only paragraphs are compared."""
    where = defaultdict(list)
    for name in PAGES:
        if name.startswith("docs/reference/"):
            continue
        for paragraph in FENCE.sub("", (REPOSITORY / name).read_text()).split("\n\n"):
            text = " ".join(paragraph.split())
            if len(text) > 60 and not text.startswith(("|", "#", "<!--", "--8<--")):
                where[text].append(name)
    assert {text: pages for text, pages in where.items() if len(pages) > 1} == {}


def test_pages_that_share_a_home_work_in_any_order() -> None:
    """`tests/e2e/test_documented.py` runs them in one home, where a name can be taken."""
    where, used = defaultdict(set), set[tuple[str, str]]()
    for page in test_documented.PAGES:
        for step in test_documented.steps_of(page):
            for added in ADDED.findall(step.command):
                where[added].add(page)
            if step.command.startswith("daybook add "):
                agents = re.findall(r" --agent ([\w-]+)", step.command)
                used |= {(page, f"agents add {agent}") for agent in agents}
    assert {added: pages for added, pages in where.items() if len(pages) > 1} == {}
    known = {(page, added) for added, pages in where.items() for page in pages}
    first = {added for page, added in known if page in test_documented.FIRST}
    assert {each for each in used - known if each[1] not in first} == set()
    assert used


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 130


def test_there_are_at_most_fifty_decision_notes_of_a_page(tmp_path: Path) -> None:
    for number in range(1, 51):
        note = tmp_path / f"{number:04}-title.md"
        note.write_text(f"# {number:04} Title\n" + "word " * 497)
    assert list(generate.read_notes(tmp_path).values())[1] == "- 0002 [Title](0002-title.md)"

    note.write_text(note.read_text() + " word")
    with pytest.raises(ValueError, match=r"^0050-title.md has 501 words; the maximum is 500$"):
        generate.read_notes(tmp_path)

    note.rename(tmp_path / "0051-title.md")
    note.write_text("# 0050 Title")
    (tmp_path / "0051-title.md").write_text("# 0051 Title")
    with pytest.raises(ValueError, match=r"^51 notes; merge or delete some until 50 are left$"):
        generate.read_notes(tmp_path)


def _defined_names(path: Path) -> set[str]:
    """Return a module's functions, classes, constants, and methods as `Class.method`."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign):
            names |= {each.id for each in node.targets if isinstance(each, ast.Name)}
        elif isinstance(node, definitions):
            names.add(node.name)
            if isinstance(node, ast.ClassDef):
                names |= {
                    f"{node.name}.{each.name}"
                    for each in node.body
                    if isinstance(each, definitions)
                }
    return names


def test_the_functions_that_the_pages_name_exist() -> None:
    places = {
        place for name in PAGES for place in PLACE_IN_CODE.findall((REPOSITORY / name).read_text())
    }
    assert ("runs/claims.py", "claim") in places
    for module, name in places:
        inside, outside = REPOSITORY / "daybook" / module, REPOSITORY / module
        path = inside if inside.exists() else outside
        assert path.exists(), module
        assert name in _defined_names(path), f"{module}:{name}"
