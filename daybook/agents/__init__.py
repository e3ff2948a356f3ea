"""Agents that answer a job's prompts: the interface `base.Agent` and its implementations.

An implementation takes an `AgentRequest` and returns an `AgentReply`, or raises an `AgentError`. It
raises the errors of the request's journal (`LedgerError`, `LedgerNewer`, `ApprovalNeeded`)
unchanged. The contract, which `tests/contract/agents` checks for every implementation:

- `answer` returns or raises within `timeout` plus the time that ending its work takes;
- after `answer` has returned or raised, no process or task that it started still runs;
- if `answer` is cancelled, it cleans up and then raises `CancelledError`;
- no error that `answer` raises contains a secret;
- `answer` does not retry. After `AgentTemporary` and `AgentTimeout`, the run may call it again.

The implementations are `offline`, `command` and `model`. `kinds` lists them by the slug of the
Prefect block type that stores their settings. `documents` reads and writes those blocks. No module
of this package imports Prefect when it is imported. Only the code of model agents imports
pydantic-ai, when their settings are checked or they are used. An agent's settings list the names of
the tools that the agent may call (`base.check_tool_entries` validates them). The request contains
the tools themselves.

To add a kind of agent, change these files:

- this package: a module with its settings and its class (a `base.StoredAgent`), and an entry in
  `kinds.KINDS`;
- `blocks/agents.py`: its block class (`blocks/__init__.py` registers all classes of that module);
- `cli/agents.py` and `cli/agent_options.py`: its options in `add_`, which also lists the kinds;
- `api/agents.py`: `_check` and `_check_tools`, if its settings need a check before they are stored,
  and `KINDS`, if the web pages should have a form for it, whose tab `web/templates/agent_form.html`
  names;
- `tests/contract/agents/test_agent.py`: an entry in `AGENTS`;
- `tests/pure/agents/test_kinds.py`: the list of kinds.
"""
