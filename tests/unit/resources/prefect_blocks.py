"""Fake Prefect that only has block documents and can lose its database."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from pydantic import SecretStr

from daybook.resources.store import BlockStore

HIDDEN = "********"


class Killed(BaseException):
    """Raised in place of a kill of the process."""


class Steps:
    """Counter of the points before and after each write to either side; kills at one of them."""

    def __init__(self) -> None:
        self.count, self.dies_at = 0, 0

    def step(self) -> None:
        self.count += 1
        if self.count == self.dies_at:
            raise Killed


class FakePrefect:
    """The part of Prefect's client for block documents; secrets are hidden unless requested."""

    api_url = "http://127.0.0.1:4200/api"

    def __init__(self, types: tuple[BlockStore[Any], ...], steps: Steps) -> None:
        self._of, self._steps = types, steps
        self._ticks = itertools.count(1)
        self.types: dict[str, UUID] = {}
        self.documents: dict[UUID, dict[str, Any]] = {}
        self.refuses: dict[str, int] = {}
        self.before_create: Callable[[], Any] | None = None
        self.unlisted: set[str] = set()
        self.asked_for_secrets = 0

    # --- actions of a person or a disk

    def register(self) -> None:
        for each in self._of:
            self.types.setdefault(each.slug, uuid4())

    def lose(self) -> None:
        """Replace the database by an empty one."""
        self.types.clear()
        self.documents.clear()

    def ui(self, slug: str, name: str, **data: Any) -> None:
        """Create or edit a document as a person does in the UI."""
        found = self._find(slug, name)
        if found is None:
            self._made(slug, name, data)
        else:
            found |= {"data": data, "updated": f"tick {next(self._ticks)}"}

    def ui_deletes(self, slug: str, name: str) -> None:
        found = self._find(slug, name)
        assert found is not None
        del self.documents[found["id"]]

    def holds(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(each["slug"], each["name"]): each["data"] for each in self.documents.values()}

    # --- methods of Prefect's client

    async def request(self, method: str, path: str, *, json: dict[str, Any]) -> Any:
        if "block_types" not in json:  # blocks of Prefect with a capability: there are none
            return SimpleNamespace(json=list)
        slugs = set(json["block_types"]["slug"]["any_"])
        if path == "/block_types/filter":
            known = [{"slug": s, "id": str(id_)} for s, id_ in self.types.items() if s in slugs]
            return SimpleNamespace(json=lambda: known)
        assert path == "/block_documents/filter"
        self.asked_for_secrets += json["include_secrets"]
        ids = json["block_documents"].get("id", {}).get("any_")
        names = json["block_documents"].get("name", {}).get("any_")
        found = [
            {
                "id": str(each["id"]),
                "name": each["name"],
                "block_type": {"slug": each["slug"], "name": each["slug"]},
                "block_type_id": str(self.types[each["slug"]]),
                "block_schema_id": str(self.types[each["slug"]]),
                "updated": None if names else each["updated"],
                "data": dict(each["data"]) if json["include_secrets"] else {"value": HIDDEN},
            }
            for each in self.documents.values()
            if each["slug"] in slugs and (ids is None or str(each["id"]) in ids)
            if each["name"] not in self.unlisted and (names is None or each["name"] in names)
        ]
        found.sort(key=lambda each: each["name"])
        page = found[json["offset"] : json["offset"] + json["limit"]]
        return SimpleNamespace(json=lambda: page)

    async def read_block_type_by_slug(self, slug: str) -> Any:
        if slug not in self.types:
            raise ObjectNotFound(Exception())
        return SimpleNamespace(id=self.types[slug])

    async def get_most_recent_block_schema_for_block_type(self, block_type_id: UUID) -> Any:
        return SimpleNamespace(id=block_type_id)

    async def read_block_documents_by_type(self, slug: str, include_secrets: bool) -> list[Any]:
        if slug not in self.types:
            raise _answered(404)
        of = [each for each in self.documents.values() if each["slug"] == slug]
        masked = dict[str, str]()
        if not include_secrets:  # Prefect hides the values of secret fields
            (model,) = (each.model for each in self._of if each.slug == slug)
            secret = (n for n, each in model.model_fields.items() if each.annotation is SecretStr)
            masked = dict.fromkeys(secret, HIDDEN)
        return [
            SimpleNamespace(**{**each, "data": each["data"] | masked}, is_anonymous=False)
            for each in of
        ]

    async def read_block_document_by_name(
        self, name: str, slug: str, include_secrets: bool = True
    ) -> Any:
        found = self._find(slug, name)
        if found is None:
            raise ObjectNotFound(Exception())
        return SimpleNamespace(**found)

    async def create_block_document(self, made: Any) -> Any:
        if self.before_create:
            await self.before_create()
        if made.name in self.refuses:
            raise _answered(self.refuses[made.name], str(made.data))
        (slug,) = [slug for slug, id_ in self.types.items() if id_ == made.block_type_id]
        if self._find(slug, made.name):
            raise ObjectAlreadyExists(Exception())
        self._steps.step()
        id_ = self._made(slug, made.name, made.data)
        self._steps.step()
        return SimpleNamespace(id=id_)

    async def update_block_document(self, id_: UUID, changed: Any) -> None:
        self._steps.step()
        self.documents[id_] |= {"data": changed.data, "updated": f"tick {next(self._ticks)}"}
        self._steps.step()

    async def delete_block_document(self, id_: UUID) -> None:
        if id_ not in self.documents:
            raise ObjectNotFound(Exception())
        self._steps.step()
        del self.documents[id_]
        self._steps.step()

    def _made(self, slug: str, name: str, data: dict[str, Any]) -> UUID:
        id_ = uuid4()
        updated = f"tick {next(self._ticks)}"
        made = {"id": id_, "slug": slug, "name": name, "data": dict(data), "updated": updated}
        self.documents[id_] = made
        return id_

    def _find(self, slug: str, name: str) -> dict[str, Any] | None:
        for each in self.documents.values():
            if (each["slug"], each["name"]) == (slug, name):
                return each
        return None


def _answered(status: int, words: str = "") -> PrefectHTTPStatusError:
    request = httpx.Request("POST", FakePrefect.api_url)
    answer = httpx.Response(status, json={"detail": words}, request=request)
    error = httpx.HTTPStatusError(words, request=request, response=answer)
    return PrefectHTTPStatusError.from_httpx_error(error)
