"""Launcher program whose import starts a thread."""

import threading

from tests.contract.worker.programs import prepare, run

__all__ = ["prepare", "run"]

threading.Thread(target=threading.Event().wait, daemon=True).start()
