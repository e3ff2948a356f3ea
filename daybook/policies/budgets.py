"""Budgets: limits on the tokens and US dollars that runs use, per run and per day.

One `Budget` has four fields, and four places set one::

    a job       its policy                    each run; all runs of the job in a day
    an owner    `[limits]` of agents          each run; all runs of the owner's jobs in a day
    an agent    `[budget.agents.NAME]`        each run; all runs that ask the agent first, in a day
    the home    `[budget]`                    each run; all runs in a day

All of these budgets apply. Every day begins at midnight in `DAYBOOK_TIMEZONE`.
`daybook.runs.budget` adds up the used tokens and dollars, and decides about claims and requests.

To add a scope, write it in `Scope`, its budget in `HomeBudget`, its limits in `limits`, the query
of its runs and its alert in `runs.budget`, and its words in `features.spend`. The sums have the
scope as their key, so a run has at most one budget of each scope.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daybook.errors import InvalidInput
from daybook.money_text import money
from daybook.validation import from_pydantic

Unit = Literal["tokens", "usd"]
Scope = Literal["run", "job", "owner", "agent", "home"]

Tokens = Annotated[int, Field(ge=0)]
UsDollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DailyFields(Protocol):
    """The fields of a daily budget; 0 means no limit."""

    @property
    def tokens_per_day(self) -> int: ...
    @property
    def usd_per_day(self) -> float: ...


class BudgetFields(DailyFields, Protocol):
    """The fields of a budget; 0 means no limit."""

    @property
    def tokens_per_run(self) -> int: ...
    @property
    def usd_per_run(self) -> float: ...


class Budget(BaseModel):
    """Maximum tokens and US dollars per run and per day."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_per_run: Tokens = Field(
        default=0, description="Maximum number of tokens per run; 0 means no limit."
    )
    tokens_per_day: Tokens = Field(
        default=0, description="Maximum number of tokens per day; 0 means no limit."
    )
    usd_per_run: UsDollars = Field(
        default=0.0, description="Maximum cost per run, in US dollars; 0 means no limit."
    )
    usd_per_day: UsDollars = Field(
        default=0.0, description="Maximum cost per day, in US dollars; 0 means no limit."
    )


class HomeBudget(Budget):
    """The operator's budgets: one for all runs together, and one for each named agent."""

    unpriced_usd: UsDollars | None = Field(
        default=None,
        description="What a request counts as whose price is unknown, in US dollars; an answer of "
        "a command agent is one request. Without it, budgets in US dollars refuse such a request.",
    )
    agents: dict[str, Budget] = Field(
        default={},
        description="Budgets of the runs that ask this agent first, by its name: "
        "`[budget.agents.researcher]`.",
    )


def read(table: Mapping[str, Any]) -> HomeBudget:
    """Read the settings table; raise `InvalidInput` with the path of the field."""
    try:
        return HomeBudget.model_validate(dict(table))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("budget", *first["loc"])))
        last = {**first, "loc": first["loc"][-1:]}
        problem = from_pydantic(last, HomeBudget.model_fields)  # type: ignore[arg-type]
        hint = problem.hint or "write a number such as 5, or leave it out"
        raise InvalidInput(where, problem.problem, hint) from None


@dataclass(frozen=True)
class Limit:
    """One limit on one run. ``of`` names the scope in messages; it is empty for `run` and `job`."""

    scope: Scope
    unit: Unit
    most: float
    of: str = ""

    @property
    def is_daily(self) -> bool:
        return self.scope != "run"

    def amount(self, value: float) -> str:
        """Return an amount as text: `12,345 tokens` or `$0.0125`."""
        return f"{value:,.0f} tokens" if self.unit == "tokens" else money(value)

    def used(self, value: float) -> str:
        """Return `12,345 of 10,000 tokens per day of agent:scout`, or `$1.50 of $2 per run`."""
        given = f"{value:,.0f}" if self.unit == "tokens" else money(value)
        return f"{given} of {self.amount(self.most)} per {self.period}"

    @property
    def period(self) -> str:
        return f"day{self.of}" if self.is_daily else "run"


def limits(
    job: BudgetFields, owner: tuple[str, BudgetFields] | None, agent: str, home: HomeBudget
) -> Iterator[Limit]:
    """Yield the limits on one run: at most one for each scope and unit.

    ``owner`` is the name and the limits of the job's owner, or None if nothing limits the owner.
    ``agent`` is the agent that the run asks first.
    """
    of_agent = home.agents.get(agent, Budget())
    budgets: list[tuple[Scope, str, BudgetFields]] = [("job", "", job)]
    if owner is not None:
        budgets.append(("owner", f" of {owner[0]}", owner[1]))
    budgets += [("agent", f" of the agent {agent}", of_agent), ("home", " of all runs", home)]
    per_run: list[tuple[Unit, list[float]]] = [
        ("tokens", [each.tokens_per_run for _, _, each in budgets]),
        ("usd", [each.usd_per_run for _, _, each in budgets]),
    ]
    for unit, given in per_run:
        if most := min(filter(None, given), default=0):  # the lowest limit that is set
            yield Limit("run", unit, most)
    for scope, of, each in budgets:
        yield from daily(scope, each, of)


def daily(scope: Scope, budget: DailyFields, of: str = "") -> Iterator[Limit]:
    """Yield the daily limits of a budget."""
    if budget.tokens_per_day:
        yield Limit(scope, "tokens", budget.tokens_per_day, of)
    if budget.usd_per_day:
        yield Limit(scope, "usd", budget.usd_per_day, of)
