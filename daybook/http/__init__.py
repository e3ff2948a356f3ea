"""HTTP requests to URLs that a job, an agent or a redirect chose.

::

    execution.webhook ─► secrets.fill ─► request.request ─► httpx_transport ──┬─► transport ─► guard
    (an MCP client by URL) ───────────────────────────────► httpx2_transport ─┘

`guard` decides which IP addresses a request may reach. This depends on the owner of the job and on
the writer of the URL. `transport` enforces the decision: each request has its own connection to an
IP address that was checked for the request, even after a redirect. A sender of many requests to one
URL may keep the connection for a few seconds. No module here reads proxy settings, `.netrc` or
cookies.

- If another party chose the URL of a request, send the request only with
  `httpx_transport.HttpxTransport`, or with `httpx2_transport.Httpx2Transport` if a library uses
  httpx2.
- No message of this package contains a secret, a query or a path: messages name a URL by scheme,
  host and port.
- Do not pass a checked URL on as text: its host name would be resolved again.
"""
