"""Diagnosis: the state of the scheduler, and what a person or the operator should do about it.

::

    findings           the diagnoses that the reports share (the model is `daybook.finding`)
    status             running processes, due times, and findings
    today, attention   the last day and the next due times, and problems for a person
    doctor             all checks; `checks` has one module per subject
    health             state and metrics for monitors; callers share a `shared_query`
    incidents          findings about the same trouble of a job, merged for the page Today
    outbox_status      the outbox, with its findings
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daybook import modules_at_first_use

if TYPE_CHECKING:
    from daybook.diagnosis import (  # noqa: I001 - one line for each name
        attention as attention,
        checks as checks,
        doctor as doctor,
        feature_status as feature_status,
        findings as findings,
        health as health,
        incidents as incidents,
        outbox_status as outbox_status,
        shared_query as shared_query,
        status as status,
        today as today,
    )

else:  # hide this from mypy, which would accept any name
    __getattr__, __dir__ = modules_at_first_use(__name__)
