"""The command line: parse, call a verb of `daybook.api`, print.

Contract: data goes to stdout, talk and errors to stderr. With `--json` stdout holds JSON and
nothing else, also when the command ends with an error: `{"error": {"code", "message", "field"?}}`
with the sentence of stderr. Exit codes: 0 done, 1 the other end of what was asked (a run that
failed, not ready, an answer of no), 2 refused, 3 not found, 4 Prefect or ledger unreachable, 130
interrupted, 141 nobody reads on.

A command is a function that returns its exit code, or a coroutine that does: `main` runs it, in the
one event loop of the process.

Pitfalls: `main` names each command by its import path, so only the module of the command that is
called is imported; what is heavy (a verb of the service, rich) is imported inside the command. A
command that talks to Prefect calls `prefect_first` before anything of it is imported.
"""
