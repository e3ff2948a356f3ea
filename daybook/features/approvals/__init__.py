"""Approvals: commands, tools and buttons with which a person decides what a run waits for.

The claim decides which calls and answers wait (`runs.approvals`); `status`, Today and the run's
page name them.
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    commands=(Commands("More", "commands", ("approve", "reject")),),
    operator_tools="tools:TOOLS",
    pages="page",
    message_links="links:lines",
    message_buttons="message_buttons:of",
    settings="settings:ApprovalSettings",
)
