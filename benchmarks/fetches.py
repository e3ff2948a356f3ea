"""CPU of Daybook for each call of `web.fetch` in a run: a page of HTML, and one of JSON.

A model of this module calls the tool `CALLS` times in each run, and reads a new address each time.
Runs of three kinds alternate: without a call, with calls that read JSON, with calls that read HTML.
The cost of a call is the CPU of the worker and its processes in a run with calls, less that of the
run without one before it, divided by `CALLS`. So it includes the request to the model that makes
the call, and the two records of the step.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import Any

from benchmarks import usage
from benchmarks.report import header, progress, row, short
from benchmarks.testbed import Testbed, Worker
from daybook.agents import documents
from daybook.api import jobs, runs

CALLS = 10
KINDS = ("none", "json", "html")
ITEMS = 300
_ITEM = "The lamp at pier {n} is painted green, and the ferry leaves at 17:45 every day. "
PAGES = {
    "json": (
        "application/json",
        json.dumps([{"number": n, "title": _ITEM.format(n=n)} for n in range(ITEMS)]).encode(),
    ),
    "html": (
        "text/html",
        "".join(
            f'<div class="row"><h3>Pier {n}</h3><p>{_ITEM.format(n=n)} '
            f'<a href="/pier/{n}">more</a></p></div>'
            for n in range(ITEMS)
        ).encode(),
    ),
}


@dataclass
class Result:
    """Seconds of CPU of each run, by its kind, in the order of the runs."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {each: [] for each in KINDS})

    def per_call(self, kind: str) -> float:
        pairs = zip(self.seconds[kind], self.seconds["none"], strict=True)
        return median(with_calls - without for with_calls, without in pairs) / CALLS


class _Handler(BaseHTTPRequestHandler):
    """The model, and the pages."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        messages = json.loads(self.rfile.read(length))["messages"]
        kind = next(each for each in KINDS if f"read {each}" in str(messages))
        read = sum(each["role"] == "tool" for each in messages)
        message: dict[str, Any] = {"role": "assistant", "content": "Done."}
        if kind != "none" and read < CALLS:
            url = f"http://{self.headers['Host']}/{kind}/{read}"
            call = {"name": "web_fetch", "arguments": json.dumps({"url": url})}
            message["tool_calls"] = [{"id": f"call_{read}", "type": "function", "function": call}]
        answer = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_767_225_600,
            "model": "a",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
        self._send("application/json", json.dumps(answer).encode())

    def do_GET(self) -> None:
        self._send(*PAGES[self.path.split("/")[1]])

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def _serving() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def measure(bed: Testbed, count: int) -> Result:
    """Measure ``count`` runs of each kind."""
    await bed.prepare()
    command, environment = bed.worker_command("fetches", 1)
    result = Result()
    with _serving() as address:
        settings = {"model": "openai:a", "base_url": f"{address}/v1", "api_key": "k-12345678"}
        await documents.add(bed.client, "reader", "model", settings | {"tools": ["web.fetch"]})
        for kind in KINDS:
            prompt = f"read {kind}"
            fields = {"prompt": prompt, "agent": "reader", "session": "new", "on_demand": True}
            await jobs.add({"name": f"fetch-{kind}", **fields})
        environment |= {"DAYBOOK_ALLOWED_HOSTS": "127.0.0.1"}
        async with bed.worker(command, environment) as worker:
            for number in range(count + 1):
                for kind in KINDS:
                    seconds = await _run(worker, f"fetch-{kind}")
                    if number:  # the first ones do imports
                        result.seconds[kind].append(seconds)
                progress(f"run {number} of {count}, a call of HTML: {seconds / CALLS:.3f} s")
    return result


async def _run(worker: Worker, job: str) -> float:
    """Run the job; return the CPU seconds of the worker and its processes."""
    await worker.wait_idle()
    before = usage.cpu(worker.pid)
    run = await runs.run(job, wait=True)
    if run.status != "succeeded":
        raise RuntimeError(f"{run.status}: {run.reason} {run.error}")
    await worker.wait_idle()
    return usage.cpu(worker.pid) - before


def table(result: Result) -> str:
    none = median(result.seconds["none"])
    rows = [row("a run without a call", f"{short(none)} s")]
    for kind, (_, body) in PAGES.items():
        size = f"{len(body) / 1000:.0f} kB of {kind.upper()}"
        rows.append(row(f"each call, {size}", f"{short(result.per_call(kind))} s"))
    return "\n".join([header("", "CPU"), *rows])
