"""Tools with which a model works in the work directory of its job: `files` and `shell`.

pydantic-ai has workspaces for this, but `LocalWorkspaceBackend` follows symbolic links, writes a
file in place, fails if a command prints more than 10 MiB, and does not end the processes that a
command leaves. So `folders` opens and writes files itself, and `agents.process` runs the commands,
as it runs all programs of Daybook. `kept_files` keeps copies of the written files in the ledger.
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    commands=(Commands("More", "commands", ("files",)),),
    operator_tools="run_tools:TOOLS",
    agent_tools=(("files", "file_tools:file_tools"), ("shell", "shell:shell_tools")),
    files="kept_files",
    settings="settings:WorkSettings",
    tables="tables",
    retention=("kept_files:delete_old",),
)
