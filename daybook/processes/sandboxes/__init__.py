"""Sandboxes for programs that agents, checks and jobs run, built by bubblewrap (Linux).

- `sandbox` describes a sandbox and wraps a program in it.
- `mounts` decides which files it shows, `syscalls` which system calls it refuses.
- `bubblewrap` finds `bwrap`, and says why this machine cannot build a sandbox.
- `launcher` runs inside.

The proxy of a sandbox with a list of hosts is `daybook.http.host_proxy`.
"""
