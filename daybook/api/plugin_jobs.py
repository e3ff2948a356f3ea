"""Jobs of a plugin: identified by plugin and key, and calling the plugin's tool.

::

    save ─► the plugin has a job of this key       change the fields that differ
         └► it has none                            add it; of two concurrent adds the second
                                                   changes the job that the first one added
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from daybook import owners
from daybook.errors import InvalidInput
from daybook.names import MAX_NAME_LENGTH, truncate

PARAMS = ("plugin_id", "key", "runtime_name", "payload")
"""The arguments of a plugin's tool."""

_IDENTITY = ("plugin_id", "key")


def action_fields(
    plugin_id: str, key: str, runtime_name: str, payload: Any, tool: str = ""
) -> dict[str, Any]:
    """Return the action fields of the job. Raise `InvalidInput` for a blank plugin or key."""
    for field, value in (("plugin_id", plugin_id), ("key", key)):
        if not value.strip():
            raise InvalidInput(field, "is blank", "write a name that identifies the job")
    return {
        "kind": "tool-call",
        "tool": tool or plugin_id,
        "params": dict(zip(PARAMS, (plugin_id, key, runtime_name, payload), strict=True)),
    }


async def save(given: dict[str, Any]) -> dict[str, Any]:
    """Add or change the plugin's job; return it.

    Raise `InvalidInput`, also if the actor is an agent: a plugin's jobs have no limits.
    """
    from daybook.api import jobs

    if owners.current_actor().is_agent:
        raise InvalidInput(
            "agent", "cannot save a plugin's jobs", "save them outside of the agent's context"
        )
    actor = replace(owners.current_actor(), owner=owners.PLUGIN)
    with owners.acting_as(actor):
        existing = await _find(given["params"])
        if existing is None:
            try:
                return await jobs.add({"name": _name(given["params"]), **given})
            except InvalidInput as error:
                existing = await _find(given["params"]) if error.field == "name" else None
                if existing is None:
                    raise
        return await jobs.edit_job(existing["id"], given)


async def _find(params: dict[str, Any]) -> dict[str, Any] | None:
    from daybook.api import jobs

    identity = [params[name] for name in _IDENTITY]
    for each in await jobs.list_jobs():
        of_plugin = each["owner"] == owners.PLUGIN and each["kind"] == "tool-call"
        if of_plugin and [each["params"].get(name) for name in _IDENTITY] == identity:
            return each
    return None


def _name(params: dict[str, Any]) -> str:
    return truncate(" ".join(f"{params['plugin_id']}: {params['key']}".split()), MAX_NAME_LENGTH)
