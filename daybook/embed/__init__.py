"""For programs that have Daybook inside: a client, a toolset, plugin jobs, listeners."""
