"""Repositories: each run works in a checkout of its own, and its change is recorded.

::

    store          a bare repository in the home, fetched from the job's repository
    checkouts      the folder of a run: created before its agent, collected afterwards
    landing        the branch gets a change once, rebased if it has moved
    pull_requests  the change is proposed at GitHub, GitLab or Gitea, once for its branch
    forges         requests to the APIs of these sites
    git            commands that run nothing which a repository names

No job uses them yet.
"""

from daybook.feature import Feature

FEATURE = Feature(package=__name__)
