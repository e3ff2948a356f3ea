"""Every error that Daybook raises, in one tree.

::

    DaybookError                 code, exit_code
    ├── InvalidInput             2  names the field and what to write; nothing is stored
    │   ├── UnknownName          2  an agent (tool, channel) that does not exist, with those that do
    │   ├── OutgoingRefused      2  NonRetryable: an address that a job may not reach
    │   └── Ambiguous            2  an id prefix that fits more than one
    ├── NotFound                 3  the job or run that a command names
    ├── NothingClaimable         3  no task for this session now, and why
    ├── TokenRefused             2  a task run's token that is wrong, or over
    ├── SchedulerStopped         1  a task scheduler that was stopped is not started again
    ├── Unreachable              4
    │   ├── PrefectUnreachable   4
    │   │   └── PrefectRefused   4  it answers, and asks for another credential (401)
    │   └── LedgerUnreachable    4
    │       └── LedgerReplaced   4  its file was deleted or replaced while it was in use
    ├── LedgerError              1
    │   ├── LedgerNewer          2  the ledger was written by a newer program
    │   ├── LedgerKeyMissing     1  this home has not the key of the ledger's encrypted copies
    │   ├── CopyDamaged          1  one encrypted copy in the ledger is not what was written
    │   ├── IllegalTransition    1  a step that `ledger.states` does not join
    │   └── FenceRefused         1  a writer that lost its claim
    ├── LeadLost                 1  another process leads the keepers by now
    ├── Temporary                1  a tool cannot do it now; to be tried again
    │   └── ToolUnreachable      1  the server of a tool cannot be reached, or started, now
    └── AgentError               1  what the agent's side did wrong
        ├── AgentMisconfigured   1  NonRetryable: the operator has to change something
        ├── AgentFailed          1  it answered with a failure, or refused the request
        ├── AgentTemporary       1  not now: limited, overloaded, cut off; to be tried again
        └── AgentTimeout         1

The arguments are the ids; the sentence is made in the class, so that it is the same wherever the
error is raised. ``str(error)`` is what a person reads, ``error.code`` what a program compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

LONGEST = 2_000
"""Characters of an error in one line."""


def one_line(told: object, longest: int = LONGEST) -> str:
    """Words that somebody else may have chosen, as a line of a log: neither forged nor long."""
    line = " ".join(str(told).split())
    return line if len(line) <= longest else line[:longest] + "…"


class DaybookError(Exception):
    """The root of the tree. ``exit_code`` is what the command line ends with."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1


class NonRetryable(Exception):
    """Mixed into errors that trying again cannot mend, such as a wrong configuration."""


class InvalidInput(DaybookError):
    """Input that is not valid; nothing was stored.

    ``field`` is the name of the field as the user wrote it, ``problem`` what is wrong with it, and
    ``hint`` what to write instead.
    """

    code = "invalid_input"
    exit_code = 2

    def __init__(self, field: str, problem: str, hint: str = "") -> None:
        self.field = field
        self.problem = problem
        self.hint = hint
        super().__init__(f"{field}: {problem}" + (f" ({hint})" if hint else ""))


class UnknownName(InvalidInput):
    """An option names an agent (tool, channel) that does not exist."""

    code = "unknown_name"

    def __init__(self, field: str, name: str, known: Iterable[str], mend: str = "") -> None:
        self.name = name
        self.known = sorted(known)
        legal = "known: " + (", ".join(self.known) or "none")
        super().__init__(field, f'unknown "{name}"', f"{legal}; {mend}" if mend else legal)


class OutgoingRefused(NonRetryable, InvalidInput):
    """An address that a job may not reach; nothing was sent to it.

    ``address`` is scheme, host and port, and what the host's name means; ``rule`` is that of
    `daybook.http.guard` which refused it.
    """

    code = "outgoing_refused"

    def __init__(self, address: str, why: str, rule: str, legal: str = "") -> None:
        self.address = address
        self.rule = rule
        super().__init__("url", f"{address} is refused: {why}", legal)


class Ambiguous(InvalidInput):
    """A name or id prefix that fits more than one job or run."""

    code = "ambiguous"

    def __init__(self, noun: str, ref: str, fits: Iterable[str]) -> None:
        super().__init__(noun, f'"{ref}" is ambiguous', "it fits " + ", ".join(fits))


class NotFound(DaybookError):
    """The job or run that a command names does not exist."""

    code = "not_found"
    exit_code = 3

    def __init__(self, noun: str, ref: str) -> None:
        self.noun = noun
        self.ref = ref
        super().__init__(f'{noun} "{ref}" not found')


class NothingClaimable(DaybookError):
    """There is no task run that this session may claim now; ``why`` says what keeps it."""

    code = "nothing_claimable"
    exit_code = 3

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"nothing is claimable: {why}")


class TokenRefused(DaybookError):
    """The token does not hold that task run, or no longer; nothing was changed."""

    code = "token_refused"
    exit_code = 2

    def __init__(self, run: str, why: str) -> None:
        self.run, self.why = run, why
        super().__init__(f"task run {run}: {why}")


class SchedulerStopped(DaybookError):
    """The task scheduler was stopped, and is asked to go on."""

    code = "scheduler_stopped"

    def __init__(self) -> None:
        super().__init__(
            "this task scheduler was stopped, and cannot be started again: make another"
        )


class Unreachable(DaybookError):
    """Something that the command needs does not answer."""

    code = "unreachable"
    exit_code = 4


