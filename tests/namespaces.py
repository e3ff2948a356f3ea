"""Linux namespaces for tests about containers: `unshare` has to be permitted."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache

import pytest


@cache
def _refusal() -> str:
    if shutil.which("unshare") is None:
        return "there is no unshare"
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--mount", "--net", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


needs_namespaces = pytest.mark.skipif(
    bool(_refusal()), reason=f"unshare is not permitted: {_refusal()}"
)
