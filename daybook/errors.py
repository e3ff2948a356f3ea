"""Errors that Daybook raises to its callers, in one tree.

::

    DaybookError                 code, exit_code
    ├── InvalidInput             2  names the field and what to write; nothing is stored
    │   ├── UnknownName          2  an option or field names an agent, tool, … that does not exist
    │   ├── OutgoingRefused      2  NonRetryable: a job may not reach this address
    │   ├── InvalidFiles         2  mistakes in jobs files, each with its line and column
    │   ├── ChangedMeanwhile     2  a user changed a job or agent that the caller had read
    │   └── Ambiguous            2  a name or id prefix matches more than one job, run, …
    ├── NotFound                 3  the job, run, … that a command names does not exist
    ├── NothingClaimable         3  no task for this task session now, with the reason
    ├── TokenRefused             2  a token does not hold its task run, or no longer does
    ├── Unreachable              4
    │   ├── PageUnreachable      4  no web server with Daybook's pages
    │   ├── PrefectUnreachable   4
    │   │   └── PrefectRefused   4  Prefect answers and denies access (401, 403)
    │   └── LedgerUnreachable    4
    │       ├── LedgerReplaced   4  the database was deleted or replaced while it was in use
    │       ├── LedgerOlder      4  an earlier schema, which this program may not migrate
    │       └── LedgerNewer      2  a newer program migrated the ledger, and this one cannot use it
    ├── LedgerError              1
    │   ├── LedgerKeyMissing     1  this home does not have the key of the ledger's encrypted copies
    │   ├── CopyDamaged          1  an encrypted copy in the ledger was changed
    │   ├── IllegalTransition    1  `ledger.states` does not allow this transition
    │   └── FenceRefused         1  a writer lost its claim
    ├── DiskFull                 1  a file cannot be written, because its disk is full
    ├── LeadershipLost           1  this keeper is no longer the leader
    ├── Temporary                1  a tool cannot do its work now; retry later
    │   └── ToolUnreachable      1  a tool's server cannot be reached or started now
    └── AgentError               1  the agent failed
        ├── AgentMisconfigured   1  NonRetryable: the operator must change the agent or its account
        ├── AgentFailed          1  the agent reported a failure or refused the request
        ├── AgentTemporary       1  rate-limited, overloaded or cut off; retry later
        └── AgentTimeout         1

Other modules define further subclasses, such as `execution.checks.CheckFailed`. Each class builds
the message from its arguments, so the message is the same wherever the error is raised. People read
``str(error)``, programs compare ``error.code``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from daybook.short_text import one_line

MAX_MISSPELLED_LENGTH = 100
"""Maximum length, in characters, of a name for which `nearest_name` searches.

The search for a longer name would take long.
"""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``name`` probably means; None if no known name is similar.

    Upper and lower case count as equal. If ``name`` itself is known, or longer than
    `MAX_MISSPELLED_LENGTH`, return None as well.
    """
    import difflib  # not needed unless a name is wrong

    spellings = {each.casefold(): each for each in known}
    if len(name) > MAX_MISSPELLED_LENGTH or name in spellings.values():
        return None
    near = difflib.get_close_matches(name.casefold(), spellings, n=1, cutoff=0.7)
    return spellings[near[0]] if near else None


