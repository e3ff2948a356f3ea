"""The command line: each command parses its arguments, calls `daybook.api` and prints the result.

Contract: data goes to stdout, and messages and errors go to stderr. With `--json`, stdout contains
only JSON. If the command fails, this is `{"error": {"code", "message", "field"?, "mistakes"?}}`
with the same message as on stderr. If a command acts on several things, stdout has the list of
results, and stderr has the errors. Exit codes::

    0      success
    1      a negative result (a failed run, not ready, not confirmed), or an error without its own
           exit code
    2      invalid input, a refused token or a newer ledger
    3      not found, or nothing to claim
    4      Prefect, the ledger or Daybook's pages unreachable
    5      `apply --dry-run` or `diff` found changes
    130    interrupted
    141    broken pipe

A command is a function or a coroutine function that returns its exit code. `main` runs the
coroutine in the only event loop of the process. Most commands are async generators that yield their
answer. With `--json`, the decorator `command` prints this answer.

`entry` starts the program. If `daybook up` runs, its command server (`command_server`) runs the
command in a fork of a process that has imported everything. Without `up`, on other systems than
Linux, and for some commands (`entry.OWN_PROCESS`), `main` runs the command in this process.

To add a command `verb`, write the function `verb_` in the module of its noun, and add the name to
`main._COMMANDS` or `main._COMMAND_GROUPS`. The function's docstring is the help text. The operation
that the function calls belongs in `daybook.api`. A field of a job or of an agent needs no code
here, because `field_options` derives the options of `daybook add`, `edit` and `agents add` from the
models. `make docs` updates docs/reference/cli.md, and tests/snapshots/cli-help.txt records all help
texts. If a command is a server, or starts or ends processes, also add its name to
`entry.OWN_PROCESS`.

Pitfalls: `main` registers each command by its import path, so that only the module of the called
command is imported. A command imports `api` from `daybook`. `api` imports each of its modules at
its first use. A command imports other heavy modules (rich, `daybook.operations`) inside its
function. A command that uses Prefect has the decorator `command(uses_prefect=True)`, or calls
`prepare_prefect` before it imports any part of Prefect.
"""
