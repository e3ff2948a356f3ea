"""Settings of hooks.

The command line derives its options from these settings, so the import of this module has to be
fast. Therefore a check imports its dependencies only when it runs.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, model_validator

from daybook.errors import InvalidInput
from daybook.features.hooks.filters import Filter
from daybook.features.hooks.signatures import MIN_SECRET_LENGTH, SCHEMES, SchemeName
from daybook.markers import Marker
from daybook.signing_secrets import SIGNING_SECRET_FORMAT
from daybook.validation import raising_pydantic_error

DEFAULT_RATE = 600
MAX_RATE = 100_000
MAX_FILTERS = 20


class HookSettings(BaseModel):
    """Settings of a hook."""

    model_config = ConfigDict(extra="ignore")

    job: Annotated[str, Marker(names="job")] = Field(
        min_length=1, description="Job that a request starts; in Prefect's UI, its id."
    )
    scheme: SchemeName = Field(
        default="standard",
        description="How requests are signed: standard (Standard Webhooks), github or stripe.",
    )
    secret: SecretStr = Field(description="Secret that signs the requests.")
    previous_secret: Annotated[SecretStr, Marker(is_internal=True)] = Field(
        default=SecretStr(""),
        description="Previous secret, which is also valid during a rotation.",
    )
    previous_until: Annotated[AwareDatetime | None, Marker(is_internal=True)] = Field(
        default=None, description="End of the rotation. Empty: no rotation."
    )
    filters: Annotated[list[str], Marker(option="filter")] = Field(
        default_factory=list,
        max_length=MAX_FILTERS,
        description="Conditions such as action == opened. If the payload does not fit one of them, "
        "no run starts.",
    )
    rate: int = Field(
        default=DEFAULT_RATE,
        ge=1,
        le=MAX_RATE,
        description="Maximum number of runs that the hook starts within a minute.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        with raising_pydantic_error():
            for each in self.filters:
                Filter.parse(each)
            for secret in (self.secret, self.previous_secret):
                check_secret(self.scheme, secret.get_secret_value())
        return self


def check_secret(scheme: SchemeName, secret: str) -> None:
    """Raise `InvalidInput` if ``secret`` does not have the form of the scheme's secrets."""
    # If a document was read without its secrets, it has asterisks in place of the secret.
    if not secret.strip("*") or SCHEMES[scheme].is_secret(secret):
        return
    own = f"use one line of at least {MIN_SECRET_LENGTH} characters"
    hint = SIGNING_SECRET_FORMAT if scheme == "standard" else own
    raise InvalidInput("secret", f"is not a secret of the scheme {scheme}", hint)
