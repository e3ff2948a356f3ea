"""Conversations: people talk to agents, and decide, where messages arrive.

::

    chat ──► platform.receive ──► store: a row for each update, before anything is done
               │ telegram,           │ words.decide (pure): who, and what it means
               │ mailbox             ▼
               │                   handling ─┬─ a prompt: a run that continues the session
               │                             ├─ a button: `delivery.buttons`
               │                             └─ a command: `chat_commands`
               │                                      │ idempotent for the update's id
    chat ◄── channel.send ◄──────── outbox ◄──────────┘

`people` says who may speak, and `listening` is the service of the leading keeper. An account is a
settings document, and a channel like any other.
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    commands=(
        Commands(
            "", "commands", ("connect", "pair", "people", "quiet", "unpair", "heard"), "channels"
        ),
    ),
    documents=("accounts:TELEGRAM", "accounts:SLACK", "accounts:MAIL"),
    blocks=("blocks:TelegramBlock", "blocks:SlackBlock", "blocks:MailboxBlock"),
    channels=("channel:TELEGRAM", "channel:SLACK", "channel:MAIL"),
    pages="page",
    message_buttons="message_buttons:of",
    pictures="pictures:of_runs",
    tables="tables",
    loops="listening:LOOPS",
    retention=("store:delete_old", "pictures:delete_old"),
    restored="store:forget_new",
    status="status:ConversationStatus",
    needs="status:needs",
)
