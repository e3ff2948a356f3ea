"""Diagnosis: the state of the scheduler, and what a person or the operator should do about it.

::

    findings           the diagnoses that the reports share (the model is `daybook.finding`)
    status             running processes, due times, and findings
    today, attention   the last day and the next due times, and problems for a person
    doctor             all checks; `checks` has one module per subject
    health             state and metrics for monitors; callers share a `shared_query`
    outbox_status      the outbox, with its findings
"""
