"""Operations on hooks: add, list, show, rotate, test, remove, and the delivery of a request.

`add` and `rotate` return the secret if they have created it. The sender needs the secret to sign
requests. No other operation returns a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pydantic import BaseModel, Field

from daybook.api import authorization, web_address
from daybook.api.documents import Documents
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.home_secret import ROTATION_GRACE, rotating_until
from daybook.errors import InvalidInput, NotFound
from daybook.features.hooks import documents, requests, signatures
from daybook.features.hooks.documents import STORE, Hook
from daybook.features.hooks.requests import HookRequest
from daybook.features.hooks.settings import DEFAULT_RATE
from daybook.features.hooks.signatures import SchemeName
from daybook.instants import UtcTime
from daybook.jobs import payloads, store
from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger, reading
from daybook.ledger.tables import JobRow, RunRow
from daybook.prefect import client as prefect
from daybook.resources.store import DocumentView

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

PATH = "/hooks/"
"""The beginning of a hook's path at the web server; the hook's name follows."""

RATE_PERIOD = requests.PERIOD
"""The period for which a hook's rate is the maximum number of runs."""

TEST_PAYLOAD = {"test": True}
"""The payload of a test if the caller gives none."""

NO_PAYLOAD_NOTE = "the job does not use {{payload}}, so its runs do not get what a request sends"


class HookDetails(DocumentView, frozen=True):
    """A hook, without its secrets.

    ``job`` is the name of the hook's job; None if the job was removed. If the stored block is
    invalid, ``problem`` is the reason, and the other fields can be any JSON values. Until
    ``rotating_until``, the previous secret is also valid; None means that no rotation is in
    progress.
    """

    name: str
    path: str
    job: str | None
    job_id: Any
    scheme: Any
    filters: Any
    rate: Any
    rotating_until: UtcTime | None
    problem: str | None


class SavedHook(HookDetails, frozen=True):
    """A hook that was stored, with hints for the user in ``notes``.

    ``secret`` is None unless this call created it.
    """

    secret: str | None = Field(repr=False)
    notes: list[str]


class RotatedHookSecret(BaseModel, frozen=True):
    """A new secret of a hook. ``secret`` is None if the caller passed the new secret.

    Until ``rotating_until``, the old secret is also valid. ``rotating_until`` is None if the old
    secret is no longer valid.
    """

    name: str
    secret: str | None = Field(repr=False)
    rotating_until: UtcTime | None


class HookTest(BaseModel, frozen=True):
    """Result of a test: the response of the web server, and the run that the request started.

    ``status_code`` is None if the server did not answer; then ``answer`` is the reason. ``run_id``
    is None if no run started.
    """

    id: str
    url: str
    ok: bool
    status_code: int | None
    run_id: str | None
    answer: str


async def add(
    name: str,
    job: str,
    *,
    scheme: SchemeName = "standard",
    secret: str | None = None,
    filters: Sequence[str] = (),
    rate: int = DEFAULT_RATE,
    replace: bool = False,
) -> SavedHook:
    """Store a hook that starts ``job``, and return the hook.

    Create a secret unless ``secret`` is given. With ``replace``, replace the hook with this name;
    if ``secret`` is None, keep its secret. ``rate`` is the maximum number of runs per minute.

    Raise `NotFound` or `Ambiguous` for the job. Raise `InvalidInput` for an invalid name, scheme,
    filter, rate or secret. Raise it also if ``secret`` is None and the sender has to create the
    secret, and if the secret of the replaced hook is invalid in the scheme.
    """
    STORE.check_name(name)
    documents.check_scheme(scheme)
    async with reading() as session:
        stored = await authorization.find_job(session, job)
    async with prefect.answering() as client:
        kept = await _kept_secrets(client, name, scheme) if replace and secret is None else {}
        settings = kept or {"secret": documents.secret_for(scheme, secret)}
        settings |= {"job": stored.id, "scheme": scheme, "filters": list(filters), "rate": rate}
        made = await documents.save(client, name, settings, replace=replace)
    notes = [] if stored.job.uses_payload() else [NO_PAYLOAD_NOTE]
    return SavedHook.of(
        STORE,
        name,
        settings,
        **_unstored(name, settings, stored.row.name),
        secret=None if kept or secret else made.secret,
        notes=notes,
    )


async def _kept_secrets(client: PrefectClient, name: str, scheme: SchemeName) -> JsonObject:
    """Return the secrets of the hook with this name; {} if there is no such hook or no secret.

    Raise `InvalidInput` if the secrets are invalid in ``scheme``. Creating a new secret would not
    help, because the sender would still sign with the old secret.
    """
    document = await STORE.find(client, name, include_secrets=True)
    stored = {} if document is None else dict(document.data)
    kept = {each: stored[each] for each in documents.SECRET_FIELDS if stored.get(each)}
    if "secret" not in kept:
        return {}
    try:
        old = documents.build(name, {"job": "any", "scheme": scheme, **kept})
    except InvalidInput as error:
        raise InvalidInput(
            "secret",
            f'of the hook "{name}" cannot be kept: {error.problem}',
            "pass the one of the sender, or remove the hook first",
        ) from None
    rotates = old.rotating_until(SYSTEM_CLOCK.now()) is not None
    return kept if rotates else {"secret": old.secret}


