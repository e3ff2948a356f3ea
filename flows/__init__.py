"""Prefect flows, one for each kind of job. Prefect entry points: the behaviour is in `daybook`.

A file entrypoint (`flows/agent_prompt.py:agent_prompt`) loads each file as a bare module, so these
files use absolute imports, hold no state, and share no name with the standard library.
"""
