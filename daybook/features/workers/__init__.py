"""Workers: their list, the drain of one of them, and homes of other machines that join a ledger.

Each worker records itself, and the claim decides what a draining worker may start
(`daybook.runs.workers`).
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    commands=(
        Commands("Operate", "join_commands", ("invite", "join")),
        Commands(
            "Operate",
            "commands",
            ("list", "drain", "resume"),
            "workers",
            "List the workers, and drain one",
        ),
    ),
    operations="client:Workers",
    operator_tools="tools:TOOLS",
    pages="page",
    status="status:WorkersStatus",
    ledger_checks=(("workers", "status:check"),),
)
