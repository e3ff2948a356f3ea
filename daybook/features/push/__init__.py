"""Push: a notification on each subscribed phone or browser about a message that needs a person.

::

    page ──► the browser's push service ──► POST /settings/push: endpoint and keys, in a row
                                              │
    outbox: a message that needs a person ──► loop of the keeper: encrypt, sign, send
                                              ├─ 404 or 410 ──► the subscription is deleted
                                              └─ another error ──► shown on the page; the inbox has
                                                                   the message in any case
    sw.js shows the notification ──► a click opens the page of the run

The push service of the browser's maker carries the message, but cannot read it (`encryption`). Its
address comes from a browser, so each request passes the guard for agents' addresses.
"""

from daybook.feature import Feature

FEATURE = Feature(
    package=__name__,
    pages="page",
    tables="tables",
    loops="loops:LOOPS",
    retention=("store:delete_old",),
)
