"""Benchmarks of what the README claims, run by one command: `python -m benchmarks`.

Prints Markdown on stdout, including the machine it ran on; progress goes to stderr. Each file
measures one thing; its docstring states what is compared and how.
"""

import os

# No benchmark asks an agent of this machine.
os.environ["_DAYBOOK_MACHINE"] = '{"path": "", "ports": {}}'
