"""Entry point of `python -m daybook`."""

from __future__ import annotations

import sys

from daybook.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
