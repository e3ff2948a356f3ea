"""Pictures: their format by the first bytes, and names without a path."""

from __future__ import annotations

from daybook.agents.pictures import MAX_NAME_LENGTH, Picture, content_type_of, name_of
from tests import pictures


def test_the_first_bytes_say_the_format_and_nothing_else_does() -> None:
    assert content_type_of(pictures.PNG) == "image/png"
    assert content_type_of(pictures.JPEG) == "image/jpeg"
    assert content_type_of(pictures.GIF) == "image/gif"
    assert content_type_of(pictures.WEBP) == "image/webp"
    for other in (b"", pictures.NONE, b"RIFF\x10\x00\x00\x00WAVE", b"%PDF-1.7", b"<svg/>", b"GIF8"):
        assert content_type_of(other) == ""


def test_a_name_has_no_path_and_cannot_end_a_note() -> None:
    assert name_of("../../etc/photo.jpg") == "photo.jpg"
    assert name_of("C:\\pictures\\photo.jpg") == "photo.jpg"
    assert name_of("a]\n[b{{last_output}}.png") == "ablast_output.png"
    assert name_of("..") == ".."
    assert name_of("\0") == name_of("") == "picture"
    assert len(name_of("x" * 1_000)) <= MAX_NAME_LENGTH
    assert Picture("photo.jpg", "image/jpeg", b"").note == "[picture: photo.jpg]"
