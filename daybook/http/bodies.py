"""Bounded reading and decompression of response bodies.

Bytes are counted after decompression, and no decompression step produces more bytes than are
still needed, so a small response that expands to a huge one costs no more than a small one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from email.message import Message

import httpx

ACCEPT_ENCODING = "gzip"
"""The value of the `Accept-Encoding` header."""

_WINDOWS = {
    "gzip": zlib.MAX_WBITS | 16,
    "x-gzip": zlib.MAX_WBITS | 16,
    "deflate": zlib.MAX_WBITS | 32,
}


class BoundedBody:
    """The first ``limit`` bytes of a body that arrives in parts.

    ``cut`` is the reason why the body is incomplete, or empty while nothing is known to be missing.
    """

    def __init__(self, headers: httpx.Headers, limit: int) -> None:
        self.cut = ""
        self._kept = bytearray()
        self._limit = limit
        self._raw = 0
        encodings = [
            each.strip().lower() for each in headers.get("content-encoding", "").split(",")
        ]
        encodings = [each for each in encodings if each not in ("", "identity")]
        self._window = _WINDOWS.get(encodings[0]) if len(encodings) == 1 else None
        self._zlib = None if self._window is None else zlib.decompressobj(self._window)
        if encodings and self._zlib is None:
            self.cut = f"encoded as {', '.join(encodings)[:60]}, which Daybook did not request"

    def __bytes__(self) -> bytes:
        return bytes(self._kept)

    def add(self, part: bytes) -> bool:
        """Add the next part; return false if no more parts are wanted."""
        if self.cut:
            return False
        self._raw += len(part)
        try:
            for plain in self._plain(part):
                room = self._limit - len(self._kept)
                self._kept += plain[:room]
                if len(plain) > room:
                    self._cut()
                    return False
        except zlib.error:
            self.cut = "compressed, but the data is invalid"
            return False
        # Compressed bytes that expand to nothing could arrive for ever.
        if self._zlib is not None and self._raw > 2 * self._limit + 1024:
            self._cut()
        return not self.cut

    def end(self) -> None:
        """Record that no more parts come."""
        if self._zlib is not None and not self.cut and self._raw and not self._zlib.eof:
            self.cut = "compressed, but its end is missing"

    def _cut(self) -> None:
        self.cut = f"longer than the limit of {self._limit:,} bytes"

    def _plain(self, part: bytes) -> Iterator[bytes]:
        if self._zlib is None:
            yield part
            return
        assert self._window is not None
        while part:
            if self._zlib.eof:  # the rest is another gzip member, or padding
                part = part.lstrip(b"\0")
                if not part:
                    return
                self._zlib = zlib.decompressobj(self._window)
            # One byte more than fits distinguishes a longer body from one that fits exactly.
            yield self._zlib.decompress(part, self._limit - len(self._kept) + 1)
            part = self._zlib.unconsumed_tail or self._zlib.unused_data


def decode_text(body: bytes, headers: httpx.Headers) -> str:
    """Decode ``body`` by the charset in the headers, or as UTF-8.

    Undecodable bytes become U+FFFD.
    """
    message = Message()
    message["content-type"] = headers.get("content-type", "")
    try:
        return body.decode(message.get_content_charset("utf-8"), errors="replace")
    except (LookupError, ValueError):
        return body.decode(errors="replace")
