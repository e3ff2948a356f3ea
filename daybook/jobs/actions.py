"""Actions of jobs: an agent prompt, a webhook, a tool call or a heartbeat, one model per kind.

Each action returns the agents, tools, URLs and secrets that its runs use, and the texts that
describe it (`BaseAction`). To add a kind, write its model here (in `Kind`, `Action` and `ACTIONS`),
its flow `flows/<kind>.py`, and perhaps a module `execution/<kind>.py`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from daybook.errors import InvalidInput
from daybook.jobs import answer_schema, payloads, prompts
from daybook.jobs.action_fields import (
    DEFAULT_ORDERS_FILE,
    MAX_BODY_LENGTH,
    AgentName,
    Arguments,
    FallbackAgents,
    GateAgentName,
    HttpMethod,
    ModelName,
    OrdersFile,
    Prompt,
    SessionChoice,
    SessionKey,
    ToolName,
    Url,
    check_fallback_agents,
    check_json,
    check_session,
    is_address,
)
from daybook.json_text import JsonObject
from daybook.markers import Facts, Marker, Uses
from daybook.validation import STORED, raising_pydantic_error

DEFAULT_AGENT = "default"
"""Name of the agent of a job that names no agent."""

Kind = Literal["agent-prompt", "webhook", "tool-call", "heartbeat"]

OutputFormat = Literal["text", "json", "structured"]
"""Required format of an answer."""


Words: TypeAlias = tuple[str, ...]
"""Text in parts: Daybook's words and a user's text alternate, starting with Daybook's words."""


class BaseAction(BaseModel, ABC):
    """Base class of actions: which agents, tools and URLs a run uses, and how to show them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    opening: ClassVar[str]
    """The first words of `sentence`, by which `prefect.summary` recognises the sentence."""

    default_policy: ClassVar[Mapping[str, object]] = {}
    """Defaults of the kind's policy that differ from the defaults of `Policy`."""

    may_be_agents: ClassVar[bool] = True
    """Whether agents may own jobs of this kind; `jobs.limits` checks everything that they use."""

    ignores_user_jobs: ClassVar[bool] = False
    """Whether jobs of this kind run even if the setting `user_jobs` is false."""

    reads_prompt: ClassVar[bool] = False
    """Whether a run reads its prompt from a file, so that the prompt may use any variable."""

    has_own_command: ClassVar[bool] = False
    """Whether a separate command adds jobs of this kind, so that `add` has no options for them."""

    def agents(self) -> Uses:
        """Return the agents that the job's runs may ask."""
        return []

    def tools(self) -> Uses:
        """Return the tools that the job's runs call themselves."""
        return []

    def arguments(self) -> JsonObject:
        """Return the arguments of the tools that the job's runs call themselves."""
        return {}

    def urls(self) -> Uses:
        """Return the URLs that the job's runs request."""
        return []

    def own_call(self, payload: Any = None) -> tuple[str, JsonObject] | None:
        """Return name and arguments of the call that a run makes without an agent, or None.

        The field `approve` refers to this name. The arguments, for display, contain the run's
        ``payload``, and references instead of secrets.
        """
        return None

    def values_with_secrets(self) -> list[object]:
        """Return the values in which a run replaces references to secrets."""
        return []

    def uses_payload(self) -> bool:
        """Return whether a run uses the payload of the hook that requests it."""
        return False

    @abstractmethod
    def subject(self) -> str:
        """Return the text from which the job's default name is derived."""

    @abstractmethod
    def brief(self) -> tuple[str, str]:
        """Return a label and a short description, such as ``calls``, ``POST https://…``."""

    @abstractmethod
    def sentence(self) -> Words:
        """Describe the work of a run, without the queries of URLs, which may contain tokens."""

    def target(self) -> str:
        """Return the target of a run as it is in `sentence`, such as `tool search.reindex`."""
        words, name, *_ = self.sentence()
        _, _, noun = words.partition(" ")
        return f"{noun.removeprefix('the ')}{name}"

    @abstractmethod
    def sent(self) -> Facts:
        """Return the texts that a run sends to its target, with labels, the longest text last."""

    @abstractmethod
    def facts(self) -> Facts:
        """Return all fields of the action for `daybook show`, in reading order."""


WEBHOOK = "webhook"
"""The name of a webhook's request in entries of `approve`."""


