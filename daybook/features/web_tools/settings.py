"""The settings of the tools for the web."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator

from daybook import settings


class WebSettings(BaseModel):
    """The settings of the tools for the web."""

    web_search_url: str = Field(
        default="",
        description="Address of a SearXNG server's search, such as http://127.0.0.1:8888/search, "
        "which the tool `web.search` uses instead of other services. The server's setting "
        "`search.formats` has to contain json.",
    )

    @field_validator("web_search_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("is no address; write http://host/search")
        if parts.username is not None or parts.fragment:
            raise ValueError("contains a password or a #; write http://host/search")
        return value


def load() -> WebSettings:
    """Return the settings of this process; raise the errors of `daybook.settings.load`."""
    return settings.part(WebSettings)
