"""A git server over HTTP: `git http-backend` behind a server of Python, with tokens.

It serves the bare repositories in a folder, and answers requests below `/api/` as the test says,
such as a stand-in of a forge.
"""

from __future__ import annotations

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

Api = Callable[[str, str, dict[str, str], bytes], tuple[int, bytes, dict[str, str]]]
"""Function of method, path with query, headers and body: status, body and headers."""


@dataclass
class GitServer:
    """A server of the repositories in ``root``.

    ``tokens`` are the passwords that it accepts; without any, it asks for none. ``redirects`` is
    the address of a server to which each request is sent on. ``on_request`` is called before each
    answer. ``seen`` are the paths, with the header `Authorization`.
    """

    root: Path
    tokens: set[str] = field(default_factory=set)
    redirects: str = ""
    api: Api | None = None
    on_request: Callable[[], object] = lambda: None
    after_push: Callable[[], object] = lambda: None
    seen: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""

    def is_allowed(self, authorization: str) -> bool:
        kind, _, value = authorization.partition(" ")
        if not self.tokens or kind != "Basic":
            return not self.tokens
        return base64.b64decode(value).decode().partition(":")[2] in self.tokens

    def backend(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
        """Return the output of `git http-backend`."""
        split = urlsplit(path)
        variables = {
            "PATH": os.environ["PATH"],
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_PROTOCOL": headers.get("git-protocol", ""),
            "PATH_INFO": split.path,
            "QUERY_STRING": split.query,
            "REQUEST_METHOD": method,
            "CONTENT_TYPE": headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
            "REMOTE_USER": "token",
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env=variables, capture_output=True, check=True
        )
        return done.stdout


class _Handler(BaseHTTPRequestHandler):
    """The protocol of HTTP, and the one of CGI."""

    protocol_version = "HTTP/1.1"
    git: GitServer

    def handle_any(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._body(headers)
        git, authorization = self.git, headers.get("authorization", "")
        git.seen.append((self.path, authorization))
        git.on_request()
        if git.redirects:
            self._send(302, b"", {"Location": git.redirects + self.path})
        elif self.path.startswith("/api/") and git.api is not None:
            self._send(*git.api(self.command, self.path, headers, body))
        elif not git.is_allowed(authorization):
            self._send(401, b"", {"WWW-Authenticate": 'Basic realm="git"'})
        else:
            head, _, content = git.backend(self.command, self.path, headers, body).partition(
                b"\r\n\r\n"
            )
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self._send(int(fields.pop("Status", "200")[:3]), content, fields)
            if urlsplit(self.path).path.endswith("/git-receive-pack"):
                git.after_push()

    do_GET = do_POST = do_PUT = do_PATCH = handle_any

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """The client was killed."""


@contextmanager
def serving_git(root: Path, certificate: Path | None = None) -> Iterator[GitServer]:
    """Yield a server that listens until the context ends; with a certificate, on HTTPS."""
    git = GitServer(root)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"git": git}))
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # The handshake is in the thread of the connection.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        scheme = "https"
    git.address = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield git
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
