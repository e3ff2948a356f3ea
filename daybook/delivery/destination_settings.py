"""Settings of destinations.

The command line derives options from these settings, so the import of this module has to be fast.
Therefore each check imports its dependencies only when it runs.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, field_validator

from daybook.errors import InvalidInput
from daybook.markers import Marker
from daybook.signing_secrets import SIGNING_SECRET_FORMAT, signing_key

DEFAULT_TIMEOUT_SECONDS = 15.0
MAX_TIMEOUT_SECONDS = 45.0
"""Maximum timeout of a callback. The lease of an outbox row lasts longer."""
MAX_ATTEMPTS = 20
RETRY_DELAYS = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 30, 120, 600, 1800, 3600, 7200, 14400, 21600, 36000)
)
DEFAULT_ATTEMPTS = len(RETRY_DELAYS) + 1
"""Default maximum number of attempts. Together they take about a day."""


class DestinationSettings(BaseModel):
    """Settings of a destination."""

    model_config = ConfigDict(extra="ignore")

    url: Annotated[str, Marker(gets_secrets=True)] = Field(
        description="URL without a query. It also applies to every URL below it.",
    )
    secret: SecretStr = Field(
        description="Secret that signs callbacks: whsec_…, as in Standard Webhooks."
    )
    previous_secret: Annotated[SecretStr, Marker(is_internal=True)] = Field(
        default=SecretStr(""),
        description="Previous secret, which also signs callbacks during a rotation.",
    )
    previous_until: Annotated[AwareDatetime | None, Marker(is_internal=True)] = Field(
        default=None, description="End of the rotation. Empty: no rotation."
    )
    token: Annotated[str, Marker(names="secret")] = Field(
        default="",
        description="Name of a Daybook secret, bound to this host, to send as Authorization: "
        "Bearer. Empty: none.",
    )
    timeout: Annotated[float, Marker(syntax="seconds")] = Field(
        default=DEFAULT_TIMEOUT_SECONDS,
        ge=1,
        le=MAX_TIMEOUT_SECONDS,
        description="Timeout of each attempt, in seconds.",
    )
    tries: int = Field(
        default=DEFAULT_ATTEMPTS,
        ge=1,
        le=MAX_ATTEMPTS,
        description="Maximum number of attempts for a callback.",
    )

    @field_validator("url")
    @classmethod
    def _an_address(cls, value: str) -> str:
        from daybook.http.guard import Guard, Rule

        try:
            url = Guard(Rule.OPERATOR).check(value.strip())
        except InvalidInput as error:
            raise ValueError(f"{error.problem}; {error.hint}") from None
        if url.query or url.fragment:
            raise ValueError("contains a query or a fragment; remove it")
        return str(url)

    @field_validator("secret", "previous_secret")
    @classmethod
    def _a_secret(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        # In a list of documents, there are asterisks in place of the secret.
        if text.strip("*") and not signing_key(text):
            raise ValueError(f"is not a signing secret; {SIGNING_SECRET_FORMAT}")
        return value
