"""An interpreter with everything of this environment but Daybook.

Prefect imports each installed package that brings a worker type or a block. A worker of Prefect's
own that imports ours as well would be larger and slower than Prefect as shipped is.
"""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path


def interpreter(folder: Path) -> str:
    """Make it in ``folder``, out of links; the path of its program."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder)}))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        # The editable install's path file is called `_daybook.pth`.
        if not entry.name.lstrip("_").startswith(("daybook", "pycache")):
            (packages / entry.name).symlink_to(entry)
    return str(folder / "bin" / "python")
