"""Attachments of a message: their choice, names and types, and the note on the other files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybook.delivery import attachments
from daybook.delivery.attachments import (
    MAX_ATTACHED_BYTES,
    MAX_ATTACHED_FILES,
    MAX_NAME_LENGTH,
    WrittenFile,
)

RUN = "4f0c2a91d3e7aa00"
SAVE = "\nTo save them: daybook files 4f0c2a91d3e7 --save FOLDER"


def test_each_file_that_is_not_attached_is_named_with_the_reason() -> None:
    files = [
        WrittenFile("a/report.md", b"one"),
        WrittenFile("b/report.md", b"two"),
        WrittenFile("key.txt", None, "it contains a secret"),
        WrittenFile("gone.txt", None),
        WrittenFile("big.bin", b"x" * MAX_ATTACHED_BYTES),
        WrittenFile("empty\nfile", b""),
    ]
    attached, note = attachments.choose(files, RUN)
    assert [(each.name, each.content) for each in attached] == [
        ("report.md", b"one"),
        ("report-2.md", b"two"),
    ]
    assert note == (
        "Files that are not attached: key.txt (it contains a secret); "
        "gone.txt (its content is no longer kept); "
        "big.bin (a message carries at most 2,097,152 bytes); empty file (it is empty)" + SAVE
    )


def test_without_a_kept_file_the_note_names_no_command() -> None:
    attached, note = attachments.choose([WrittenFile("key.txt", None, "it contains a secret")], RUN)
    assert attached == ()
    assert note == "Files that are not attached: key.txt (it contains a secret)"
    assert attachments.choose([], RUN) == ((), "")


def test_a_channel_without_files_and_a_message_with_too_many_files_name_a_few() -> None:
    files = [WrittenFile(f"{number}.txt", b"x") for number in range(MAX_ATTACHED_FILES + 9)]
    attached, note = attachments.choose(files, RUN, refused="why not")
    assert attached == ()
    listed = "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 24 more"
    assert note == f"Files that are not attached: {listed} (why not){SAVE}"
    attached, note = attachments.choose(files, RUN)
    assert len(attached) == MAX_ATTACHED_FILES
    assert "20.txt, 21.txt, 22.txt, 23.txt, 24.txt and 4 more (" in note


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("out/../../etc/Übersicht.md", "Übersicht.md"),
        ('a"; filename="b.exe', "a_; filename=_b.exe"),
        ("a\r\nBcc: me\u202egpj.exe", "a__Bcc_ me_gpj.exe"),
        ("C:\\x\\y.txt", "C__x_y.txt"),
        (".env", "env"),
        ("..", "file"),
        ("x" * 300 + ".tar.gz", "x" * 77 + ".gz"),
    ],
)
def test_a_name_has_no_folder_and_no_character_of_a_header(path: str, name: str) -> None:
    [attached], _ = attachments.choose([WrittenFile(path, b"x")], RUN)
    assert attached.name == name


@given(st.lists(st.text(max_size=120), max_size=MAX_ATTACHED_FILES))
def test_names_are_different_short_and_printable(paths: list[str]) -> None:
    attached, _ = attachments.choose([WrittenFile(each, b"x") for each in paths], RUN)
    names = [each.name for each in attached]
    assert len(set(names)) == len(paths)
    for name in names:
        assert name.isprintable()
        assert 0 < len(name) <= MAX_NAME_LENGTH + len("-20")
        assert not set(name) & set('"\\/<>:|?*')


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.md", "text/markdown"),
        ("a.csv", "text/csv"),
        ("a.PNG", "image/png"),
        ("a.pdf", "application/pdf"),
        *(
            (f"a.{each}", "application/octet-stream")
            for each in ("html", "svg", "js", "exe", "sh", "xhtml", "csv.gz", "unknown", "")
        ),
    ],
)
def test_programs_and_pages_with_scripts_are_only_bytes(name: str, kind: str) -> None:
    assert attachments.content_type(name) == kind
