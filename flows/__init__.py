"""What a job does: one Prefect flow a kind. A door: it orchestrates, the behaviour is in `daybook`.

A file entrypoint (`flows/agent_prompt.py:agent_prompt`) loads each file as a bare module, so these
files import absolutely, hold no state, and have no name of the standard library.
"""
