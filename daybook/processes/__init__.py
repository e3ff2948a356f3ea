"""Programs that a job has run for it: a command agent, a tool server.

Each gets the part of the worker's environment that the operator names (`environment`), bounded
pipes (`pipes`), and a process group of its own, of which nothing is left at its end (`group`).
"""
