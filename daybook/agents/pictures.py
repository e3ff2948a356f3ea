"""Pictures that a person sends with a prompt: their formats, their limits, and the note about each.

The prompt has a note about each of its pictures. So the history of a session says that there was a
picture, also when the picture is no longer kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from daybook.short_text import one_line

MAX_PICTURES = 4
"""Maximum number of pictures with one prompt."""
MAX_PICTURE_BYTES = 3_750_000
"""Maximum length of a picture: Anthropic's limit is 5 MiB in base64."""
MAX_EARLIER_PICTURES = 4
"""Maximum number of pictures of earlier prompts of a session that a model gets again."""
MAX_REQUEST_BYTES = 14_000_000
"""Length of all pictures of a request from which no earlier ones are added.

Gemini's limit of a request is 20 MB, Anthropic's 32 MB, both in base64.
"""
TOKENS = 1_600
"""Expected number of tokens of a picture."""

NOTE = "[picture: "
"""Beginning of a note."""
MAX_NAME_LENGTH = 80

_FORMATS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
}
CONTENT_TYPES = frozenset(_FORMATS)
"""The formats that the providers' protocols know."""


@dataclass(frozen=True)
class Picture:
    """A picture. ``content_type`` is one of `CONTENT_TYPES`, and that of its content.

    If it ``is_optional``, an agent that gets no pictures answers the prompt without it.
    """

    name: str
    content_type: str
    content: bytes = field(repr=False)
    is_optional: bool = False

    @property
    def note(self) -> str:
        return f"{NOTE}{self.name}]"

    @property
    def suffix(self) -> str:
        """Return the suffix of a file with this content, without a dot."""
        return _FORMATS[self.content_type]


def content_type_of(content: bytes) -> str:
    """Return the content type by the first bytes; "" for another format. It decodes nothing."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if content.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    is_webp = content.startswith(b"RIFF") and content[8:12] == b"WEBP"
    return "image/webp" if is_webp else ""


def name_of(given: str) -> str:
    """Return the name of a picture as a note contains it, without a folder, such as `photo.jpg`."""
    name = given.replace("\\", "/").rpartition("/")[2]
    kept = "".join(each for each in name if each.isprintable() and each not in "[]{}")
    return one_line(kept, MAX_NAME_LENGTH) or "picture"
