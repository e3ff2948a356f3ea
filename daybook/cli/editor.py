"""Texts in the user's editor, and a job as YAML there, for `daybook edit JOB` without options.

The document has the flat fields of a job, except that the schedule is one text, and that `policy`
and `notify` are objects. Daybook changes only the fields that the user has changed, also within
`policy` and `notify`. So it keeps a concurrent change to another field.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daybook import plain_text
from daybook.cli.options import on_interrupt
from daybook.errors import DaybookError, InvalidInput
from daybook.files.documents import to_yaml
from daybook.jobs.model import Job

if TYPE_CHECKING:
    from daybook.jobs.views import ListedJob

Fields = dict[str, Any]

_HEAD = """\
# {name}. Save the file and close the editor to change the job; change nothing to leave it as it is.
# A line that begins with # is ignored. `daybook edit --help --all` describes the fields.
"""


class EditorFailed(DaybookError):
    """The editor could not be started, or it reported an error."""


def document(job: ListedJob) -> Fields:
    """Return the fields of the document for a job, as JSON values."""
    plain = Job.model_fields.keys() - {"kind", "action", "schedule", "policy", "notify"}
    fields = job.model_dump(mode="json", include=plain)
    return {
        "name": fields.pop("name"),
        **job.action.model_dump(mode="json", exclude={"kind"}),
        "schedule": job.schedule.to_text(),
        "timezone": job.schedule.timezone,
        "enabled": fields.pop("enabled"),
        **fields,
        "policy": job.policy.model_dump(mode="json"),
        "notify": job.notify.model_dump(mode="json"),
    }


class JobEdit:
    """The edit of one job.

    `changes` opens the editor; after an error it shows the error's message.
    """

    def __init__(self, job: ListedJob) -> None:
        self._before = document(job)
        self._head = _HEAD.format(name=job.name)
        self._text = to_yaml(self._before)

    def changes(self, problem: str = "") -> Fields:
        """Open the editor, and return the changed fields; {} if the user changed nothing.

        The editor shows ``problem`` above the document. An empty value becomes the empty string,
        which clears a field. A line that the user deleted changes nothing. Raise `InvalidInput` for
        text that is not a YAML mapping of texts, and `EditorFailed`.
        """
        comment = "".join(f"# {line}\n" for line in problem.splitlines())
        written = open_editor(f"{self._head}{comment}{self._text}")
        lines = written.split("\n")
        self._text = "\n".join(line for line in lines if not line.startswith("#"))
        changed = _changed(self._before, _from_yaml(self._text))
        for name in ("policy", "notify"):
            if isinstance(changed.get(name), dict):
                fields = _changed(self._before[name], changed.pop(name))
                if "channel" in fields:  # a channel alone would clear the chat id
                    fields.setdefault("chat_id", self._before[name]["chat_id"])
                changed |= fields
        return changed

    def keep(self) -> Path:
        """Keep the text as `keep` does."""
        return keep(self._text, ".yaml")


def keep(text: str, suffix: str) -> Path:
    """Write ``text`` to a new file that only its owner can read. Return the path of the file."""
    handle, path = tempfile.mkstemp(prefix="daybook-edit-", suffix=suffix)
    with open(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    return Path(path)


def check_utf8(text: str) -> None:
    """Raise `InvalidInput` for a text that the user has not saved as UTF-8."""
    if any("\udc80" <= letter <= "\udcff" for letter in text):  # by `surrogateescape`
        raise InvalidInput("document", "is not UTF-8 text", "save it as UTF-8")


def _changed(before: Fields, after: Fields) -> Fields:
    return {
        name: "" if value is None else value
        for name, value in after.items()
        if name not in before or value != before[name]
    }


def _from_yaml(text: str) -> Fields:
    import yaml

    check_utf8(text)
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput("document", f"is not YAML: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidInput("document", "is not a mapping", "write a line `field: value` each")
    for name in fields:
        if not isinstance(name, str):
            raise InvalidInput("document", f"{name!r} is not the name of a field")
    return fields


def open_editor(text: str, name: str = "job.yaml") -> str:
    """Return ``text`` after the user has edited it, in a file that only its owner can read.

    ``name`` is the name of the file. Raise `EditorFailed`.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="daybook-edit-") as folder:
        file = Path(folder, name)
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        try:
            # Ctrl-C belongs to the editor. (An ignored signal would be ignored in the editor too.)
            with on_interrupt(lambda number, frame: None):
                done = subprocess.run([*shlex.split(editor), str(file)], check=False)
        except (OSError, ValueError) as error:
            raise EditorFailed(
                f"the editor `{editor}` cannot be started: {error}; set EDITOR to yours"
            ) from None
        if done.returncode != 0:
            raise EditorFailed(f"the editor ended with {done.returncode}; nothing was changed")
        return file.read_text(encoding=plain_text.ENCODING, errors="surrogateescape")
