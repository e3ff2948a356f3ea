"""Heartbeat: commands for a job in which an agent carries out standing orders regularly.

A heartbeat is an ordinary job of the kind `heartbeat`; its act is in `execution.heartbeat`. The job
does not exist until `operations.on` or `daybook add` adds it, so nothing runs by default.
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    commands=(
        Commands(
            "More",
            "commands",
            ("on", "off", "status"),
            "heartbeat",
            "Manage an agent's standing orders",
        ),
    ),
)
