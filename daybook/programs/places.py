"""Where a program is, and where it runs. Raises ValueError for what the operator has to change."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def folder(work_dir: str, prefix: str) -> Iterator[str]:
    """The folder to run in: the operator's, else a private one that lasts as long as the run.

    Neither the user's home nor the worker's folder: a program that writes where it stands should
    not do so among other people's files, unless the operator says where.
    """
    if not work_dir:
        with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as fresh:
            yield fresh
        return
    there = os.path.expanduser(work_dir)
    if not os.path.isdir(there):
        raise ValueError(f"work_dir {there} is not a folder of this machine")
    yield there


def program(name: str, folder: str, variables: Mapping[str, str]) -> str:
    """The file of the program called ``name``, for one who runs in ``folder``."""
    name = os.path.expanduser(name)
    if "/" in name:
        place = os.path.join(folder, name)
        if not os.path.exists(place):
            raise ValueError(f"there is no program {place}")
        if found := shutil.which(place):
            return found
        raise ValueError(f"{place} is not an executable file")
    if found := shutil.which(name, path=variables.get("PATH", os.defpath)):
        return found
    raise ValueError(f'there is no program "{name}" in the PATH that it is given')
