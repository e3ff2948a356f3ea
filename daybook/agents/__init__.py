"""Whom a job talks to: the port `base.Agent` and its adapters.

An adapter takes an `AgentRequest` and gives an `AgentReply`, or raises an `AgentError`. Its
contract, held by `tests/contract/agents` over every adapter:

- `answer` returns or raises within `timeout` and the time that the ending of its work takes;
- when it has returned or raised, by whatever way, nothing that it started runs on;
- it honours cancellation (and cleans up before it passes the cancellation on);
- no secret stands in what it raises;
- it asks once: `AgentTemporary` and `AgentTimeout` say that the run may ask again.

The adapters are `offline`, `command` and `model`; `kinds` lists them by the slug of the Prefect
block type that holds their settings, and `documents` reads and writes those blocks. Only
`documents` imports Prefect, and only `providers`, `failures` and `model_tools`, which `model` uses,
pydantic-ai; both only when they are called. What an agent may call stands in its settings, judged
by `allowed`, and comes with the request. The block classes stand in the door `blocks/`.
"""
