"""Bounded reading and decompression of response bodies.

The limit counts bytes after decompression. Each decompression step returns at most the bytes that
are still missing, plus one. So a small response that expands to a huge body costs no more than any
other response.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterator
from email.message import Message

import httpx

ACCEPT_ENCODING = "gzip"
"""The value of the `Accept-Encoding` header of each `daybook.http.request.request`."""

_WINDOWS = {
    "gzip": zlib.MAX_WBITS | 16,
    "x-gzip": zlib.MAX_WBITS | 16,
    "deflate": zlib.MAX_WBITS | 32,
}


MAX_CONTENT_TYPE_CHARACTERS = 1_000

_CHARSETS = re.compile(
    r"ascii|utf-(8|16|32)|iso8859-|cp\d|koi8-|mac-|gb|big5|euc_|shift_jis|iso2022_"
)
"""Beginnings of the names of Python's codecs for the charsets of web pages.

Python has other codecs; some of them (`punycode`, `idna`) need quadratic time, so they are not
used.
"""


class BoundedBody:
    """The first ``limit`` bytes of a decompressed body that arrives in parts.

    ``cut`` is the reason why the body is incomplete. It is empty while no part is known to be
    missing.
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
        """Add the next part. Return False if no more parts are needed."""
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
        # Stop here, because compressed bytes that expand to nothing could arrive forever.
        if self._zlib is not None and self._raw > 2 * self._limit + 1024:
            self._cut()
        return not self.cut

    def end(self) -> None:
        """Record that all parts have arrived.

        If the end of the compressed data is missing, set ``cut``.
        """
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
            if self._zlib.eof:  # the other bytes are another gzip member, or padding
                part = part.lstrip(b"\0")
                if not part:
                    return
                self._zlib = zlib.decompressobj(self._window)
            # Request one byte more than fits, to distinguish a longer body from one that fits
            # exactly.
            yield self._zlib.decompress(part, self._limit - len(self._kept) + 1)
            part = self._zlib.unconsumed_tail or self._zlib.unused_data


def decode_text(body: bytes, headers: httpx.Headers) -> str:
    """Decode ``body`` with the charset of the headers; if the charset is unknown, as UTF-8.

    A charset is known if `_CHARSETS` matches it. Undecodable bytes become U+FFFD.
    """
    message = Message()
    # Shorten the value, because a charset may itself be encoded with any codec.
    message["content-type"] = headers.get("content-type", "")[:MAX_CONTENT_TYPE_CHARACTERS]
    try:
        codec = codecs.lookup(message.get_content_charset("utf-8")).name
    except (LookupError, ValueError):
        codec = "utf-8"
    return body.decode(codec if _CHARSETS.match(codec) else "utf-8", errors="replace")
