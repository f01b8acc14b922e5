"""The process of a worker that makes shadow runs; see :mod:`secure_fu.auditor.shadow.run_pool`."""

from __future__ import annotations

import os
import sys

from secure_fu.auditor.shadow.run_pool import serve_runs

__all__: list[str] = []

if __name__ == "__main__":
    # What is printed by anybody must not be taken for an answer: from here on it goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve_runs(sys.stdin.buffer, answers)
