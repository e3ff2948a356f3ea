"""`python -m benchmarks`: measure what the README claims, and print it as Markdown.

Exit code 1 when a figure is worse than what is wanted.
"""

from __future__ import annotations

import sys

from benchmarks import machine, start


def main() -> int:
    print(f"Measured on: {machine.describe()}\n")
    print("## Start times of whole processes\n")
    starts = start.measure()
    print(start.table(starts))
    for command in (missed := start.missed(starts)):
        print(f"slower than wanted: {command}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
