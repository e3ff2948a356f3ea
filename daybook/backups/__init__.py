"""Backups: encrypted files with a ledger, its settings and its keys, and the rules of a restore.

::

    archive   the file: encrypted with a passphrase, complete or not there at all
    create    one backup of this home, and the nightly ones with their retention
    uncertain a restored ledger: nothing in it that may have happened since the backup runs again

`operations.restore` reads a backup into an empty home, and `operations.ledger_move` moves a ledger
to another database.
"""