class _HookDocuments(Documents[HookDetails]):
    """The hooks, each with its job."""

    async def more(
        self, client: PrefectClient, documents: Sequence[BlockDocument]
    ) -> Callable[[str, Mapping[str, Any]], Mapping[str, Any]]:
        jobs = await _job_names([each.data.get("job") for each in documents])
        return lambda name, data: _unstored(name, data, jobs.get(str(data.get("job"))))

    async def edit(self, name: str, changes: Mapping[str, Any]) -> HookDetails:
        """Change only the given settings; ``job`` is a name or an id."""
        if "job" in changes:
            async with reading() as session:
                job = await authorization.find_job(session, str(changes["job"]))
            changes = {**changes, "job": job.id}
        return await super().edit(name, changes)


DOCUMENTS = _HookDocuments(STORE, HookDetails)
list_hooks, show, remove = DOCUMENTS.list, DOCUMENTS.show, DOCUMENTS.remove


async def rotate(
    name: str, *, secret: str | None = None, at_once: bool = False
) -> RotatedHookSecret:
    """Replace a hook's secret by ``secret`` or a new one.

    The old secret stays valid for a day, unless ``at_once``. Raise `NotFound`, and `InvalidInput`
    for an invalid secret, invalid stored settings or, unless ``at_once``, during an earlier
    rotation.
    """
    now, keep = SYSTEM_CLOCK.now(), timedelta() if at_once else ROTATION_GRACE
    async with prefect.answering() as client:
        made = await documents.rotate(client, name, now, secret=secret, keep=keep)
    return RotatedHookSecret(
        name=name, secret=None if secret else made.secret, rotating_until=made.rotating_until(now)
    )


async def test(
    name: str, payload: Any = None, *, url: str = "", delivery_id: str | None = None
) -> HookTest:
    """Send a signed request to a hook, as the sender would do.

    The run that it starts is a real run. ``payload`` is any JSON value except null; if it is None,
    send `{"test": true}`. ``url`` is the address of the web server, by default the server on this
    machine. Raise `NotFound`, and `InvalidInput` for an invalid ``payload``, ``url`` or
    ``delivery_id``, or invalid stored settings.
    """
    import httpx

    address = f"{(url or web_address.local_url()).rstrip('/')}{PATH}{name}"
    try:
        port = httpx.URL(address).port
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InvalidInput("url", f"is not a valid URL: {error}", "use http://host:port") from None
    if port is not None and not 0 < port < 2**16:
        raise InvalidInput("url", f"port {port} is out of range", "use 1 to 65535")
    sent_id = delivery_id or f"msg_{uuid4().hex}"
    if not signatures.is_id(sent_id):
        raise InvalidInput("delivery_id", f"{sent_id!r} is not an id", f"use {signatures.ID_FORM}")
    payload = TEST_PAYLOAD if payload is None else payload
    try:
        payloads.as_body(payload)
    except (TypeError, ValueError) as error:
        raise InvalidInput("payload", f"is not JSON: {error}", "use a JSON value") from None
    async with prefect.answering() as client:
        hook = await documents.read(client, name)
    if isinstance(payload, dict) and hook.scheme.id_in({"id": sent_id}) is not None:
        payload = {"id": sent_id, **payload}
    body = payloads.as_body(payload)
    headers = hook.scheme.sign(hook.secret, sent_id, body, SYSTEM_CLOCK.now())
    headers["content-type"] = "application/json"
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=30.0) as http:
            answer = await http.post(address, content=body, headers=headers)
    except (httpx.HTTPError, UnicodeError) as error:  # no name of a host, such as `a..b`
        why = f"{address} does not answer ({type(error).__name__}); start `daybook up`"
        return HookTest(
            id=sent_id, url=address, ok=False, status_code=None, run_id=None, answer=why
        )
    run_id = None
    with suppress(ValueError, AttributeError):
        run_id = answer.json().get("run_id")
    return HookTest(
        id=sent_id,
        url=address,
        ok=answer.is_success,
        status_code=answer.status_code,
        run_id=run_id,
        answer=answer.text.strip(),
    )


async def deliveries(hook: HookDetails, limit: int = 5) -> list[RunRow]:
    """Return the runs of the last deliveries that started one, newest first."""
    async with reading() as session:
        return await requests.latest(session, str(hook.job_id), hook.name, limit)


async def find_run(ledger: Ledger, hook: Hook, delivery_id: str) -> str | None:
    """Return the id of the run that an earlier request with this id started, or None.

    The job may have been paused or removed since. Raise `LedgerUnreachable`.
    """
    return await requests.find(ledger, hook.job, hook.name, delivery_id)


async def deliver(ledger: Ledger, hook: Hook, delivery_id: str, payload: Any) -> HookRequest:
    """Request a run for a delivery; a repeated delivery returns the first run.

    Raise `NotFound` if the job was removed, and `LedgerUnreachable`.
    """
    async with ledger.read() as session:
        stored = await store.get(session, hook.job)
    if stored is None or stored.row.archived_at is not None:
        raise NotFound("job", hook.job, f"the job of the hook {hook.name} was removed")
    return await requests.request(ledger, stored, hook.name, delivery_id, payload, rate=hook.rate)


async def _job_names(ids: Sequence[Any]) -> dict[str, str]:
    """Return the names of the jobs with these ids, by id; omit removed jobs."""
    names = {}
    async with reading() as session:
        for each in {each for each in ids if isinstance(each, str)}:
            row = await session.get(JobRow, each)
            if row is not None and row.archived_at is None:
                names[each] = row.name
    return names


def _unstored(name: str, data: Mapping[str, Any], job: str | None) -> JsonObject:
    """Return the fields of a hook's view that are not settings. ``job`` is the job's name."""
    until = rotating_until(STORE, data, SYSTEM_CLOCK.now())
    return {"path": f"{PATH}{name}", "job": job, "job_id": data.get("job"), "rotating_until": until}
