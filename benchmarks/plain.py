"""Interpreter with everything of this environment except Daybook.

Prefect imports each installed package that provides a worker type or a block. If Prefect's own
worker imported ours as well, it would be larger and slower than Prefect as shipped.
"""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path


def interpreter(folder: Path) -> str:
    """Build it in ``folder`` from links; return the path of its executable."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder)}))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        # The editable install's path file is called `_daybook.pth`.
        if not entry.name.lstrip("_").startswith(("daybook", "pycache")):
            (packages / entry.name).symlink_to(entry)
    return str(folder / "bin" / "python")
