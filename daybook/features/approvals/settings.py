"""The setting of the links in questions about approvals."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, Field

from daybook import settings


class ApprovalLinks(StrEnum):
    """What a person needs to decide by the link in a question: only the link, or also a login."""

    SIGNED = "signed"
    LOGIN = "login"


class ApprovalSettings(BaseModel):
    """The setting of approvals."""

    approval_links: ApprovalLinks = Field(
        default=ApprovalLinks.SIGNED,
        description="How a person decides by the link in a question on a channel: `signed` (anyone "
        "with the link can decide, once, until the deadline) or `login` (the link opens the page "
        "of the run, which needs a login). Without a `public_url`, questions have no link.",
    )


def load() -> ApprovalSettings:
    """Return the settings of this process; raise the errors of `daybook.settings.load`."""
    return settings.part(ApprovalSettings)