class DaybookError(Exception):
    """Base class of Daybook's errors; a command that raises it exits with ``exit_code``."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1


class NonRetryable(Exception):
    """Mixin for errors that a retry cannot fix, such as a wrong configuration."""


class InvalidInput(DaybookError):
    """Invalid input; nothing was stored.

    ``field`` is the name of the invalid field, ``problem`` describes the problem, and ``hint``
    describes the correct input.
    """

    code = "invalid_input"
    exit_code = 2

    def __init__(self, field: str, problem: str, hint: str = "") -> None:
        self.field = field
        self.problem = problem
        self.hint = hint
        super().__init__(f"{field}: {problem}" + (f" ({hint})" if hint else ""))


class UnreadableJob(InvalidInput):
    """The stored fields of a job are not valid, so the job cannot be used.

    ``field`` and ``problem`` describe the first invalid field.
    """

    code = "unreadable_job"

    def __init__(self, job: str, job_id: str, field: str, problem: str) -> None:
        self.job, self.job_id = job, job_id
        hint = f"restore a backup, or remove the job: daybook remove {job_id[:8]}"
        super().__init__(field, f"{one_line(job)} is stored with an invalid value: {problem}", hint)


class UnknownName(InvalidInput):
    """An option or field names an agent, tool, channel or secret that does not exist."""

    code = "unknown_name"

    def __init__(self, field: str, name: str, known: Iterable[str], fix: str = "") -> None:
        self.name = name
        self.known = sorted(known)
        near = nearest_name(name, self.known)
        hint = f'did you mean "{near}"? ' if near else ""
        hint += "known: " + (", ".join(self.known) or "none")
        super().__init__(field, f'unknown "{name}"', f"{hint}; {fix}" if fix else hint)


class OutgoingRefused(NonRetryable, InvalidInput):
    """A job may not reach this address; nothing was sent to it.

    ``address`` has the scheme, host and port, and an IP address of the host if its name was
    resolved. ``rule`` is the `daybook.http.guard.Rule` that applied.
    """

    code = "outgoing_refused"

    def __init__(self, address: str, why: str, rule: str, hint: str = "") -> None:
        self.address = address
        self.rule = rule
        super().__init__("url", f"{address} is refused: {why}", hint)


class ChangedMeanwhile(InvalidInput):
    """A user changed a job or document that the caller had read; this call did not change it."""

    code = "changed_meanwhile"

    def __init__(self, noun: str, name: str, hint: str = "compare, then save again") -> None:
        self.name = name
        super().__init__(noun, f"{name} was changed meanwhile", hint)


class Ambiguous(InvalidInput):
    """A name or id prefix that matches more than one job, run, task, agent or similar.

    ``fits`` are the whole ids or full names of all candidates, if possible with their kinds, names
    and owners.
    """

    code = "ambiguous"

    def __init__(
        self, noun: str, ref: str, fits: Iterable[str], problem: str | None = None
    ) -> None:
        problem = problem or f'"{ref}" is ambiguous'
        super().__init__(noun, problem, "use one of " + ", ".join(fits))


@dataclass(frozen=True, order=True)
class Position:
    """Position in a text; the first line and the first column are 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Mistake:
    """A mistake in a jobs file.

    ``job`` is the job's name; it is empty for a job without a name, and for a mistake outside jobs.
    """

    file: str
    position: Position
    job: str
    field: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.position.line}:{self.position.column}"
        named = ": ".join(filter(None, (where, self.job, self.field)))
        return f"{named}: {self.problem}" + (f" ({self.hint})" if self.hint else "")


MAX_LISTED = 50
"""Maximum number of problems that one message lists."""


def listed(problems: Sequence[object]) -> str:
    """Return each problem on its own line, the first `MAX_LISTED`, and the number of the others."""
    lines = "".join(f"\n{one_line(each, 500)}" for each in problems[:MAX_LISTED])
    more = len(problems) - MAX_LISTED
    return lines + (f"\n… and {more:,} more" if more > 0 else "")


class InvalidFiles(InvalidInput):
    """All mistakes in the given jobs files, and what was stored: by default, nothing.

    The message lists at most `MAX_LISTED` of them, ``mistakes`` has all.
    """

    code = "invalid_files"

    def __init__(self, mistakes: Sequence[Mistake], result: str = "so nothing was stored") -> None:
        self.mistakes = tuple(
            sorted(set(mistakes), key=lambda each: (each.file, each.position, each.field))
        )
        count = "1 mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        super().__init__("file", f"{count}, {result}:{listed(self.mistakes)}")


class NotFound(DaybookError):
    """The job, run, task, agent or similar that a command names does not exist.

    If a name in ``known`` is similar, the message asks whether the user meant that name.
    """

    code = "not_found"
    exit_code = 3

    def __init__(
        self, noun: str, ref: str, message: str | None = None, *, known: Iterable[str] = ()
    ) -> None:
        self.noun = noun
        self.ref = ref
        near = nearest_name(ref, known)
        question = f' (did you mean "{near}"?)' if near else ""
        super().__init__((message or f'{noun} "{ref}" not found') + question)


class NothingClaimable(DaybookError):
    """This task session cannot claim a task run now; ``why`` gives the reason.

    If ``is_final`` is True, the same claim never gets a run, however long the caller waits.
    """

    code = "nothing_claimable"
    exit_code = 3

    def __init__(self, why: str, *, is_final: bool = False) -> None:
        self.why, self.is_final = why, is_final
        super().__init__(f"no task can be claimed: {why}")


class TokenRefused(DaybookError):
    """The token does not hold the task run, or no longer holds it; nothing was changed."""

    code = "token_refused"
    exit_code = 2

    def __init__(self, run: str, why: str) -> None:
        self.run, self.why = run, why
        super().__init__(f"task run {run}: {why}")


class Unreachable(DaybookError):
    """A service that the command needs does not answer."""

    code = "unreachable"
    exit_code = 4


class PageUnreachable(Unreachable):
    """Daybook's pages cannot be opened; ``address`` is None if no web server runs for this home."""

    code = "page_unreachable"

    def __init__(self, address: str | None, why: str = "") -> None:
        self.address = address
        problem = f"Daybook's pages at {address} do not answer" if address else _NO_PAGE
        super().__init__(problem + (f": {why}" if why else ""))


