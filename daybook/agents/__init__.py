"""Agents that answer a job's prompts: the interface `base.Agent` and its implementations.

An implementation takes an `AgentRequest` and returns an `AgentReply`, or raises an `AgentError`.
Its contract, which `tests/contract/agents` checks for every implementation:

- `answer` returns or raises within `timeout` plus the time that it needs to end its work;
- after it has returned or raised, nothing that it started still runs;
- it honours cancellation, and cleans up before it passes the cancellation on;
- no error that it raises contains a secret;
- it does not retry: after `AgentTemporary` and `AgentTimeout` the run may ask again.

The implementations are `offline`, `command` and `model`. `kinds` lists them by the slug of the
Prefect block type that stores their settings; `documents` reads and writes those blocks. Nothing
here imports Prefect when it is imported, and pydantic-ai is imported only when a model agent is
used. An agent's settings list the tools that it may call (validated by `base.check_tool_entries`);
the request carries the tools themselves.

To add a kind of agent, change these files:

- this package: a module with its settings and its class (a `base.StoredAgent`), and an entry in
  `kinds.KINDS`;
- `blocks/agents.py`: its block class (`blocks/__init__.py` registers all classes of that module);
- `cli/agents.py`: its options in `add_`, which also lists the kinds;
- `api/agents.py`: `_check` and `_check_tools`, if its settings need a check before they are stored;
- `tests/contract/agents/test_agent.py`: an entry in `AGENTS`; `tests/pure/agents/test_kinds.py`
  lists the kinds, too.
"""
