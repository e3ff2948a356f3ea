"""Patches: what git writes is read back exactly, whatever the files and their names contain."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from daybook.features.repositories import patches
from daybook.features.repositories.patches import PatchLine, changed_parts, parse, side_by_side
from tests.unit.features.repositories.projects import at

pytestmark = pytest.mark.anyio

NAMES = (
    "plain.py",
    "with blank",
    "x b/y b/z",
    "b/a b/b",
    "trailing ",
    'quo"te',
    "back\\slash",
    "tab\there",
    "line\nbreak",
    "esc\x1b[31m",
    "ünïcode/漢字",
    "rtl\u202etxt",
    '"quoted"',
    "-dash",
    "--- a",
    "<b>&amp;",
)
CONTENTS = (
    b"one\ntwo\nthree\n",
    b"one\n2\nthree",
    b"one\r\ntwo\r\n",
    b"lone\rcr and \x0c and \x0b and \xe2\x80\xa8 and \xc2\x85\n",
    b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n",
    b"-- minus\n++ plus\n\\ No newline at end of file\n",
    b"-\n+\n \n\n\n",
    "esc \x1b[2J bidi \u202e zero \u200b\n".encode(),
    b"",
    "… (longer)".encode(),
)


def between(project: Path, before: str, after: str) -> str:
    """Return the patch as `checkouts` makes it."""
    settings = ("-c", "core.quotePath=false", "-C", str(project))
    words = ("diff-tree", "-r", "--no-color", "--patch", "--find-renames", before, after)
    done = subprocess.run(["git", *settings, *words], capture_output=True, check=True)
    return done.stdout.decode()


def commit(project: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(content)
    at(project, "add", "-A")
    at(project, "commit", "-qm", "change")
    return at(project, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    at(tmp_path, "init", "-q", "-b", "main")
    return tmp_path


def sides(file: patches.FilePatch) -> tuple[bytes, bytes]:
    """Return the content before and after the change; all lines of a file are in its patch."""
    old, new = b"", b""
    for line in (line for each in file.hunks for line in each.lines):
        text = line.text.encode() + b"\n" * line.has_newline
        old += text if line.sign != "+" else b""
        new += text if line.sign != "-" else b""
    return old, new


def test_each_file_that_git_compares_is_read_back(project: Path) -> None:
    old = {f"{name}{number}": CONTENTS[number % len(CONTENTS)] for number, name in enumerate(NAMES)}
    new = {
        f"{name}{number}": CONTENTS[(number + 3) % len(CONTENTS)]
        for number, name in enumerate(NAMES)
    }
    patch = between(project, commit(project, old), commit(project, new))

    parsed = parse(patch)

    assert not parsed.is_cut
    assert {each.path: sides(each) for each in parsed.files} == {
        name: (old[name], new[name]) for name in old
    }
    assert {each.status for each in parsed.files} == {"modified"}


def test_kinds_of_changes(project: Path) -> None:
    text = b"".join(b"%d\n" % each for each in range(30))
    files = {"old name": text, "gone b/b": b"x\n", "run": b"1\n", "blob a": b"\0\1", "empty b": b""}
    before = commit(project, files)
    (project / "old name").unlink()
    (project / "new b").mkdir()
    (project / "new b/name").write_bytes(text + b"more\n")
    (project / "gone b/b").unlink()
    (project / "empty b").unlink()
    (project / "run").chmod(0o755)
    (project / "link").symlink_to("target")
    after = commit(project, {"blob a": b"\0\2", "made a/a": b"y\n", "tool": b"x"})

    found = {each.path: each for each in parse(between(project, before, after)).files}

    assert {path: each.status for path, each in found.items()} == {
        "new b/name": "renamed",
        "gone b/b": "deleted",
        "empty b": "deleted",
        "run": "modified",
        "blob a": "modified",
        "made a/a": "added",
        "link": "added",
        "tool": "added",
    }
    assert found["new b/name"].old_path == "old name"
    assert [found["new b/name"].insertions, found["new b/name"].deletions] == [1, 0]
    assert [found["run"].old_mode, found["run"].new_mode] == ["100644", "100755"]
    assert [path for path, each in found.items() if each.is_binary] == ["blob a"]
    assert [path for path, each in found.items() if each.is_link] == ["link"]


def test_a_cut_patch_is_read_up_to_its_last_whole_line(project: Path) -> None:
    old = {f"{name}{number}": CONTENTS[0] for number, name in enumerate(NAMES)}
    new = {name: CONTENTS[6] for name in old}
    patch = between(project, commit(project, old), commit(project, new))
    whole = parse(patch).files
    for end in range(0, len(patch) - 1, 7):
        cut = parse(f"{patch[:end]}\n{patches.CUT_MARK}\n")
        assert cut.is_cut
        for each, complete in zip(cut.files, whole, strict=False):
            lines = [line for hunk in each.hunks for line in hunk.lines]
            all_lines = [line for hunk in complete.hunks for line in hunk.lines]
            for line, other in zip(lines, all_lines, strict=False):
                assert (line.sign, line.old, line.new, line.text) == (
                    other.sign,
                    other.old,
                    other.new,
                    other.text,
                )
        assert len(cut.files) <= len(whole)


def test_text_that_is_no_patch_has_no_files() -> None:
    for text in ("", "\n", "@@ -1 +1 @@\n+x\n", "--- a/x\n+++ b/x\n", f"{patches.CUT_MARK}\n"):
        assert parse(text).files == ()
    assert parse("diff --git a/x b/x\n@@ -9999999999 +1 @@\n+x\n").files[0].hunks == ()


def lines(*texts: str) -> list[PatchLine]:
    return [PatchLine(each[0], None, None, each[1:]) for each in texts]


def test_removed_lines_stand_beside_the_added_ones_that_follow_them() -> None:
    pairs = side_by_side(lines(" a", "-b", "-c", "+B", " d", "+e", "-f", "+g", "+h"))
    assert [(old and old.text, new and new.text) for old, new in pairs] == [
        ("a", "a"),
        ("b", "B"),
        ("c", None),
        ("d", "d"),
        (None, "e"),
        ("f", "g"),
        (None, "h"),
    ]


def words(old: str, new: str) -> tuple[list[str], list[str]]:
    before, after = changed_parts(old, new)
    return [old[a:b] for a, b in before], [new[a:b] for a, b in after]


def test_the_changed_words_of_a_pair() -> None:
    assert words("x = total(a)", "x = total(b)") == (["a"], ["b"])
    assert words("f(a, b)", "f(a, c, b)") == ([], ["c, "])
    assert words("if one and two and three:", "if 1 and two and 3:") == (
        ["one", "three"],
        ["1", "3"],
    )
    assert words("nothing in common", "another line of text") == ([], [])
    assert words("same", "same") == ([], [])
    assert words("  indented", "    indented") == (["  "], ["    "])


def test_a_long_changed_part_is_marked_as_one() -> None:
    old = "begin " + " ".join(f"a{each} x" for each in range(100)) + " end" * 200
    new = "begin " + " ".join(f"b{each} x" for each in range(100)) + " end" * 200
    before, after = changed_parts(old, new)
    assert len(before) == len(after) == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("uv.lock", True),
        ("web/package-lock.json", True),
        ("static/app.min.js", True),
        ("api/v1/service_pb2.py", True),
        ("node_modules/x/index.js", True),
        ("my_node_modules/x/index.js", False),
        ("daybook/locks.py", False),
        ("package.json", False),
        ("requirements.lock/readme.md", False),
    ],
)
def test_generated_files_are_known_by_their_names(path: str, expected: bool) -> None:
    assert patches.is_generated(path) is expected
