"""The MCP server: the tools of `daybook.toolbox` on stdio, and on HTTP with bearer tokens.

::

    a client ──► stdio ────────────────────────────► server ──► toolbox.call, as --owner
    a client ──► http: AllowedNames, BearerGuard ──► server ──► toolbox.call, as the token's owner
    a client subscribes ──► resources ──► a feature's `Resources`, which notify the client

The `mcp` package implements the protocol. Its low-level server uses our schemas unchanged, and
starts in two thirds of the time of the frameworks built on it. The server starts without importing
Prefect; the first call of a tool that needs Prefect imports it. On stdio, only the protocol uses
stdout, and printed text and logs go to stderr.

Pitfall: over HTTP, a handler does not run in the task of its request. So the server reads the actor
from the request's scope, not from a context variable. A client may disconnect at any time, but the
server never cancels a write to the ledger that has begun.
"""
