"""Imports: readers of other schedulers' files, and the writer of their results.

A reader is a module with the name of its system. It turns a file into a `source.Source`, writes
nothing, and does not use the ledger. `writer.write` stores a source in one transaction. `source`,
`shell` and `on_calendar` are shared parts of the readers.

To add a system, write a module here with `read(path)`, add its name to `source.System`, to
`readers.READERS`, to `readers.FILES` and to the help text in `commands`, and add its table to
`docs/guides/imports.md`.
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    pages="page",
    commands=(Commands("Operate", "commands", ("import",)),),
    settings="settings:ImportSettings",
    at_start="operations:migrate_anna",
)