_NO_PAGE = (
    "no web server with Daybook's pages runs for this home; start `daybook up`, with "
    "DAYBOOK_WEB_PORT not 0 (`daybook open --prefect` opens Prefect's UI)"
)


class PrefectUnreachable(Unreachable):
    """Prefect does not answer. ``address`` is None if no Prefect server is known."""

    code = "prefect_unreachable"

    def __init__(self, address: str | None, why: str = "") -> None:
        self.address, self.why = address, why
        reason = f": {why}" if why else ""
        if address is None:
            problem = f"no Prefect server is known{reason}; start one with `daybook up`"
            super().__init__(f"{problem}, or set PREFECT_API_URL to your server")
        elif says_disk_full(why):
            super().__init__(f"Prefect at {address} cannot store anything{reason}; {FREE_SPACE}")
        elif "CERTIFICATE_VERIFY_FAILED" in why:
            hint = "set PREFECT_API_SSL_CERT_FILE to the file of its authority's certificate"
            super().__init__(f"Prefect at {address} is not trusted{reason}; {hint}")
        else:
            problem = f"Prefect at {address} does not answer{reason}; check that it is running"
            super().__init__(f"{problem}, or unset PREFECT_API_URL and run `daybook up`")


class PrefectRefused(PrefectUnreachable):
    """The Prefect server at ``address`` denied access: it answered ``status``, which is 401 or 403.

    ``sent`` is the name of the variable whose credential was sent, empty if none was. ``own`` is
    true for the server of this home's `daybook up`.
    """

    code = "prefect_refused"

    def __init__(
        self, address: str, sent: str = "", *, own: bool = False, status: int = 401
    ) -> None:
        super().__init__(address)
        self.sent, self.status = sent, status
        wrong = "is wrong" if status == 401 else "is wrong or lacks a permission"
        problem = f"the credential in {sent} {wrong}" if sent else "no credential was sent"
        if own:
            fix = 'run `eval "$(daybook env)"` in this shell'
        else:
            fix = "set PREFECT_API_AUTH_STRING to the user:password of that server"
            fix += ", or PREFECT_API_KEY for Prefect Cloud"
        self.args = (f"Prefect at {address} denies access ({status}): {problem}; {fix}",)


DISK_FULL = "its disk is full"
FREE_SPACE = "free space on that disk, then try again"
"""Advice for a full disk, in error messages."""


def says_disk_full(message: str) -> bool:
    """Return whether a message of a database or of the system says that a disk is full."""
    words = message.lower()
    return any(each in words for each in ("disk is full", "no space left", "quota exceeded"))


class DiskFull(DaybookError):
    """A file cannot be written, because the disk of ``place`` is full."""

    code = "disk_full"

    def __init__(self, place: str) -> None:
        super().__init__(f"the disk of {place} is full; {FREE_SPACE}")


class LedgerUnreachable(Unreachable):
    """The ledger cannot be reached. ``place`` is its address without the password."""

    code = "ledger_unreachable"

    def __init__(self, place: str, why: str) -> None:
        self.place, self.why = place, why
        hint = "check DAYBOOK_HOME and DAYBOOK_LEDGER_URL"
        hint = FREE_SPACE if says_disk_full(why) else hint
        super().__init__(f"the ledger at {place} cannot be reached: {why}; {hint}")


class LedgerReplaced(LedgerUnreachable):
    """The open ledger's database was deleted or replaced. ``fix`` says what to do."""

    code = "ledger_replaced"

    def __init__(self, place: str, what: str, fix: str) -> None:
        super().__init__(place, what)
        self.what, self.fix = what, fix
        self.args = (f"the ledger at {place} {what}; {fix}",)


class LedgerOlder(LedgerUnreachable):
    """The ledger has an earlier schema, and this program may not migrate it.

    ``is_in_use`` is true if the running `daybook up` still uses that schema.
    """

    code = "ledger_older"

    def __init__(self, place: str, *, is_in_use: bool) -> None:
        super().__init__(place, "it has an earlier schema")
        self.is_in_use = is_in_use
        self.args = (
            f"the ledger at {place} is in use by an older `daybook up`, which restarts within "
            "minutes after an upgrade; to restart it now, run `daybook down`, then `daybook up`"
            if is_in_use
            else f"the ledger at {place} belongs to an older version of Daybook; install the "
            "version of its workers here, or upgrade them first",
        )


