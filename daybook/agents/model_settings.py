"""Settings of a model agent, as the operator writes them into its block."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from daybook.agents import base
from daybook.agents.base import Capabilities
from daybook.json_text import JsonObject
from daybook.markers import Marker
from daybook.policies.compression import HistoryTokens, SummarizeAfterMessages, SummarizeAfterTokens


class Options(BaseModel):
    """The keys of the field ``options``, named as in pydantic-ai; omitted keys are not sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    temperature: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="Sampling temperature."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="Maximum number of tokens per answer."
    )
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    seed: int | None = None
    presence_penalty: float | None = Field(default=None, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, allow_inf_nan=False)
    stop_sequences: list[str] | None = None
    thinking: bool | Literal["minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None


class ModelSettings(BaseModel):
    """Settings of a model agent. Only the operator sets them, never an agent."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        title="Model",
        description=(
            "Provider and model, such as openai:…, anthropic:… or google:…; any provider that "
            "pydantic-ai supports. With a base URL, a name without a provider is an "
            "OpenAI-compatible model at that URL."
        ),
        examples=["openai:gpt-6-luna", "anthropic:claude-haiku-5-5", "google:gemini-3.8-flash"],
    )
    base_url: Annotated[str, Marker(gets_secrets=True)] = Field(
        default="",
        validate_default=True,
        title="Base URL",
        description=(
            "URL of the API, including its version, such as http://127.0.0.1:11434/v1. If empty, "
            "the provider's own. With openai:…, Daybook uses the chat completions API there."
        ),
    )
    api_key: Annotated[SecretStr, Marker(option="key")] = Field(
        default=SecretStr(""),
        title="API key",
        description=(
            "API key. If empty, Daybook uses the worker's environment variable for the "
            "provider, such as OPENAI_API_KEY, but never sends that key to a base URL."
        ),
    )
    system_prompt: Annotated[str, Marker(is_long=True)] = Field(
        default="",
        title="System prompt",
        description="Instructions sent with every request, before the session's messages.",
        json_schema_extra={"format": "textarea"},
    )
    options: JsonObject = Field(
        default={},
        title="Options",
        description=(
            "A JSON object with any of: " + ", ".join(Options.model_fields) + ". The provider's "
            "defaults apply to omitted options."
        ),
        examples=[{"temperature": 0.2, "max_tokens": 2000}],
    )
    tools: Annotated[list[str], Marker(option="tool")] = Field(
        default=[],
        title="Tools",
        description=(
            "Tools that the model may call, one entry each: a word for tools of Daybook such as "
            "web or files, or daybook for those that schedule; a tool server's name; word.tool or "
            "server.get_* for some of them; a Python tool's name. It can call no other tool."
        ),
        examples=[["search", "calendar.list_*", "daybook"]],
    )
    # A plain boolean in the schema, so that Prefect's form shows one field.
    stream: Annotated[bool | None, WithJsonSchema({"type": "boolean"})] = Field(
        default=None,
        title="Stream",
        description=(
            "Whether the pages show the answer while the model writes it. If not set, only the "
            "provider's own API streams, and no server at a base URL, whose streams may be "
            "incorrect. Under a token limit or a budget, no server at a base URL streams."
        ),
    )
    pictures: Annotated[bool | None, WithJsonSchema({"type": "boolean"})] = Field(
        default=None,
        title="Pictures",
        description=(
            "Whether the model gets the pictures that people send in chats. If not set, only the "
            "provider's own API gets them, and no server at a base URL, which may ignore them."
        ),
    )
    request_limit: int = Field(
        default=0,
        ge=0,
        title="Request limit",
        description=(
            "Maximum number of requests for one answer; 0 means 1, or 50 if the agent has tools. "
            "Daybook sends more than one only if the model calls tools."
        ),
    )
    input_price: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        title="Input price",
        description=(
            "US dollars per million input tokens. If both prices are 0, the built-in price table "
            "applies."
        ),
    )
    output_price: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        title="Output price",
        description=(
            "US dollars per million output tokens. If both prices are 0, the built-in price table "
            "applies."
        ),
    )
    summarize_after_messages: SummarizeAfterMessages = 0
    summarize_after_tokens: SummarizeAfterTokens = 0
    history_tokens: HistoryTokens = 0
    capabilities: Capabilities = []

    @field_validator("model")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value or any(letter.isspace() for letter in value):
            raise ValueError(
                "is empty or contains a space; use provider:name, such as openai:gpt-6-luna"
            )
        return value

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            model = info.data.get("model", ":")
            if ":" not in model:
                raise ValueError(
                    f'is missing, and the model "{model}" has no provider; put the provider '
                    f"before the name, such as openai:{model}"
                )
            return value
        if any(letter.isspace() for letter in value):
            raise ValueError("contains a space; remove it")
        try:
            parts = urlsplit(value)
            legal = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            legal = False
        if not legal:
            raise ValueError("is not a URL that begins with http:// or https://")
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
                "contains a character that is not allowed in a key, such as a space or a line break"
            )
        return value

    @field_validator("tools")
    @classmethod
    def _nameable(cls, value: list[str]) -> list[str]:
        return base.check_tool_entries(value)

    @field_validator("options")
    @classmethod
    def _sendable(cls, value: JsonObject) -> JsonObject:
        try:
            return Options.model_validate(value).model_dump(exclude_none=True)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "options"
            legal = ", ".join(Options.model_fields)
            raise ValueError(f"{name}: {first['msg']}; the options are {legal}") from None
