"""What goes out to an address that a job, an agent or a redirect chose (requirements 36 and 38).

::

    webhook.prepare ─► secrets.fill ─► http.request ─► httpx_transport ──┬─► transport ─► guard
    (an MCP client by URL) ──────────────────────────► httpx2_transport ─┘

`guard` says which addresses may be reached, by the rule of who made the job. `transport` holds it
to that: each request has a connection of its own, which goes to an address that was judged for it,
redirects included; who sends many to one address may keep it for some seconds. Nothing here reads
proxies, `.netrc` or cookies from anywhere.

- A request to an address that another party chose is sent by `httpx_transport.HttpxTransport`, or,
  where a library brings httpx2, by `httpx2_transport.Httpx2Transport`, and by no other client.
- No message of this room holds a secret, a query or a path: of an address it tells scheme, host
  and port.
- A name that was judged is not looked up again; an address that is passed on as text would be.
"""
