"""Program that converts HTML to Markdown, with limits on its memory and CPU time.

A hostile page needs gigabytes, or minutes, for its conversion. So `html_text` runs this file as a
program of its own, without Daybook's packages: ``python -I -S convert_html.py PACKAGES BASE``. It
reads the HTML from standard input, and prints a JSON object with `text`, `title`, `meta` (the
elements `meta` by name), `links` (pairs of address and text) and `is_cut`.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

MAX_MEMORY_BYTES = 1_500_000_000
MAX_CPU_SECONDS = 10
MAX_TEXT_CHARACTERS = 500_000
MAX_FIELDS = 200
MAX_FIELD_CHARACTERS = 1_000
"""With these limits, the output has at most 4 MiB, of which `html_text` reads no more."""


def main() -> None:
    """Convert standard input. The system ends the program if it exceeds a limit."""
    packages, base = sys.argv[1:]
    for limit, most in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_CPU, MAX_CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    sys.path.insert(0, packages)
    html = sys.stdin.buffer.read().decode(errors="replace")
    found = json.dumps(converted(html, base), ensure_ascii=False)
    sys.stdout.buffer.write(found.encode(errors="replace"))


def converted(html: str, base: str) -> dict[str, Any]:
    """Return the parts of a page at the address ``base``; its links are absolute."""
    from html_to_markdown import ConversionOptions, PreprocessingOptions, convert

    options: dict[str, Any] = {
        "base_url": base or None,
        "skip_images": True,
        "preprocessing": PreprocessingOptions(remove_navigation=False, remove_forms=False),
    }
    # With metadata, the text begins with a block that cannot be distinguished from the page's own.
    text = convert(html, ConversionOptions(**options, extract_metadata=False)).content or ""
    found = convert(html, ConversionOptions(**options)).metadata
    document = getattr(found, "document", None)
    links = [(each.href, each.text) for each in getattr(found, "links", [])[:MAX_FIELDS]]
    meta = list((getattr(document, "meta_tags", None) or {}).items())[:MAX_FIELDS]
    return {
        "text": text[:MAX_TEXT_CHARACTERS],
        "is_cut": len(text) > MAX_TEXT_CHARACTERS,
        "title": (getattr(document, "title", None) or "")[:MAX_FIELD_CHARACTERS],
        "meta": {name[:100]: value[:100] for name, value in meta},
        "links": [[each[:MAX_FIELD_CHARACTERS] for each in link] for link in links],
    }


if __name__ == "__main__":
    main()
