"""Hooks in a real Prefect: stored, replaced, rotated and removed, secrets never shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentUpdate
from pydantic import SecretStr

from daybook import home as homes
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.home_secret import ROTATION_GRACE
from daybook.errors import InvalidInput, NotFound
from daybook.features.hooks import documents, operations
from daybook.features.hooks.block import HookBlock
from daybook.features.hooks.documents import STORE, Hook
from daybook.features.hooks.index import HookIndex
from daybook.features.hooks.settings import DEFAULT_RATE
from daybook.home import Home
from daybook.ledger.engine import open_ledger
from daybook.signing_secrets import signing_key
from tests.at_prefect import knowing_our_blocks
from tests.world.jobs import Jobs

pytestmark = pytest.mark.anyio

LINE = "a secret of some length"


@pytest.fixture
async def client(prefect_server: object, daybook_home: Home) -> AsyncIterator[PrefectClient]:
    """Yield a client of a Prefect without hooks; the ledger has the job `review`."""
    async with open_ledger() as ledger:
        await Jobs(ledger).add("review", on_demand=True)
    async with knowing_our_blocks(STORE.slug) as client:
        yield client


async def indexed(name: str = "pulls") -> Hook | None:
    """Return the hook as the web server reads it, without Prefect."""
    async with open_ledger() as ledger:
        return await HookIndex(homes.current_home()).find(ledger, name)


async def test_a_hook_is_added_listed_and_removed(client: PrefectClient) -> None:
    made = await operations.add("pulls", "review", filters=["action == opened"], rate=60)
    assert made.secret is not None and len(signing_key(made.secret)) == 32
    assert made.notes == [operations.NO_PAYLOAD_NOTE]
    assert made.secret not in repr(made)
    stored = await indexed()
    assert stored is not None
    assert (stored.secret, stored.filters, stored.rate) == (made.secret, ("action == opened",), 60)
    document = await STORE.find(client, "pulls")
    assert document is not None and made.secret not in str(document.data)

    assert [await operations.show("pulls")] == await operations.list_hooks()
    async with open_ledger() as ledger:
        await Jobs(ledger).edit("review", name="check")
        assert (await operations.show("pulls")).job == "check"
        await Jobs(ledger).archive("check")
    assert (await operations.show("pulls")).job is None

    await operations.remove("pulls")
    assert await indexed() is None
    for verb in (operations.remove("pulls"), operations.show("pulls"), operations.rotate("pulls")):
        with pytest.raises(NotFound, match='hook "pulls" not found'):
            await verb


async def test_a_replaced_hook_keeps_its_secrets(client: PrefectClient) -> None:
    made = await operations.add("pulls", "review")
    with pytest.raises(InvalidInput, match='"pulls" is taken'):
        await operations.add("pulls", "review")
    rotated = await operations.rotate("pulls")
    replaced = await operations.add("pulls", "review", rate=7, scheme="github", replace=True)
    assert (replaced.secret, replaced.rotating_until) == (None, rotated.rotating_until)
    stored = await indexed()
    assert stored is not None
    now = SYSTEM_CLOCK.now()
    assert (stored.rate, stored.secrets(now)) == (7, [rotated.secret, made.secret])

    await operations.add("pulls", "review", scheme="github", secret=LINE, replace=True)
    assert (await operations.add("pulls", "review", scheme="github", replace=True)).secret is None
    with pytest.raises(InvalidInput, match=r"cannot be kept: .* scheme standard") as refused:
        await operations.add("pulls", "review", rate=9, replace=True)
    assert LINE not in str(refused.value)
    assert await indexed() == replace(
        stored,
        secret=LINE,
        previous_secret="",
        previous_until=None,
        rate=DEFAULT_RATE,
    )


async def test_a_replacement_fixes_a_hook_with_invalid_settings(client: PrefectClient) -> None:
    secret = (await operations.add("pulls", "review")).secret
    document = await STORE.find(client, "pulls", include_secrets=True)
    assert document is not None
    for broken, is_kept in (({"rate": 0}, True), ({"secret": ""}, False)):
        data = {**document.data, **broken}
        await client.update_block_document(
            document.id, BlockDocumentUpdate(data=data, merge_existing_data=False)
        )
        assert (await operations.show("pulls")).problem is not None or not is_kept
        fixed = await operations.add("pulls", "review", replace=True)
        stored = await indexed()
        assert stored is not None and stored.secret == (fixed.secret or secret)
        assert (fixed.secret is None) is is_kept


async def test_a_rotated_secret_is_valid_for_a_day(client: PrefectClient) -> None:
    made, before = await operations.add("pulls", "review"), SYSTEM_CLOCK.now()
    rotated = await operations.rotate("pulls")
    until = rotated.rotating_until
    assert until is not None and timedelta() <= until - before - ROTATION_GRACE < timedelta(hours=1)
    stored = await indexed()
    assert stored is not None
    assert stored.secrets(before) == [rotated.secret, made.secret]
    assert stored.secrets(until) == [rotated.secret]
    with pytest.raises(InvalidInput, match="the previous secret is still valid"):
        await operations.rotate("pulls")
    leaked = await operations.rotate("pulls", at_once=True)
    stored = await indexed()
    assert stored is not None and stored.secrets(before) == [leaked.secret]


async def test_invalid_hooks_are_refused_and_nothing_is_stored(client: PrefectClient) -> None:
    with pytest.raises(NotFound, match='did you mean "review"'):
        await operations.add("pulls", "reviews")
    refused: list[tuple[str, dict[str, Any]]] = [
        ("secret: is missing", {"scheme": "stripe"}),
        ("secret: is not a secret", {"secret": LINE}),
        ("secret: is not a secret", {"secret": "short", "scheme": "github"}),
        ("secret: is blank", {"secret": "", "scheme": "github"}),
        ("filters: ", {"filters": ["action"]}),
        ("rate: ", {"rate": 0}),
        ("scheme: ", {"scheme": "gitlab"}),
    ]
    for problem, fields in refused:
        with pytest.raises(InvalidInput, match=problem) as caught:
            await operations.add("pulls", "review", **fields)
        assert LINE not in str(caught.value)
    with pytest.raises(InvalidInput, match="cannot be the name of a hook"):
        await operations.add("Pulls", "review")
    assert await operations.list_hooks() == []


async def test_a_hook_made_in_prefect_is_shown_with_its_problem(client: PrefectClient) -> None:
    block: Any = HookBlock(job="x", secret=SecretStr(LINE), scheme="github")
    await block.asave("pulls", client=client)
    assert block.get_hook().secret == LINE
    assert LINE not in repr(block)
    document = await STORE.find(client, "pulls", include_secrets=True)
    assert document is not None
    with pytest.raises(InvalidInput, match=r"the hook .* is invalid: .*secret: is not a secret"):
        documents.build("pulls", document.data | {"scheme": "standard"})
    shown = await operations.show("pulls")
    assert (shown.job, shown.job_id, shown.problem) == (None, "x", None)
