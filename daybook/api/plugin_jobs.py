"""Jobs of plugins. A plugin and a key identify a job, which calls the plugin's tool.

::

    save ─► the plugin has a job with this key     change the fields that differ
         └► it has none                            add it; of two concurrent adds the second
                                                   changes the job that the first one added
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daybook import api, owners
from daybook.errors import InvalidInput
from daybook.json_text import JsonObject
from daybook.names import MAX_NAME_LENGTH
from daybook.short_text import prefix

if TYPE_CHECKING:
    from daybook.jobs.views import ChangedJob, ListedJob

PARAMS = ("plugin_id", "key", "runtime_name", "payload")
"""The arguments of a plugin's tool."""

_IDENTITY = ("plugin_id", "key")


def action_fields(
    plugin_id: str, key: str, runtime_name: str, payload: Any, tool: str = ""
) -> JsonObject:
    """Return the action fields of a plugin's job.

    Raise `InvalidInput` for a blank plugin or key.
    """
    for field, value in (("plugin_id", plugin_id), ("key", key)):
        if not value.strip():
            raise InvalidInput(
                field, "is blank", "write plugin_id and key: together they identify the job"
            )
    return {
        "kind": "tool-call",
        "tool": tool or plugin_id,
        "params": dict(zip(PARAMS, (plugin_id, key, runtime_name, payload), strict=True)),
    }


async def save(given: JsonObject) -> ChangedJob:
    """Add the plugin's job, or change its ``given`` fields. Return the job.

    Raise the errors of `jobs.add` and `jobs.edit_job`. If the actor is an agent, raise
    `InvalidInput`: a plugin's jobs have no limits, so an agent must not save them.
    """
    if owners.current_actor().is_agent:
        raise InvalidInput(
            "agent", "cannot save a plugin's jobs", "save them outside the agent's context"
        )
    actor = replace(owners.current_actor(), owner=owners.PLUGIN)
    with owners.acting_as(actor):
        params = given["params"]
        existing = await _find(params)
        if existing is None:
            label = " ".join(f"{params['plugin_id']}: {params['key']}".split())
            name = prefix(label, MAX_NAME_LENGTH)
            try:
                return await api.jobs.add({"name": name, **given})
            except InvalidInput as error:
                existing = await _find(params) if error.field == "name" else None
                if existing is None:
                    raise
        return await api.jobs.edit_job(existing.id, given)


async def _find(params: JsonObject) -> ListedJob | None:
    from daybook.jobs.actions import ToolCall

    identity = [params[name] for name in _IDENTITY]
    for each in await api.jobs.list_jobs():
        given = each.action.params if isinstance(each.action, ToolCall) else {}
        if each.owner == owners.PLUGIN and [given.get(name) for name in _IDENTITY] == identity:
            return each
    return None
