"""An agent that asks a model of any provider that pydantic-ai supports."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from daybook.agents import failures, providers, telemetry
from daybook.agents.base import AgentReply, AgentRequest
from daybook.agents.model_settings import ModelSettings
from daybook.agents.pictures import Picture
from daybook.errors import (
    AgentError,
    AgentFailed,
    AgentMisconfigured,
    AgentTemporary,
    AgentTimeout,
    LedgerError,
    LedgerNewer,
)
from daybook.ledger.states import Usage
from daybook.policies.compression import Compression
from daybook.redaction import remember
from daybook.runs import usage as usages
from daybook.runs.approvals import ApprovalNeeded

if TYPE_CHECKING:
    from pydantic_ai import RunUsage
    from pydantic_ai.messages import ModelMessage, ModelResponse, UserContent
    from pydantic_ai.models import Model
    from pydantic_ai.settings import ModelSettings as Sent

    from daybook.agents.model_steps import Steps
    from daybook.agents.model_tools import OfferedTools

# The client's own timeout is longer, so that the attempt's timeout ends the request.
_CLIENT_TIMEOUT_MARGIN_SECONDS = 30.0

MAX_REQUESTS_WITH_TOOLS = 50
"""Maximum number of requests for one answer if the agent has tools but no limit of its own."""

_CUT = "the answer reached max_tokens"
_COMPLETE_REASONS = ("stop", "end", "eos")
"""Beginnings of the reasons of providers, lowercase, for an answer that is complete."""
_REASON = "finish_reason"  # the key of the provider's own reason in the details of a response


@dataclass(frozen=True)
class ModelAgent:
    """Agent that asks a model. After each response that calls tools, it sends one more request.

    The agent does not retry. The run retries, and counts its attempts. `daybook.agents.failures`
    translates the errors, except those of the journal (`LedgerError`, `LedgerNewer`,
    `ApprovalNeeded`), which `answer` raises unchanged. `answer` closes the connection before it
    returns. An error after the first request has the usage so far in its attribute ``usage``.
    """

    name: str
    settings: ModelSettings
    is_program: ClassVar[bool] = False

    @property
    def tools(self) -> list[str]:
        return self.settings.tools

    @property
    def compression(self) -> Compression:
        return Compression.of(self.settings)

    def takes_pictures(self, model: str) -> bool:
        wanted = self.settings.pictures
        return not providers.has_base_url(self.settings, model) if wanted is None else wanted

    def check_model(self, model: str) -> None:
        providers.check(self.settings, model)

    async def answer(self, request: AgentRequest) -> AgentReply:
        from pydantic_ai import RunUsage

        model, usage = self._model(request.model), RunUsage()
        steps = self._steps(request)
        toolset = self._toolset(request, usage, steps)
        try:
            async with asyncio.timeout(request.timeout):
                return await self._ask(model, request, usage, toolset, steps)
        except TimeoutError:
            tool = toolset.at_work if toolset else ""
            failed: AgentError = AgentTimeout(request.timeout, tool=tool)
        except (LedgerError, LedgerNewer, ApprovalNeeded):
            # Another process took over the run, a newer program the ledger, or the run waits for a
            # person. Its journal records no further step.
            raise
        except Exception as error:
            failed = _as_token_limit_error(error, request, usage) or self._translate_error(
                error, model, request
            )
        if usage.requests:
            failed.usage = self._usage(usage, request, steps)
        if steps is not None and isinstance(failed, AgentTemporary):
            await steps.reject_last(str(failed))
        raise failed from None

    def _model(self, wanted: str) -> Model:
        try:
            return providers.model(self.settings, wanted)
        except AgentMisconfigured as error:
            failed = AgentMisconfigured(f'agent "{self.name}": {error}')
        except Exception as error:
            # This is the client's own error. Its message may contain the key.
            reason = f"its client cannot be created ({type(error).__name__})"
            failed = AgentMisconfigured(f'agent "{self.name}": {reason}')
        raise failed

    def _translate_error(self, error: Exception, model: Model, request: AgentRequest) -> AgentError:
        try:
            secrets = providers.secrets(self.settings, model)
            return failures.translate_error(error, self.name, model, request.timeout, secrets)
        except Exception as second_error:  # this is an unexpected error of the library
            types = f"{type(error).__name__}, then {type(second_error).__name__}"
            return AgentFailed(f'agent "{self.name}" failed unexpectedly: {types}')

    def _limit(self, request: AgentRequest) -> int:
        if request.once:
            return 1
        return self.settings.request_limit or (MAX_REQUESTS_WITH_TOOLS if request.tools else 1)

    def _steps(self, request: AgentRequest) -> Steps | None:
        if request.journal is None:
            return None
        from daybook.agents.model_steps import Steps

        return Steps(request.journal, request)

    def _toolset(
        self, request: AgentRequest, usage: RunUsage, steps: Steps | None
    ) -> OfferedTools | None:
        if not request.tools:
            return None
        from daybook.agents.model_tools import OfferedTools

        def report_usage() -> None:
            if request.took is not None:
                request.took(self._usage(usage, request, steps))

        return OfferedTools(
            request.tools,
            self._limit(request) - 1,
            report_usage,
            steps,
            repeatable=request.repeatable,
        )

    def _journaled(self, model: Model, request: AgentRequest, steps: Steps | None) -> Model:
        """Return ``model``, wrapped. If there are ``steps``, the model records its requests."""
        from daybook.agents import streamed_model
        from daybook.agents.measured_model import MeasuredModel

        if steps is None:
            return MeasuredModel(model)
        from daybook.agents.model_steps import JournaledModel

        measured = MeasuredModel(model)
        if self._is_streamed(model, request):
            measured = streamed_model.StreamedModel(
                model,
                lambda: failures.incomplete_answer_error(self.name, model),
                may_omit_usage=self._may_omit_usage(model, request),
            )
        return JournaledModel(
            measured,
            steps,
            lambda response: self._usage_of(response, request),
            lambda error: self._translate_error(error, model, request),
        )

    def _is_streamed(self, model: Model, request: AgentRequest) -> bool:
        """Return whether the requests to ``model`` use streams.

        A further attempt uses none, so that a server with incorrect streams costs one answer.
        """
        from daybook.agents import streamed_model

        wanted = self.settings.stream
        if wanted is None:
            wanted = not providers.has_base_url(self.settings, request.model)
        is_known = type(model).__name__ in streamed_model.FAMILIES
        is_limited = request.tokens is not None and self._may_omit_usage(model, request)
        return wanted and is_known and request.attempt == 1 and not is_limited

    def _may_omit_usage(self, model: Model, request: AgentRequest) -> bool:
        """Return whether the server of ``model`` may report its usage only without a stream."""
        has_base_url = providers.has_base_url(self.settings, request.model)
        return has_base_url or type(model).__name__ == "CompatibleChatModel"

    async def _ask(
        self,
        model: Model,
        request: AgentRequest,
        usage: RunUsage,
        toolset: OfferedTools | None,
        steps: Steps | None,
    ) -> AgentReply:
        from pydantic_ai import Agent, UsageLimits, capture_run_messages
        from pydantic_ai.exceptions import UnexpectedModelBehavior, UsageLimitUnavailableWarning

        # `_check_tokens_left` checks the limit.
        warnings.simplefilter("ignore", UsageLimitUnavailableWarning)
        limit = self._limit(request)
        instructions = self.settings.system_prompt, request.instructions
        journaled = self._journaled(model, request, steps)
        agent: Agent[object, str | None] = Agent(
            journaled,
            name=self.name,
            # An empty answer is valid, so the library must not ask again.
            output_type=[str, type(None)],
            instructions="\n\n".join(filter(None, instructions)) or None,
            retries=limit - 1,
            toolsets=[toolset] if toolset else None,
        )
        agent.instrument = telemetry.instrumentation()
        remember(dict.fromkeys(providers.secrets(self.settings, model), "[key]"))
        sent = self._settings_of_step(model, request, usage)
        limits = UsageLimits(request_limit=limit, total_tokens_limit=request.tokens)
        with capture_run_messages() as messages:
            try:
                async with agent:
                    result = await agent.run(
                        _content(request.prompt, request.pictures),
                        message_history=_messages(request),
                        model_settings=lambda context: sent(context.run_step),
                        usage_limits=limits,
                        usage=usage,
                        infer_name=False,
                    )
            except UnexpectedModelBehavior as error:
                # Subclasses of this error (content filter, max_tokens) have their own messages.
                tool = "" if request.tools else _tool_called(messages)
                if not tool or type(error) is not UnexpectedModelBehavior:
                    raise
                raise failures.unexpected_tool_call_error(self.name, tool) from None
        text, response = result.output or "", result.response
        reason, provider_reason = (
            response.finish_reason,
            (response.provider_details or {}).get(_REASON),
        )
        if reason == "content_filter":
            raise AgentFailed(f"the content filter of {model.system} stopped the answer", text)
        if reason is None and provider_reason is None and providers.is_unfinished(model, text):
            raise failures.incomplete_answer_error(self.name, model)
        secrets = providers.secrets(self.settings, model)
        reason_text = str(provider_reason or reason or "")
        if "error" in (reason, provider_reason) or (not text and reason != "stop"):
            raise failures.no_answer_error(self.name, model, text, reason_text, secrets)
        cut = _CUT if reason == "length" else ""
        is_complete = reason_text.lower().startswith(_COMPLETE_REASONS)
        if reason is None and provider_reason and not is_complete:
            cut = failures.early_end(self.name, model, reason_text, secrets)
        used, impossible = usages.checked(self._reported(usage, request, steps))
        return AgentReply(
            text=text,
            agent=self.name,
            model=response.model_name or model.model_name,
            usage=used,
            cut=cut,
            warnings=(*getattr(journaled, "warnings", ()), *filter(None, [impossible])),
        )

    def _settings_of_step(
        self, model: Model, request: AgentRequest, usage: RunUsage
    ) -> Callable[[int], Sent]:
        """Return a function that takes a step's number, from 1, and returns its request settings.

        The function raises `AgentFailed` if no tokens are left. Without this check, pydantic-ai
        would allow one more request when its own limit is exactly reached.
        """
        options: dict[str, Any] = {
            "max_retries": 0,
            "timeout": request.timeout + _CLIENT_TIMEOUT_MARGIN_SECONDS,
        }
        takes_headers = "extra_headers" not in getattr(model, "unsupported_settings", ())

        def sent(step: int) -> Sent:
            if request.tokens is not None:
                _check_tokens_left(request.tokens, usage)
            if takes_headers:
                options["extra_headers"] = {"Idempotency-Key": request.idempotency_key(step)}
            return {**self.settings.options, **options}  # type: ignore[typeddict-item]  # checked

        return sent

    def _usage(self, usage: RunUsage, request: AgentRequest, steps: Steps | None = None) -> Usage:
        """Return the usage in the format of `ledger.states.Usage`, without impossible numbers."""
        return usages.checked(self._reported(usage, request, steps))[0]

    def _reported(self, usage: RunUsage, request: AgentRequest, steps: Steps | None) -> Usage:
        """Return the usage as the provider reported it. Unreported token counts are None.

        The usage does not include replayed ``steps``, which an earlier attempt has counted.
        """
        known = not usage.unmeasured_requests
        result: Usage = {
            "requests": usage.requests - (steps.replayed_requests if steps else 0),
            "input_tokens": usage.input_tokens if known else None,
            "output_tokens": usage.output_tokens if known else None,
        }
        for name in ("cache_read_tokens", "cache_write_tokens", "tool_calls"):
            count = getattr(usage, name)
            if name == "tool_calls" and steps is not None:
                count -= steps.replayed_calls
            if count > 0:
                result[name] = count
        return result | {"cost_usd": self._cost_usd(usage, request) if known else None}

    def _usage_of(self, response: ModelResponse, request: AgentRequest) -> Usage:
        """Return the usage of one response, with its cost."""
        from pydantic_ai import RunUsage

        usage = RunUsage(requests=1)
        usage.incr(response.usage)
        if usage.cost is None:
            with suppress(Exception):  # the library has no price for this model
                usage.cost = response.cost().total_price
        return self._usage(usage, request)

    def _cost_usd(self, usage: RunUsage, request: AgentRequest) -> float | None:
        """Return the cost in US dollars, or None: by the agent's prices, if any, for its own model.

        For other models, pydantic-ai's price table applies.
        """
        prices = (self.settings.input_price, self.settings.output_price)
        if any(prices) and providers.is_own(self.settings, request.model):
            tokens = (usage.input_tokens, usage.output_tokens)
            return sum(n * price for n, price in zip(tokens, prices, strict=True)) / 1_000_000
        return None if usage.cost is None else float(usage.cost)


def _check_tokens_left(tokens: int, usage: RunUsage) -> None:
    """Raise `AgentFailed` if no token is left for another request, or if the usage is unknown."""
    if usage.unmeasured_requests:
        raise AgentFailed(
            f"stopped: the token limit ({tokens:,} were left) cannot be enforced, because the "
            "provider does not report its token usage"
        )
    if usage.total_tokens >= tokens:
        raise _token_limit_error(tokens, usage)


def _as_token_limit_error(
    error: Exception, request: AgentRequest, usage: RunUsage
) -> AgentFailed | None:
    """Return the error to raise if ``error`` means that no tokens are left, otherwise None."""
    from pydantic_ai.exceptions import UsageLimitExceeded

    tokens = request.tokens
    if tokens is None or not isinstance(error, UsageLimitExceeded) or usage.total_tokens <= tokens:
        return None
    return _token_limit_error(tokens, usage)


def _token_limit_error(tokens: int, usage: RunUsage) -> AgentFailed:
    asked = "1 request" if usage.requests == 1 else f"{usage.requests} requests"
    return AgentFailed(
        f"stopped: the token limit is reached; {tokens:,} tokens were left, and {asked} used "
        f"{usage.total_tokens:,}"
    )


def _tool_called(messages: list[ModelMessage]) -> str:
    """Return the name of a tool that the last response calls; "" if it calls no tool."""
    last = next((each for each in reversed(messages) if each.kind == "response"), None)
    names = [part.tool_name for part in last.parts if part.part_kind == "tool-call"] if last else []
    return names[0] if names else ""


def _messages(request: AgentRequest) -> list[ModelMessage]:
    from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart

    # Omit empty answers from the history, because providers refuse an empty message.
    return [
        ModelRequest(parts=[UserPromptPart(_content(each.content, each.pictures))])
        if each.role == "user"
        else ModelResponse(parts=[TextPart(each.content)])
        for each in request.history
        if each.content.strip()
    ]


def _content(text: str, pictures: Sequence[Picture]) -> str | list[UserContent]:
    from pydantic_ai.messages import BinaryContent

    sent = [BinaryContent(each.content, media_type=each.content_type) for each in pictures]
    return [*sent, text] if sent else text
