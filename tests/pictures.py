"""Beginnings of pictures, which have their formats' first bytes and decode to nothing."""

from __future__ import annotations

import base64
from typing import Any

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(64))
GIF = b"GIF89a" + bytes(8)
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 " + bytes(8)
NONE = b"<html>no picture</html>"


def sent_to_model(body: dict[str, Any]) -> list[bytes]:
    """Return the pictures in the request of a model's protocol, in their order.

    The protocols are OpenAI's chat completions, and Anthropic's messages.
    """
    found = list[bytes]()
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "image_url":
                _, _, encoded = part["image_url"]["url"].partition(";base64,")
                found.append(base64.b64decode(encoded))
            elif part["type"] == "image":
                assert part["source"]["type"] == "base64"
                found.append(base64.b64decode(part["source"]["data"]))
    return found