class AgentPrompt(BaseAction):
    """Action of an `agent-prompt` job: ask an agent. The prompt is stored as the user wrote it."""

    opening = "Asks the agent "

    prompt: Annotated[
        Prompt,
        Marker(is_long=True, missing="write a prompt for the agent"),
    ] = Field(
        title="Prompt",
        description="Prompt for the agent. These variables are replaced: "
        f"{', '.join(prompts.in_braces(prompts.VARIABLES))}, {{{{output:JOB}}}}.",
    )
    agent: AgentName = DEFAULT_AGENT
    fallback_agents: FallbackAgents = ()
    model: ModelName = ""
    session: SessionChoice = "reuse"
    session_key: SessionKey = ""
    output_format: OutputFormat = Field(
        default="text",
        title="Output format",
        description="Required form of the answer: text, any JSON, or JSON that matches the output "
        "schema (structured).",
    )
    output_schema: JsonObject = Field(
        default_factory=dict,
        title="Output schema",
        description="JSON schema that a structured answer must match.",
    )

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> Self:
        with raising_pydantic_error():
            check_fallback_agents(self.agent, self.fallback_agents)
            check_session(self.session, self.session_key)
            if self.output_schema and self.output_format != "structured":
                hint = "set output_format to structured"
                raise InvalidInput("output_schema", "applies only to structured answers", hint)
            if self.output_format == "structured" and info.context is not STORED:
                check_json(self.output_schema, "output_schema", MAX_BODY_LENGTH)
                answer_schema.check(self.output_schema)
        return self

    def agents(self) -> Uses:
        return _asked_agents(self)

    def uses_payload(self) -> bool:
        return payloads.is_used(self.prompt)

    def subject(self) -> str:
        return self.prompt

    def brief(self) -> tuple[str, str]:
        return "asks", f"the agent {self.agent}"

    def sentence(self) -> Words:
        return self.opening, self.agent, ": ", self.prompt

    def sent(self) -> Facts:
        return [("Prompt", self.prompt)]

    def facts(self) -> Facts:
        schema = f", {json.dumps(self.output_schema)}" if self.output_schema else ""
        answer = "" if self.output_format == "text" else f"{self.output_format}{schema}"
        return [("prompt", self.prompt), *_asked_facts(self), ("answer", answer)]


def _asked_agents(action: AgentPrompt | Heartbeat) -> Uses:
    fallbacks = [("fallback_agents", name) for name in action.fallback_agents]
    return [("agent", action.agent), *fallbacks]


def _asked_facts(action: AgentPrompt | Heartbeat) -> Facts:
    return [
        ("agent", action.agent),
        ("fallback agents", ", ".join(action.fallback_agents)),
        ("model", action.model),
        ("session", action.session_key or action.session),
    ]


def _without_query(url: str) -> str:
    return url.partition("?")[0]


class Webhook(BaseAction):
    """Action of a `webhook` job: one HTTP request. A 2xx response is success."""

    opening = "Calls "
    default_policy = {"timeout": "30s", "retries": 0}  # a failed request may have had its effect

    url: Annotated[
        Url,
        Marker(
            option="webhook",
            is_checked=True,
            is_target=True,
            missing="write the URL to call",
            placeholder="https://example.org",
        ),
    ] = Field(title="URL", description="URL to call; a 2xx response counts as success.")
    method: HttpMethod = Field(default="POST", title="Method", description="HTTP method.")
    headers: Annotated[
        dict[str, str], Marker(option="header", syntax="header", is_checked=True)
    ] = Field(
        default_factory=dict,
        title="Headers",
        description="Request headers. Refer to a secret as {{secret:name}}.",
    )
    body: Annotated[str, Marker(syntax="text", is_long=True)] = Field(
        default="",
        max_length=MAX_BODY_LENGTH,
        title="Body",
        description="Request body; its type is JSON unless a Content-Type header says otherwise. "
        "{{payload}} is what the request to a hook sent.",
    )

    def urls(self) -> Uses:
        return [("url", self.url)]

    def own_call(self, payload: Any = None) -> tuple[str, JsonObject]:
        shown = {"method": self.method, "url": self.url, "headers": self.headers}
        return WEBHOOK, {**shown, "body": payloads.fill_body(self.body, payload)}

    def values_with_secrets(self) -> list[object]:
        return [self.headers]

    def uses_payload(self) -> bool:
        return payloads.is_used(self.body)

    def subject(self) -> str:
        return urlsplit(self.url).hostname or self.url

    def brief(self) -> tuple[str, str]:
        return "calls", f"{self.method} {self.url}"

    def sentence(self) -> Words:
        return self.opening, f"{self.method} {_without_query(self.url)}"

    def sent(self) -> Facts:
        return [("Request", self.sentence()[1]), ("Body", self.body)]

    def facts(self) -> Facts:
        return [self.brief(), ("headers", ", ".join(self.headers)), ("body", self.body)]


