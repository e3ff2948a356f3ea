"""Processes: programs of jobs (command agents, tool servers, checks), children of `daybook up`.

Each program gets the variables of the worker's environment that the operator names (`environment`),
bounded pipes (`pipes`) and a folder (`locations`). It also gets its own process group, in which
nothing runs after the program has ended (`group` names the exceptions). The other modules:

- `children` starts and ends the children of `daybook up`; `image` forks them (Linux).
- `proc` finds and signals any process.
- `ending` waits for work that must finish.
- `forked` ends a forked process.
- `garbage` makes Daybook's processes collect garbage less often.
- `init` reaps orphans as process 1 of a container.
- `open_files` raises the limit of open files.
- `regular_files` reads files without following a link.
- `sandboxes` hides files, networks and processes from a program (Linux).
- `output` lets a process continue when the disk of its log is full.
"""
