"""Provenance: the last writer of each part of a job that leads to an address."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from daybook.jobs import provenance
from daybook.jobs.model import Job, edit, new_job
from daybook.owners import Actor

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def changed(
    job: Job, by: dict[str, str], writer: str, **changes: Any
) -> tuple[Job, dict[str, str]]:
    new = edit(job, changes, now=NOW)
    return new, provenance.update_authors(job, new, by, writer)


def hook(**fields: Any) -> Job:
    return new_job(now=NOW, url="https://a.example.org/x", every="1h", **fields)


def test_an_edit_makes_its_writer_the_author_of_the_changed_part() -> None:
    job, by = changed(hook(on_fail="https://b.org"), {}, "mcp", url="https://10.0.0.1/x")
    assert provenance.author_of(by, "cli", provenance.ACTION_PARTS) == "mcp"
    assert provenance.author_of(by, "cli", ("on_fail",)) == "cli"
    # Writing the same value again changes no author.
    job, same = changed(job, by, "cli", url="https://10.0.0.1/x", every="2h")
    assert same == by
    # An edit of another part does not make the operator the author of the address; writing the
    # address does.
    job, by = changed(job, by, "cli", on_fail="https://c.org")
    assert provenance.author_of(by, "cli", provenance.ACTION_PARTS) == "mcp"
    job, by = changed(job, by, "cli", url="https://10.0.0.2/x")
    assert provenance.author_of(by, "cli", provenance.ACTION_PARTS) == "cli"


def test_an_empty_part_has_no_author() -> None:
    """A webhook that was added through MCP has no tool and no check."""
    _, by = changed(hook(), {}, "cli", url="https://10.0.0.1/x")
    assert provenance.author_of(by, "mcp", provenance.ACTION_PARTS) == "cli"
    assert provenance.author_of({}, "mcp", provenance.ACTION_PARTS) == "mcp"


def test_the_author_of_each_part_counts() -> None:
    tool = new_job(now=NOW, tool="t", params={"url": "https://a.org"}, every="1h")
    _, by = changed(tool, {}, "cli", tool="u")
    assert (
        provenance.author_of(by, "mcp", provenance.ACTION_PARTS) == "mcp"
    )  # the parameters are still a model's
    _, by = changed(tool, {}, "run", params={"url": "https://b.org"})
    assert provenance.author_of(by, "cli", provenance.ACTION_PARTS) == "run"
    _, by = changed(tool, {}, "mcp", check={"tool": "https://10.0.0.1/#t"})
    assert provenance.author_of(by, "cli", provenance.CHECK_PARTS) == "mcp"
    assert provenance.author_of(by, "cli", provenance.ACTION_PARTS) == "cli"


def test_an_agent_is_the_writer_of_its_edits_through_any_interface() -> None:
    assert Actor("agent:scout", via="api").writer == "agent:scout"
    assert Actor("user", via="mcp").writer == "mcp"
    assert Actor().writer == "cli"