class PrefectUnreachable(Unreachable):
    """``address`` is None when no Prefect is known at all."""

    code = "prefect_unreachable"

    def __init__(self, address: str | None, why: str = "") -> None:
        self.address = address
        because = f": {why}" if why else ""
        if address is None:
            told = f"no Prefect server is known{because}; start one with `daybook up`"
            super().__init__(f"{told}, or set PREFECT_API_URL to the one that you have")
        else:
            told = f"Prefect at {address} does not answer{because}; see that it runs"
            super().__init__(f"{told}, or unset PREFECT_API_URL and `daybook up` starts one")


class PrefectRefused(PrefectUnreachable):
    """The Prefect server at ``address`` answered 401.

    ``sent`` names the variable of the credential that was sent; empty if there was none. ``own``:
    it is the server of this home's `daybook up`.
    """

    code = "prefect_refused"

    def __init__(self, address: str, sent: str = "", *, own: bool = False) -> None:
        super().__init__(address)
        self.sent = sent
        what = f"the credential in {sent} is wrong" if sent else "no credential was sent"
        if own:
            fix = 'use `eval "$(daybook env)"` in this shell'
        else:
            fix = "set PREFECT_API_AUTH_STRING to the user:password of that server"
            fix += ", or PREFECT_API_KEY for Prefect Cloud"
        self.args = (f"Prefect at {address} denies access (401): {what}; {fix}",)


class LedgerUnreachable(Unreachable):
    """``place`` is the ledger's address without its password."""

    code = "ledger_unreachable"

    def __init__(self, place: str, why: str) -> None:
        self.place, self.why = place, why
        super().__init__(
            f"the ledger at {place} cannot be reached: {why}; check DAYBOOK_HOME and "
            "DAYBOOK_LEDGER_URL"
        )


class LedgerReplaced(LedgerUnreachable):
    """The database of the open ledger was deleted or replaced. ``fix`` says what to do."""

    code = "ledger_replaced"

    def __init__(self, place: str, what: str, fix: str) -> None:
        super().__init__(place, what)
        self.what, self.fix = what, fix
        self.args = (f"the ledger at {place} {what}; {fix}",)


class LedgerError(DaybookError):
    """The ledger refused a step."""

    code = "ledger"


class LedgerNewer(LedgerError):
    """The ledger's schema is one that this program does not know."""

    code = "ledger_newer"
    exit_code = 2

    def __init__(self, found: str, known: str) -> None:
        super().__init__(
            f"the ledger has schema {found}, which this program does not know (its own is "
            f"{known}): use the Daybook that wrote it, or make the ledger anew"
        )


class LedgerKeyMissing(LedgerError):
    """This home does not have the key of the ledger's encrypted copies; nothing was changed.

    ``why`` says what is wrong with the file of the key.
    """

    code = "ledger_key_missing"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the ledger's copies of agents and secrets cannot be decrypted: {why}")


class CopyDamaged(LedgerError):
    """An encrypted copy in the ledger was changed, or moved to another name."""

    code = "copy_damaged"

    def __init__(self, label: str) -> None:
        super().__init__(f"the ledger's copy of {label} is damaged")


class IllegalTransition(LedgerError):
    """A step between two run states that `ledger.states` does not join."""

    code = "illegal_transition"

    def __init__(self, run: str, old: str, new: str) -> None:
        self.run, self.old, self.new = run, old, new
        super().__init__(f"run {run} cannot go from {old} to {new}")


class FenceRefused(LedgerError):
    """A writer that lost its claim; ``fence`` is what it held, ``current`` what is in force."""

    code = "fence_refused"

    def __init__(self, run: str, fence: int, current: int) -> None:
        self.run, self.fence, self.current = run, fence, current
        super().__init__(
            f"run {run} was taken over: the write carries fence {fence}, in force is {current}"
        )


class LeadLost(DaybookError):
    """Another process leads by now: nothing more is to be written."""

    code = "lead_lost"

    def __init__(self, holder: str) -> None:
        super().__init__(f"{holder} does not lead any more")


class Temporary(DaybookError):
    """Not now: raised by a Python tool that did nothing and may be called again.

    ``retry_after`` is how many seconds to wait at least, None when nobody knows.
    """

    code = "temporary"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class ToolUnreachable(Temporary):
    """The server of a tool cannot be reached, or started, now; nothing was called."""

    code = "tool_unreachable"


class AgentError(DaybookError):
    """The agent did not answer as it should.

    ``usage`` is what the failed answer took all the same, as in `AgentReply`, where it is known.
    ``final``: it may not be asked again, whatever the error is, as its tools may have had effects.
    """

    code = "agent"
    usage: dict[str, Any] | None = None
    final: bool = False


class AgentMisconfigured(NonRetryable, AgentError):
    """The operator has to change the agent; trying again cannot help."""

    code = "agent_misconfigured"


class AgentFailed(AgentError):
    """The agent ran and reported failure; ``output`` is what it had said until then."""

    code = "agent_failed"

    def __init__(self, message: str, output: str = "") -> None:
        self.output = output
        super().__init__(message)


class AgentTemporary(AgentError):
    """The agent could not answer now and may be asked again; nothing that it started runs on.

    ``retry_after`` is how many seconds the other side asked to wait, None when it named none.
    """

    code = "agent_temporary"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class AgentTimeout(AgentError):
    """The agent was ended because its time was up; nothing that it started runs on.

    ``tool`` is the one that was being called meanwhile; empty where none was.
    """

    code = "agent_timeout"

    def __init__(self, seconds: float, output: str = "", tool: str = "") -> None:
        self.seconds = seconds
        self.output = output
        self.tool = tool
        during = f", in the middle of a call of {tool}" if tool else ""
        super().__init__(f"no answer within {seconds:g} s{during}; the agent was ended")
