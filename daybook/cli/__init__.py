"""The command line: each command parses its arguments, calls `daybook.api` and prints the result.

Contract: data goes to stdout, messages and errors go to stderr. With `--json` stdout holds only
JSON, also if the command fails: `{"error": {"code", "message", "field"?}}` with the message of
stderr. Exit codes: 0 success, 1 a negative result (a failed run, not ready, an answer of no) or an
error without a code of its own, 2 invalid input, 3 not found, 4 Prefect or the ledger unreachable,
130 interrupted, 141 broken pipe.

A command is a function that returns its exit code, or a coroutine function that does. `main` runs
the coroutine in the only event loop of the process.

Pitfalls: `main` registers each command by its import path, so that only the module of the called
command is imported. A command imports heavy modules (`daybook.api`, rich) inside its function. A
command that talks to Prefect calls `prepare_prefect` before it imports anything of Prefect.
"""