class ToolCall(BaseAction):
    """Action of a `tool-call` job: call a tool once, with exactly these parameters."""

    opening = "Calls the tool "
    default_policy = {"retries": 0}  # a failed call may have had its effect

    tool: Annotated[
        ToolName,
        Marker(is_checked=True, is_target=True, missing="name the tool to call"),
    ] = Field(
        title="Tool",
        description="Tool to call: a Python tool's name, server.tool, or the URL of an MCP server "
        "with #tool; see `daybook tools list`.",
    )
    params: Annotated[Arguments, Marker(is_checked=True, is_target=True)] = Field(
        default_factory=dict,
        title="Parameters",
        description="Arguments of the tool. Refer to a secret as {{secret:name}}, and to what the "
        "request to a hook sent as {{payload}}.",
    )

    def tools(self) -> Uses:
        return [("tool", self.tool)]

    def arguments(self) -> JsonObject:
        return self.params

    def own_call(self, payload: Any = None) -> tuple[str, JsonObject]:
        return self.tool, payloads.fill(self.params, payload)

    def values_with_secrets(self) -> list[object]:
        return [self.params]

    def uses_payload(self) -> bool:
        return payloads.is_used(self.params)

    def subject(self) -> str:
        return self.tool.rpartition("#")[2] if is_address(self.tool) else self.tool

    def brief(self) -> tuple[str, str]:
        return "calls", f"the tool {self.tool}"

    def sentence(self) -> Words:
        server, hash_sign, name = self.tool.partition("#")
        return self.opening, f"{_without_query(server)}{hash_sign}{name}"

    def sent(self) -> Facts:
        params = json.dumps(self.params, indent=2, ensure_ascii=False) if self.params else ""
        return [("Tool", self.sentence()[1]), ("Parameters", params)]

    def facts(self) -> Facts:
        params = json.dumps(self.params, ensure_ascii=False) if self.params else ""
        return [("tool", self.tool), ("params", params)]


class Heartbeat(BaseAction):
    """Action of a `heartbeat` job: ask an agent to carry out a file of standing orders.

    A run asks the agent only if the file has text and the gate decides that there is work to do.
    """

    opening = "Asks the agent "
    default_policy = {"retries": 0, "catch_up": "none"}  # the next heartbeat comes soon
    may_be_agents = False  # only the operator may write the file
    ignores_user_jobs = True
    reads_prompt = True
    has_own_command = True

    file: Annotated[
        OrdersFile,
        Marker(missing=f"name the file, such as {DEFAULT_ORDERS_FILE}"),
    ] = Field(
        default=DEFAULT_ORDERS_FILE,
        title="File",
        description="File of standing orders; a relative path is relative to Daybook's home. If "
        "the file is missing or blank, the run is skipped.",
    )
    agent: AgentName = DEFAULT_AGENT
    fallback_agents: FallbackAgents = ()
    gate_agent: GateAgentName = Field(
        default="",
        title="Gate agent",
        description="Cheaper agent that first decides whether there is anything to do; empty: the "
        "agent itself.",
    )
    model: ModelName = ""
    session: SessionChoice = "reuse"
    session_key: SessionKey = ""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        with raising_pydantic_error():
            check_fallback_agents(self.agent, self.fallback_agents)
            check_session(self.session, self.session_key)
        return self

    def agents(self) -> Uses:
        gate = [("gate_agent", self.gate_agent)] if self.gate_agent else []
        return [*_asked_agents(self), *gate]

    def uses_payload(self) -> bool:
        return True  # its file may use the payload

    def subject(self) -> str:
        return "heartbeat"

    def brief(self) -> tuple[str, str]:
        return "orders", self.file

    def sentence(self) -> Words:
        return self.opening, self.agent, " to follow the orders in ", self.file

    def sent(self) -> Facts:
        return [("Prompt", "")]  # the prompt is in the file

    def facts(self) -> Facts:
        return [self.brief(), ("gate", self.gate_agent), *_asked_facts(self)]


Action: TypeAlias = AgentPrompt | Webhook | ToolCall | Heartbeat
ACTIONS: dict[str, type[AgentPrompt | Webhook | ToolCall | Heartbeat]] = {
    "agent-prompt": AgentPrompt,
    "webhook": Webhook,
    "tool-call": ToolCall,
    "heartbeat": Heartbeat,
}
"""Action model of each kind of job."""

KIND_ALIASES = {
    "send_message": "agent-prompt",
    "call_webhook": "webhook",
    "call_tool": "tool-call",
}
"""Names of kinds in other schedulers, which `jobs.model.new_job` and `edit` also accept."""
