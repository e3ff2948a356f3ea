"""Memory: notebooks in which the runs of a job keep notes, as texts that a person can read.

::

    memory.append ──► memory_versions: a version with the whole text, at most 1,000,000 bytes
    memory.read   ◄── the newest version
                      └ of the job's own notebook, or of a shared one, which a person has created

A job has a notebook of its own, which no other job can read. The jobs of one owner may use the
shared notebooks of this owner; jobs that no agent owns count as the jobs of one owner.
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    commands=(
        Commands(
            "More",
            "commands",
            ("list", "show", "edit", "history", "create", "remove"),
            "memory",
            "Read and edit the notes of agents",
        ),
    ),
    operations="client:Memory",
    agent_tools=(("memory", "tools:memory_tools"),),
    pages="page",
    links=(("/memory", "Memory"),),
    tables="tables",
    retention=("notebooks:delete_old_versions", "notebooks:delete_notebooks"),
)
