"""Backups: encrypted files with a ledger, its settings and its keys, and the rules of a restore.

::

    archive   the file: encrypted with a passphrase, and written completely or not at all
    create    backups of this home on request, and nightly backups with their retention
    restore   reads a backup into an empty home
    uncertain a restored ledger: nothing that may have run since the backup runs again

`daybook.operations.ledger_move` moves a ledger to another database.
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    commands=(Commands("Operate", "commands", ("backup", "restore")),),
    settings="settings:BackupSettings",
    pages="page",
    loops="services:LOOPS",
    ledger_checks=(("backups", "checks:backups"),),
)
