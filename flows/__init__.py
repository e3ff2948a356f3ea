"""Prefect flows, one for each kind of job. They are entry points: the behaviour is in `daybook`.

Prefect loads a file entrypoint (`flows/agent_prompt.py:agent_prompt`) as a module without a
package. So these files use absolute imports, keep no state, and none has the name of a module in
the standard library.
"""
