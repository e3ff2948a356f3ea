"""Processes: programs that a job runs (command agents, tool servers), and children of `daybook up`.

Each program gets the part of the worker's environment that the operator names (`environment`),
bounded pipes (`pipes`), and its own process group, in which nothing runs after the program's end
(`group`). `children` starts and ends the children of `up`; `proc` finds and signals any process.
"""
