"""The plan of an application: the steps that make the jobs in the ledger match the files.

::

    in the file   in the ledger                 step
    ───────────   ───────────────────────────   ─────────────────────────────────────────────────
    yes           no job with this name         add, owned by `file:<set>`; nothing, if the job
                                                runs only once, at a time in the past, and is
                                                removed after its run
    yes           owned by the set              change the fields that differ, or nothing
    yes           has another owner             change, if the set adopts the job; otherwise
                                                nothing if no field differs, or a mistake
    no            owned by the set              remove if pruning, otherwise a note
    no            has another owner             nothing

A job of a file may also be found by its earlier name (`renamed_from`). A change of a job's kind is
a mistake. The plan ignores the jobs of agents.

The plan compares `enabled` with the value of the last application, not with the job's value. So if
a person has paused a job, or a job has ended, it stays disabled until the file changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from daybook import owners
from daybook.errors import InvalidInput, Mistake, nearest_name
from daybook.files.jobs_file import RENAMED_FROM, Entry, JobsFile, build, fields_of, flat
from daybook.jobs import store
from daybook.jobs.model import Job, new_job
from daybook.jobs.views import FieldChange
from daybook.json_text import JsonObject

if TYPE_CHECKING:
    from daybook.jobs.store import StoredJob

Verb = Literal["add", "change", "remove"]


@dataclass(frozen=True)
class PlanStep:
    """One change of a job. ``entry`` and ``job`` are None if the step removes the job.

    ``applied`` is the value of `JobRow.applied` to record: the fields as the file has them.
    ``overwrites`` are the changes made outside the file that this step undoes. If ``reason`` is not
    empty, the step disables the job for this reason, and not because the file says so.
    """

    verb: Verb
    name: str
    changes: tuple[FieldChange, ...]
    job: Job | None = None
    before: StoredJob | None = None
    entry: Entry | None = None
    applied: JsonObject | None = None
    overwrites: tuple[FieldChange, ...] = ()
    reason: str = ""
    renamed_from: str = ""


@dataclass
class Plan:
    """Steps in the order of their execution. If there are mistakes, no step may be performed.

    ``applied`` are the unchanged jobs of the set whose `JobRow.applied` is not up to date, each
    with the value to record.
    """

    owner: str
    steps: list[PlanStep] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    applied: list[tuple[StoredJob, JsonObject]] = field(default_factory=list)
    unchanged: int = 0


def set_name(files: Sequence[JobsFile], given: str | None, default: str) -> str:
    """Return the name of the set: ``given``, otherwise the name in the files, or ``default``.

    Raise `InvalidInput` if ``given`` is None and the files name several sets, if there is no name,
    or if the name is invalid.
    """
    names = {each.set_name for each in files if each.set_name}
    if given is None and len(names) > 1:
        problem = f"the files name several sets: {', '.join(sorted(names))}"
        raise InvalidInput("set", problem, "apply them one by one, or add --set NAME")
    name = given if given is not None else next(iter(names), default)
    if not name:
        raise InvalidInput("set", "is missing", "add --set NAME, or a line `set: NAME`")
    return owners.of_file_set(name).removeprefix(owners.FILE_PREFIX)


def make(
    files: Sequence[JobsFile],
    stored: Iterable[StoredJob],
    set_name: str,
    *,
    now: datetime,
    timezone: str,
    prune: bool = False,
    adopt: bool = False,
) -> Plan:
    """Return the plan of these files for the jobs ``stored``.

    ``timezone`` applies to schedules without a time zone. The plan contains the mistakes of all
    files. Raise `InvalidInput` if ``set_name`` is not a valid name.
    """
    owner = owners.of_file_set(set_name)
    named = {each.row.name: each for each in stored if not owners.is_agent(each.row.owner)}
    entries = [entry for file in files for entry in file.entries]
    work = _Planner(Plan(owner), named, entries, now, timezone, adopt)
    work.plan.mistakes += [each for file in files for each in file.mistakes]
    for entry in entries:
        work.add(entry)
    if work.fired:
        names = ", ".join(work.fired)
        work.plan.notes.append(f"not added, because their only due times have passed: {names}")
    if passed := [each.name for each in work.plan.steps if each.reason]:
        names = ", ".join(passed)
        work.plan.notes.append(f"disabled, because their only due times have passed: {names}")
    work.add_leftovers(prune)
    work.check_names()
    work.plan.steps = _in_order(work.plan.steps)
    work.plan.mistakes += [each for entry in entries for each in entry.mistakes]
    return work.plan


def drift(stored: StoredJob) -> list[FieldChange]:
    """Return the fields, except a pause, that were changed after the job was applied from its file.

    There are none for a job that no file owns, that was never applied, or that cannot be read.
    """
    applied = stored.row.applied
    if not owners.is_file(stored.row.owner) or applied is None or stored.problem is not None:
        return []
    before = {name: value for name, value in applied.items() if name != "enabled"}
    return differences(before, flat(stored.job))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[FieldChange]:
    """Return the fields of ``old`` that have another value in ``new``."""
    return [
        FieldChange(field=name, old=value, new=new.get(name))
        for name, value in old.items()
        if value != new.get(name)
    ]


class _Fired(Exception):
    """The time of a new job that runs once and is then removed has passed."""


@dataclass
class _Planner:
    plan: Plan
    named: dict[str, StoredJob]
    entries: list[Entry]
    now: datetime
    timezone: str
    adopt: bool
    desired: dict[str, tuple[Entry, Job, StoredJob | None]] = field(default_factory=dict)
    """The valid jobs of the files by name, each with the stored job that it replaces."""
    kept: set[str] = field(default_factory=set)
    """Ids of the stored jobs that the files contain."""
    fired: list[str] = field(default_factory=list)
    """Names of the jobs of the files that had to run once and be removed, at a time in the past."""

    def __post_init__(self) -> None:
        self.stored = set(self.named)
        self.first: dict[str, Entry] = {}
        for entry in self.entries:
            if entry.name:
                self.first.setdefault(entry.name, entry)

    def add(self, entry: Entry) -> None:
        """Add the step for one job of a file, or the mistakes of the job."""
        if entry.name and self.first[entry.name] is not entry:
            first = self.first[entry.name]
            where = f"{first.file}:{first.position('name').line}"
            problem = f'"{entry.name}" is in the set twice'
            entry.add_mistake(InvalidInput("name", problem, f"keep one; the first is {where}"))
        before = self._before(entry)
        if before is not None and before.problem is not None:
            self.kept.add(before.id)
            entry.add_mistake(before.problem)
            return
        try:
            job = build(entry, partial(self._make, before))
        except _Fired:
            self.fired.append(entry.name)
            return
        if before is not None:
            self.kept.add(before.id)
        if job is None:
            return
        if before is None:
            changes = [FieldChange(field=k, old=None, new=v) for k, v in fields_of(job).items()]
            step = PlanStep("add", job.name, tuple(changes), job, None, entry, flat(job))
            if job.enabled and job.schedule.has_passed(self.now):
                disabled = job.model_copy(update={"enabled": False})
                step = replace(step, job=disabled, reason=store.PASSED_REASON)
            self.plan.steps.append(step)
        elif before.job.kind != job.kind:
            problem = f"cannot be changed from {before.job.kind} to {job.kind}"
            hint = "give the job another name, or remove it first"
            entry.add_mistake(InvalidInput("kind", problem, hint))
            return
        else:
            self._change(entry, before, job)
        self.desired[job.name] = entry, job, before

    def _make(self, before: StoredJob | None, /, **fields: Any) -> Job:
        """Return the job with these fields, as `new_job` does.

        The due times of a new job, and of a disabled one, may have passed, so that an export stays
        valid. Raise `_Fired` for such a new job if it runs once and is then removed.
        """
        job = new_job(
            before.job if before else None,
            now=self.now,
            default_timezone=self.timezone,
            may_have_passed=before is None or fields.get("enabled") is False,
            **fields,
        )
        if before is None and job.policy.delete_after_run and job.schedule.has_passed(self.now):
            raise _Fired
        return job

    def _before(self, entry: Entry) -> StoredJob | None:
        """Return the stored job of the entry, which has the entry's name or its earlier name.

        Add a mistake to the entry if the names are in conflict.
        """
        before, earlier = self.named.get(entry.name), entry.renamed_from
        if not earlier or earlier == entry.name:
            return before
        if earlier in self.first:
            problem = f'"{earlier}" is another job of the set'
            entry.add_mistake(InvalidInput(RENAMED_FROM, problem, "remove renamed_from"))
            return before
        old = self.named.get(earlier)
        if old is None or before is None:
            return before or old
        if old.row.owner == self.plan.owner:
            problem = f'both "{earlier}" and "{entry.name}" exist'
            hint = f"remove renamed_from, or the job {earlier}"
            entry.add_mistake(InvalidInput(RENAMED_FROM, problem, hint))
        return before

    def _change(self, entry: Entry, before: StoredJob, job: Job) -> None:
        is_own = before.row.owner == self.plan.owner
        applied = flat(job)
        if job.enabled:
            job = store.enable_again(before, self._with_enabled(entry, before, job))
        else:
            job = self._with_enabled(entry, before, job)
        changes = differences(flat(before.job), flat(job))
        if not is_own and not self.adopt:
            if changes:
                problem = f"the job exists and belongs to {before.row.owner}"
                fields = ", ".join(each.field for each in changes)
                hint = f"it differs in {fields}; add --adopt to make it part of the set"
                entry.add_mistake(InvalidInput("name", problem, hint))
            else:
                self.plan.unchanged += 1
            return
        if not is_own:
            owner = FieldChange(field="owner", old=before.row.owner, new=self.plan.owner)
            changes = [owner, *changes]
        if changes:
            changed = {each.field for each in changes}
            lost = [each for each in drift(before) if each.field in changed]
            step = PlanStep(
                "change",
                job.name,
                tuple(changes),
                job,
                before,
                entry,
                applied,
                overwrites=tuple(lost),
                renamed_from="" if before.row.name == job.name else before.row.name,
            )
            self.plan.steps.append(step)
            return
        self.plan.unchanged += 1
        if before.row.applied != applied:
            self.plan.applied.append((before, applied))

    def _with_enabled(self, entry: Entry, before: StoredJob, job: Job) -> Job:
        """Return the job with the right value of `enabled`.

        If the file has changed `enabled`, the value is that of the file, otherwise the job's own. A
        job that has ended stays as it is.
        """
        applied = before.row.applied
        is_given = entry.fields.get("enabled") is not None
        last = applied["enabled"] if applied is not None else None
        is_changed = last != job.enabled if applied is not None else is_given
        has_ended = job.schedule.has_passed(self.now) or store.has_had_all_runs(before.row, job)
        if is_changed and not (job.enabled and has_ended):
            return job
        return job.model_copy(update={"enabled": before.job.enabled})

    def add_leftovers(self, prune: bool) -> None:
        """Add removals of the set's jobs that are in no file.

        Without ``prune``, add a note about these jobs instead.
        """
        left = [
            each
            for each in self.named.values()
            if each.row.owner == self.plan.owner and each.id not in self.kept
        ]
        if prune:
            self.plan.steps += [PlanStep("remove", each.row.name, (), before=each) for each in left]
            for each in left:
                del self.named[each.row.name]
        elif left:
            names = ", ".join(each.row.name for each in left)
            self.plan.notes.append(f"not in the files any more, and kept without --prune: {names}")

    def check_names(self) -> None:
        """Add a mistake for each job whose schedule or prompt names a job that will not exist.

        A name that the stored job has already may be that of a job that was removed before.
        Also add a mistake for each job that would run after itself, perhaps through other jobs.
        """
        gone = {
            each.before.row.name
            for each in self.plan.steps
            if each.before is not None and each.job is not None
        }
        live = (self.named.keys() - gone) | (self.first.keys() - set(self.fired))
        after = {name: store.runs_after(each.job) for name, each in self.named.items()}
        after |= {name: store.runs_after(job) for name, (_, job, _) in self.desired.items()}
        for name, (entry, job, before) in self.desired.items():
            given = [("after", after[name]), *(("prompt", x) for x in store.named_outputs(job))]
            known = live | (_named_jobs(before.job) - self.stored if before else set())
            for field_name, other in given:
                if other is not None and other not in known:
                    near = nearest_name(other, live)
                    hint = f'did you mean "{near}"?' if near else "name a job that exists"
                    entry.add_mistake(InvalidInput(field_name, f'unknown job "{other}"', hint))
            chain, other = [name], after[name]
            while other is not None and other not in chain:
                chain.append(other)
                other = after.get(other)
            if other == name:
                problem = f"the jobs would run in a cycle: {' → '.join([*chain, name])}"
                hint = "name a job that does not run after this one"
                entry.add_mistake(InvalidInput("after", problem, hint))


def _named_jobs(job: Job) -> set[str]:
    """Return the names of the jobs that the schedule or the prompt of ``job`` names."""
    return {*store.named_outputs(job), *filter(None, [store.runs_after(job)])}


def _in_order(steps: list[PlanStep]) -> list[PlanStep]:
    """Return the steps: first removals and renames, so that later steps can use the old names."""
    order = {"remove": 0, "change": 2, "add": 3}

    def place(step: PlanStep) -> int:
        return 1 if step.renamed_from else order[step.verb]

    return sorted(steps, key=place)
