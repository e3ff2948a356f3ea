"""Repositories: each run works in a worktree of its own, and its change lands at most once.

::

    workspace ──► worktrees ──► tables: the change ──► review ──► landing
        │             └ store      of the run           ├ operations: a person decides
        └ job_programs                                  └ keeping: goes on after a kill

    store        a bare repository in the home, fetched from the job's repository
    worktrees    the folder of a run: created before its agent, collected afterwards
    landing      the branch gets a change once, rebased if it has moved
    forges, pull_requests    a pull request for the branch of a run
    git          commands that run nothing which a repository names

    patches      a patch as files, hunks and lines ──► diff_view, the same as HTML ──► page
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    commands=(Commands("More", "commands", ("review", "land", "discard", "worktrees")),),
    operations="client:Repositories",
    operator_tools="tools:TOOLS",
    workspace="workspace:RunWorkspace",
    pages="page",
    links=(("/changes", "Changes"),),
    run_links="page:links",
    message_buttons="message_buttons:of",
    needs="needs:waiting",
    changes="changes:parts",
    ledger_checks=(("git", "checks:git"),),
    settings="settings:RepositorySettings",
    tables="tables",
    loops="keeping:LOOPS",
    retention=("keeping:delete_old",),
)
