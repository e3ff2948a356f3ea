"""Tools with which a model reads one mailbox by IMAP: `mailbox.search` and `mailbox.read`.

They only read: they open a folder with `EXAMINE` and fetch with `BODY.PEEK`, so no message is
marked as read. The setting `imap_url` names the server and the user, and the secret `imap` is the
password.
"""

from daybook.feature import Feature

FEATURE = Feature(
    package=__name__,
    agent_tools=(("mailbox", "tools:mail_tools"),),
    settings="settings:MailSettings",
)
