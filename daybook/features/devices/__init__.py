"""Devices: the browsers that are logged in to the pages, with their names and their last use.

::

    login ──► a row, and a cookie with the row's id ──► each page: is the row there? record the use
                                                        └ revoked, or not used for 30 days: 401

Without this feature, a login is only its signed cookie (`daybook.operations.login`), which no
person can revoke for one browser.
"""

from daybook.feature import Feature

FEATURE = Feature(
    package=__name__,
    pages="page",
    tables="tables",
    changes="store:changes",
    retention=("store:delete_old",),
    restored="store:forget_all",
    devices="store",
)
