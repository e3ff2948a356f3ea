"""HTTP requests to URLs that a job, an agent or a redirect chose.

::

    execution.webhook ─► secrets.fill ─► request.request ─► httpx_transport ──┬─► transport ─► guard
    (an MCP client by URL) ───────────────────────────────► httpx2_transport ─┘

`guard` decides which IP addresses a request may reach, by the job's owner and the URL's writer.
`transport` enforces this: each request has its own connection to an IP address that was checked for
it, even after a redirect. A sender of many requests to one URL may keep the connection for a few
seconds. Nothing here reads proxy settings, `.netrc` or cookies.

- Send a request to a URL that another party chose with `httpx_transport.HttpxTransport`, or with
  `httpx2_transport.Httpx2Transport` if a library uses httpx2, and with no other client.
- No message of this package contains a secret, a query or a path: messages name a URL by scheme,
  host and port.
- Do not pass a checked URL on as text: its host name would be resolved again.
"""
