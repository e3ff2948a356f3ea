"""HTTP requests to URLs that a job, an agent or a redirect chose.

::

    execution.webhook ─► secrets.fill ─► request.request ─► httpx_transport ──┬─► transport ─► guard
    (an MCP client by URL) ───────────────────────────────► httpx2_transport ─┘

`delivery.callbacks` and `execution.watches` send like `execution.webhook`. `addresses` classifies
IP addresses, `redirects` builds the request after a redirect, and `bodies` reads a response up to a
limit. `imap` is a connection to a mail server.

`guard` decides which IP addresses a request may reach. The decision depends on the owner of the job
and on the writer of the URL. `transport` enforces the decision. Each request, also after a
redirect, has its own connection to an IP address that was checked for it. A sender of many requests
to one URL may keep its connection for a few seconds. No module here reads proxy settings, `.netrc`
or cookies.

- If another party chose the URL of a request, send the request only with
  `httpx_transport.HttpxTransport`, or with `httpx2_transport.Httpx2Transport` if a library uses
  httpx2.
- No message of this package contains a secret, a query or a path. Messages name a URL by scheme,
  host and port.
- Do not pass a checked URL to another HTTP client as text, because that client would resolve the
  host name again.
"""
