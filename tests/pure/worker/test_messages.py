from __future__ import annotations

import json
from typing import Any

import pytest

from daybook.worker.messages import FrameDecoder, LaunchRequest, frame

MESSAGES: list[dict[str, Any]] = [
    {"tick": True},
    {"number": 1, "task": {"text": "ä\n" * 50_000}},
    {},
    {"exited": 7},
]


@pytest.mark.parametrize("size", [1, 3, 4, 5, 4096, 1 << 20])
def test_messages_are_decoded_wherever_the_stream_is_split(size: int) -> None:
    stream = b"".join(map(frame, MESSAGES))
    frames = FrameDecoder()
    pieces = (stream[at : at + size] for at in range(0, len(stream), size))
    assert [message for piece in pieces for message in frames.feed(piece)] == MESSAGES


def test_an_incomplete_message_is_not_returned_until_it_is_complete() -> None:
    frames, sent = FrameDecoder(), frame({"exited": 7})
    assert frames.feed(sent[:-1]) == []
    assert frames.feed(sent[-1:] + sent) == [{"exited": 7}, {"exited": 7}]


def test_a_launch_request_survives_encoding_to_json() -> None:
    task = LaunchRequest(
        {"id": "x", "parameters": {"prompt": "hello"}},
        "ours",
        kind="agent-prompt",
        handover={"run_id": "r", "fence": 2, "holder": "w"},
        environment={"A": "1"},
    )
    assert LaunchRequest(**json.loads(json.dumps(task.as_json()))) == task
