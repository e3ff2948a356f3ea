"""Jobs of a plugin (requirement 8): kept by plugin and key, and called as the plugin wants.

::

    keep ─► there is one of this plugin and key     what differs is changed
         └► there is none                           added; of two that add at once one is second,
                                                    and changes what the first has added
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from daybook import owners
from daybook.errors import InvalidInput
from daybook.names import LONGEST, cut

PARAMS = ("plugin_id", "key", "runtime_name", "payload")
"""The arguments of a plugin's callable."""

_WHICH = ("plugin_id", "key")


def fields(
    plugin_id: str, key: str, runtime_name: str, payload: Any, tool: str = ""
) -> dict[str, Any]:
    """What the job does; raises `InvalidInput` for a blank plugin or key."""
    for field, value in (("plugin_id", plugin_id), ("key", key)):
        if not value.strip():
            raise InvalidInput(field, "is blank", "write the name by which the job is known")
    return {
        "kind": "tool-call",
        "tool": tool or plugin_id,
        "params": dict(zip(PARAMS, (plugin_id, key, runtime_name, payload), strict=True)),
    }


async def keep(given: dict[str, Any]) -> dict[str, Any]:
    """The plugin's job, as it is then. Raises `InvalidInput`, also where it is done for an agent:
    what a plugin owns has no limits.
    """
    from daybook.api import jobs

    if owners.current().is_agent:
        raise InvalidInput(
            "agent", "has no plugin's jobs", "keep them outside of the agent's context"
        )
    actor = replace(owners.current(), owner=owners.PLUGIN)
    with owners.acting_as(actor):
        found = await _found(given["params"])
        if found is None:
            try:
                return await jobs.add({"name": _name(given["params"]), **given})
            except InvalidInput as error:
                found = await _found(given["params"]) if error.field == "name" else None
                if found is None:
                    raise
        return await jobs.edit_job(found["id"], given)


async def _found(params: dict[str, Any]) -> dict[str, Any] | None:
    from daybook.api import jobs

    which = [params[name] for name in _WHICH]
    for each in await jobs.list_jobs():
        of_plugin = each["owner"] == owners.PLUGIN and each["kind"] == "tool-call"
        if of_plugin and [each["params"].get(name) for name in _WHICH] == which:
            return each
    return None


def _name(params: dict[str, Any]) -> str:
    return cut(" ".join(f"{params['plugin_id']}: {params['key']}".split()), LONGEST)
