"""The verbs: what a person or a program can ask of Daybook, one module a noun.

Purpose: the command line, and later MCP and HTTP, call these and nothing else. Contract: a verb is
an async function that takes plain values and gives plain JSON-ready dictionaries (their shapes are
in `views`), or raises an error of `daybook.errors`. A change needs Prefect reachable and is refused
before anything is written when it is not; what only reads the ledger works without Prefect.

Pitfalls: each verb imports only what it needs, so that `list` starts without Prefect and `next`
without a database. Nothing is imported here.
"""
