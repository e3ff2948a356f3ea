"""Agents that answer a job's prompts: the port `base.Agent` and its adapters.

An adapter takes an `AgentRequest` and returns an `AgentReply`, or raises an `AgentError`. Its
contract, which `tests/contract/agents` checks for every adapter:

- `answer` returns or raises within `timeout` plus the time that it needs to end its work;
- after it has returned or raised, in any way, nothing that it started still runs;
- it honours cancellation, and cleans up before it passes the cancellation on;
- no error that it raises contains a secret;
- it asks once: after `AgentTemporary` and `AgentTimeout` the run may ask again.

The adapters are `offline`, `command` and `model`. A new one needs an entry in `kinds`, a block
class in `blocks/agents.py`, options in `cli.agents`, and a case in the contract. `kinds` lists them
by the slug of the Prefect block type that stores their settings; `documents` reads and writes those
blocks. Nothing here imports Prefect at run time, and pydantic-ai is imported only when a model
agent is used. An agent's settings list the tools that it may call (validated by
`base.check_tool_entries`); the request carries the tools themselves. The block classes are in the
Prefect entry points, `blocks/`.
"""
