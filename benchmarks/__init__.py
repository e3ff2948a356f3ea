"""What the README claims, measured again by one command: `python -m benchmarks`.

Contract: prints Markdown on stdout, with the machine it ran on; progress on stderr. Each file
measures one thing and says in its docstring what is compared with what, and how.
"""
