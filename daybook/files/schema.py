"""JSON schema of a jobs file, derived from the models of a job."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from daybook.files.jobs_file import JOBS, RENAMED_FROM, SET
from daybook.jobs.actions import ACTIONS
from daybook.jobs.model import FIELDS, Job
from daybook.jobs.notify import Notify
from daybook.json_text import JsonObject
from daybook.policies.policy import Policy
from daybook.schedules.fields import ScheduleFields

_NO_SECTIONS: Mapping[str, tuple[JsonObject, JsonObject]] = {}
DIALECT = GenerateJsonSchema.schema_dialect
_MORE = ("on", "timezone")
"""Fields of a schedule that alone define no due time."""


def schema(sections: Mapping[str, tuple[JsonObject, JsonObject]] = _NO_SECTIONS) -> JsonObject:
    """Return the JSON schema of a jobs file, for editors.

    ``sections`` has the schema of the entries of each further section, and its definitions. The
    schema has the fields, their types and choices. Only `daybook apply` checks rules that depend on
    other fields or on the ledger.
    """
    definitions: JsonObject = {}
    properties: JsonObject = {}
    for model in (Job, *ACTIONS.values(), ScheduleFields, Policy, Notify):
        for name, each in _properties(model, definitions).items():
            properties.setdefault(name, each)
    when = _properties(ScheduleFields, definitions)
    text = when.pop("schedule")
    properties["schedule"] = {
        "description": "When the job is due: one text, or the fields of a schedule.",
        "anyOf": [text, {"type": "object", "properties": when, "additionalProperties": False}],
    }
    properties["name"] |= {"description": "Unique name, by which the job is found again."}
    properties[RENAMED_FROM] = {
        "type": "string",
        "description": "Earlier name of the job, which keeps its history.",
    }
    job = {
        "type": "object",
        "additionalProperties": False,
        "required": ["name"],
        "properties": {
            name: properties[name] for name in (*FIELDS, RENAMED_FROM) if name in properties
        },
        "allOf": [
            {"anyOf": [_requires(kind, model) for kind, model in ACTIONS.items()]},
            {"anyOf": [{"required": [name]} for name in ("schedule", *when) if name not in _MORE]},
        ],
    }
    whole = {
        "$schema": DIALECT,
        "title": "Jobs of Daybook",
        "description": "Jobs file of `daybook apply`.",
        "type": "object",
        "additionalProperties": False,
        "anyOf": [{"required": [name]} for name in (JOBS, *sections)],
        "properties": {
            SET: {
                "type": "string",
                "description": "Name of the set that owns the jobs. Default: the name of the file "
                "or folder.",
            },
            **{name: {"type": "array", "items": entry} for name, (entry, _) in sections.items()},
            JOBS: {"type": "array", "items": {"$ref": "#/$defs/Job"}},
        },
    }
    for _, more in sections.values():
        definitions |= more
    definitions["Job"] = job
    return whole | {"$defs": _used(whole, definitions)}


def _properties(model: type[BaseModel], definitions: JsonObject) -> JsonObject:
    """Return the schemas of a model's fields, and add the definitions that they refer to."""
    found = model.model_json_schema(mode="validation")
    definitions.update(found.pop("$defs", {}))
    return dict(found["properties"])


def _requires(kind: str, model: type[BaseModel]) -> JsonObject:
    needed = [name for name, field in model.model_fields.items() if field.is_required()]
    if needed:
        return {"required": needed}
    return {"required": ["kind"], "properties": {"kind": {"const": kind}}}


def _used(top: object, definitions: JsonObject) -> JsonObject:
    """Return the definitions that ``top`` refers to, directly or indirectly."""
    found, left = JsonObject(), [top]
    while left:
        each = left.pop()
        if isinstance(each, list):
            left += each
        elif isinstance(each, dict):
            left += each.values()
            name = str(each.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found[name] = definitions[name]
                left.append(definitions[name])
    return dict(sorted(found.items()))
