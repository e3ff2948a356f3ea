"""What `daybook doctor` looks at, one module a place: machine, server, book, telling and so on.

Contract: a check is a small function, or a coroutine function, that gives a list of `Problem`,
empty when all is well; it changes nothing. Each problem says how to mend it, with a command to
type. `daybook.operations.doctor` calls them in order and survives a check that fails itself.

Pitfalls: the installation may be the broken part, so every check imports what it needs when it is
called. `machine` is looked at before `home.enter`, which sets the modes of the home right.
"""
