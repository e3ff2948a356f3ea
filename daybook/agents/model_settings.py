"""Settings of a model agent, as the operator writes them into its block."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from daybook.agents import base
from daybook.agents.capabilities import Capabilities


class Options(BaseModel):
    """The keys of the field ``options``, with pydantic-ai's names; omitted keys are not sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    seed: int | None = None
    presence_penalty: float | None = Field(default=None, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, allow_inf_nan=False)
    stop_sequences: list[str] | None = None
    thinking: bool | Literal["minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None


class ModelSettings(BaseModel):
    """Which model a model agent asks, and how. The operator sets all fields, never an agent."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        title="Model",
        description=(
            "Provider and model name, such as openai:…, anthropic:… or google:…; any provider of "
            "pydantic-ai. With a base URL, a name alone is an OpenAI-compatible model at that "
            "address."
        ),
        examples=["openai:gpt-6-luna", "anthropic:claude-haiku-5-5", "google:gemini-3.8-flash"],
    )
    base_url: str = Field(
        default="",
        validate_default=True,
        title="Base URL",
        description=(
            "Address of the API, including its version, such as http://127.0.0.1:11434/v1. Empty: "
            "the provider's own. With openai:… Daybook requests chat completions."
        ),
    )
    api_key: SecretStr = Field(
        default=SecretStr(""),
        title="API key",
        description=(
            "Empty: the key in the provider's usual environment variable of the worker, such as "
            "OPENAI_API_KEY. Daybook never sends that key to a base URL."
        ),
    )
    system_prompt: str = Field(
        default="",
        title="System prompt",
        description="Sent with every request, before the conversation.",
        json_schema_extra={"format": "textarea"},
    )
    options: dict[str, Any] = Field(
        default={},
        title="Options",
        description=(
            "A JSON object with any of: " + ", ".join(Options.model_fields) + ". Omitted options "
            "have the provider's defaults."
        ),
        examples=[{"temperature": 0.2, "max_tokens": 2000}],
    )
    tools: list[str] = Field(
        default=[],
        title="Tools",
        description=(
            "Tools that the model may call, one entry each: a tool server's name for all of its "
            "tools, server.tool or server.get_* for some, the name of a Python tool, and daybook "
            "or daybook.cron_list for Daybook's own. The model cannot call other tools."
        ),
        examples=[["search", "calendar.list_*", "daybook"]],
    )
    request_limit: int = Field(
        default=0,
        ge=0,
        title="Request limit",
        description=(
            "Maximum requests for one answer. 0 uses the default: 1, or 50 if the agent has tools. "
            "Daybook sends more than one only if the model calls tools."
        ),
    )
    input_price: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        title="Input price",
        description="US dollars per million input tokens. Both prices 0: the price table's.",
    )
    output_price: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        title="Output price",
        description="US dollars per million output tokens. Both prices 0: the price table's.",
    )
    capabilities: Capabilities = []

    @field_validator("model")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value or any(letter.isspace() for letter in value):
            raise ValueError("write the provider and the model's name, such as openai:gpt-6-luna")
        return value

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            model = info.data.get("model", ":")
            if ":" not in model:
                raise ValueError(
                    f'is missing, and the model "{model}" has no provider; write the provider '
                    f"before the name, such as openai:{model}"
                )
            return value
        try:
            parts = urlsplit(value)
            legal = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            legal = False
        if not legal:
            raise ValueError("is not an address that begins with http:// or https://")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(
                "cannot contain a user, a password or a query; store a key as the API key"
            )
        return value

    @field_validator("api_key")
    @classmethod
    def _header(cls, value: SecretStr) -> SecretStr:
        if not all("!" <= letter <= "~" for letter in value.get_secret_value()):
            raise ValueError(
                "contains a character that no key has, such as a space or a line break"
            )
        return value

    @field_validator("tools")
    @classmethod
    def _nameable(cls, value: list[str]) -> list[str]:
        return base.check_tool_entries(value)

    @field_validator("options")
    @classmethod
    def _sendable(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            return Options.model_validate(value).model_dump(exclude_none=True)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "options"
            legal = ", ".join(Options.model_fields)
            raise ValueError(f"{name}: {first['msg']}; the options are {legal}") from None