class LedgerNewer(LedgerUnreachable):
    """A newer program migrated the ledger, and this program cannot use its schema.

    With ``copies``, this program can use it, but would lose its new columns in a copy.
    """

    code = "ledger_newer"
    exit_code = 2

    def __init__(self, found: str, known: str, *, copies: bool = False) -> None:
        why = f"has schema {found}, but this program only knows {known}"
        super().__init__("", f"it {why}")
        version = "Daybook version that wrote it, or a newer one (`pip install -U prefect-daybook`)"
        fix = f"a backup or another copy of it needs the {version}"
        if not copies:
            fix = f"install the {version}, or go back to the copy from before the upgrade, in "
            fix += "`backups` in the home"
        self.args = (f"the ledger {why}; {fix}",)


class LedgerError(DaybookError):
    """The ledger refused an operation."""

    code = "ledger"


class LedgerKeyMissing(LedgerError):
    """This home does not have the key of the ledger's encrypted copies; nothing was changed.

    ``why`` is the problem with the key file.
    """

    code = "ledger_key_missing"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the ledger's copies of agents and secrets cannot be decrypted: {why}")


class CopyDamaged(LedgerError):
    """An encrypted copy in the ledger was changed or moved to another name."""

    code = "copy_damaged"

    def __init__(self, label: str) -> None:
        super().__init__(f"the ledger's copy of {label} is damaged")


class IllegalTransition(LedgerError):
    """`ledger.states` does not allow this transition between two run states."""

    code = "illegal_transition"

    def __init__(self, run: str, old: str, new: str) -> None:
        self.run, self.old, self.new = run, old, new
        super().__init__(f"run {run} cannot go from {old} to {new}")


class FenceRefused(LedgerError):
    """A writer lost its claim.

    ``fence`` is the fencing token of the writer, ``current`` the fencing token in force.
    """

    code = "fence_refused"

    def __init__(self, run: str, fence: int, current: int) -> None:
        self.run, self.fence, self.current = run, fence, current
        super().__init__(
            f"run {run} was taken over: the fencing token of this write is {fence}, the current "
            f"one is {current}"
        )


class LeadershipLost(DaybookError):
    """This process is no longer the leader; the caller must write nothing more."""

    code = "leadership_lost"

    def __init__(self, holder: str) -> None:
        super().__init__(f"{holder} is no longer the leader")


class Temporary(DaybookError):
    """A tool did nothing because of a temporary problem, and may be called again.

    ``retry_after`` is the minimum wait in seconds, None if unknown.
    """

    code = "temporary"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class ToolUnreachable(Temporary):
    """A tool's server cannot be reached or started now; nothing was called."""

    code = "tool_unreachable"


class AgentError(DaybookError):
    """The agent failed.

    ``usage`` is the usage of the failed answer, as `ledger.states.Usage`, None if unknown.
    The other attributes are flags:

    - ``final``: a tool call that may have had an effect got no reply. Neither a retry nor a
      fallback is allowed, whatever the error is.
    - ``acted``: the agent made tool calls that may not be repeated. A fallback is not allowed,
      because another agent could repeat their effects; a retry continues after these calls.
    - ``answered``: the agent answered, and failed when it was asked to repair its answer.
    """

    code = "agent"
    usage: dict[str, Any] | None = None
    final: bool = False
    acted: bool = False
    answered: bool = False

    @property
    def allows_retry(self) -> bool:
        """Return whether the same agent may be asked again in a further attempt."""
        return isinstance(self, AgentTemporary | AgentTimeout) and not self.final

    @property
    def allows_fallback(self) -> bool:
        """Return whether another agent may answer in the same attempt: this one did nothing.

        The prompt may have caused `AgentFailed`. An agent whose program was started raises neither
        `AgentTemporary` nor `AgentMisconfigured`, unless it had ``answered``.
        """
        unavailable = isinstance(self, AgentTemporary | AgentMisconfigured)
        return unavailable and not (self.final or self.acted or self.answered)


class AgentMisconfigured(NonRetryable, AgentError):
    """The operator has to change the agent or its account; a retry cannot help."""

    code = "agent_misconfigured"


class AgentFailed(AgentError):
    """The agent failed or refused the request; ``output`` is its output until then."""

    code = "agent_failed"

    def __init__(self, message: str, output: str = "") -> None:
        self.output = output
        super().__init__(message)


class AgentTemporary(AgentError):
    """The agent could not answer now and may be called again; nothing that it started still runs.

    ``retry_after`` is the wait in seconds that the agent's service requested, None if it requested
    no wait.
    """

    code = "agent_temporary"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class AgentTimeout(AgentError):
    """The agent did not answer in time; Daybook ended it with everything that it started.

    ``tool`` is the tool whose call was in progress; empty if no call was in progress.
    """

    code = "agent_timeout"

    def __init__(self, seconds: float, output: str = "", tool: str = "") -> None:
        self.seconds = seconds
        self.output = output
        self.tool = tool
        during = f" while calling {tool}" if tool else ""
        super().__init__(f"no answer within {seconds:g} s{during}; Daybook ended the agent")
