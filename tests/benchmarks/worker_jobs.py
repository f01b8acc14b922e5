"""Jobs for the tests of the workers, in a module that a fresh process can import."""

from __future__ import annotations

import os
import time
from pathlib import Path

if os.environ.get("ONLY_IN_PROCESS", str(os.getpid())) != str(os.getpid()):
    raise ImportError("a fresh process cannot import this")


def work(job):
    if job["what"] == "sleep":
        Path(job["file"]).write_text(str(os.getpid()))
        time.sleep(60.0)
    if job["what"] == "die":
        os._exit(3)
    if job["what"] == "raise":
        raise ValueError("no such job")
    return {"double": 2 * job["number"], "process": os.getpid()}
