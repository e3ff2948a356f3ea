"""Spend: what the runs have cost, by job, agent, model or day, and the use of today's budgets.

The budgets themselves are rules of the claim (`daybook.runs.budget`).
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    commands=(Commands("More", "commands", ("spend",)),),
    operator_tools="tools:TOOLS",
    pages="page",
    links=(("/spend", "Spend"),),
    needs="needs:budgets",
)
