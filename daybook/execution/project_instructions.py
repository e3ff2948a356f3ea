"""Instructions of a project for a model: the file `AGENTS.md` of its folder, or `CLAUDE.md`.

A changed text would be a changed request, which a further attempt pays again. So the journal
records the text as a step, and every attempt of the run uses the text that the first one has read.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import os

from daybook.agents.journal import PlannedStep, StepPosition, StepReply
from daybook.execution.journal import RunJournal
from daybook.ledger.texts import sanitize
from daybook.processes import regular_files
from daybook.processes.regular_files import NotRegular

NAMES = ("AGENTS.md", "CLAUDE.md")
"""Names of the files. The first one that has a text counts."""

MAX_BYTES = 32 * 1024
"""Maximum size of the part that a model gets, in bytes."""


async def load(work_dir: str, journal: RunJournal | None, agent: int) -> str:
    """Return the instructions for a model; "" if there are none.

    ``work_dir`` is the real path of a work directory, and ``agent`` is `AgentRequest.fallback`. The
    run's transcript has the path and the digest of the file, or the reason why it cannot be read.
    Raise the errors of `RunJournal.keep`.
    """
    position = StepPosition(agent, question=1, request=0)

    async def find() -> tuple[PlannedStep, StepReply] | None:
        return await asyncio.to_thread(_find, work_dir, position)

    if journal is not None:
        return str(await journal.keep(position, find) or "")
    found = await find()
    return "" if found is None else str(found[1].value)


def _find(work_dir: str, position: StepPosition) -> tuple[PlannedStep, StepReply] | None:
    """Return the step that has read the file; a failed one if no file can be read."""
    problem, path = "", work_dir
    try:
        with regular_files.opened_folder(work_dir) as folder:
            for name in NAMES:
                path = os.path.join(work_dir, name)
                try:
                    content, status = regular_files.read(folder, name, MAX_BYTES + 1)
                except FileNotFoundError:
                    continue
                except NotRegular as error:
                    problem = problem or f"{path} {error}, so it is not read"
                    continue
                except OSError as error:
                    problem = problem or f"{path} cannot be read: {error.strerror}"
                    continue
                if text := _decoded(content, status.st_size):
                    return _step(position, path, content[:MAX_BYTES], text)
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}"
    if not problem:
        return None
    step = PlannedStep(position, "instructions", NAMES[0], {"path": path}, path, repeatable=True)
    return step, StepReply(error=problem, value="")


def _decoded(content: bytes, size: int) -> str:
    is_cut = len(content) > MAX_BYTES
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(content[:MAX_BYTES], final=not is_cut).removeprefix("\ufeff").strip()
    note = f"\n[cut here: the file has {size:,} bytes, of which {MAX_BYTES:,} are shown]"
    return str(sanitize(text)) + note * bool(text and is_cut)


def _step(
    position: StepPosition, path: str, content: bytes, text: str
) -> tuple[PlannedStep, StepReply]:
    digest = hashlib.sha256(content).hexdigest()
    facts = {"path": path, "sha256": digest}
    name = os.path.basename(path)
    step = PlannedStep(position, "instructions", name, facts, path, repeatable=True)
    about = f"SHA-256 {digest}, {len(content):,} bytes"
    given = f"Instructions of the project, from {path}:\n\n{text}"
    return step, StepReply(f"{about}\n\n{text}", value=given)
