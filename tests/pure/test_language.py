"""The check of the language: it finds each word that the glossary replaces, and no plain one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tests import rows
from tests.conftest import REPOSITORY

REPLACED = (
    "the keeper mends it; a nursery; the zygote; it is told; who is told of it; whoever comes; "
    "it brings them into agreement; an idle session; the ladder; it climbs; the lead; it led; "
    "the book; this room; a door; it looks after them; it puts off a run; it is to be had; "
    "take it away or it takes away; let go of it; what became of it; it settles; the storm; "
    "hand it, it hands on; asked first; what was said before; the aftermath; the intake; a taker; "
    "it winds up; hurry; the sink; whom; the fence rises; the lane; the figures; a keeper pass; "
    "it tells no agent; it reaches nobody; Somebody asks; anybody may; everybody can"
)
PLAIN = (
    "Fix it; notify the recipients; the fencing token; the leader; its cycle; tell me; tell(1); "
    'unknown "nobody"; {{somebody}}; @everybody'
)


def test_each_word_that_the_glossary_replaces_is_found_and_no_other(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("language", REPOSITORY / ".ci" / "language.py")
    assert spec is not None
    assert spec.loader is not None
    language = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(language)
    page = tmp_path / "page.md"
    for sentence, trying in rows.each([each.strip() for each in REPLACED.split(";")]):
        with trying:
            page.write_text(sentence)
            assert list(language.found(page))
    page.write_text(PLAIN)
    assert list(language.found(page)) == []
