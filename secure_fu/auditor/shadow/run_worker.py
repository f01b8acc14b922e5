"""The process of a worker that makes shadow runs; see :mod:`secure_fu.auditor.shadow.run_pool`."""

from __future__ import annotations

import sys

from secure_fu.auditor.shadow.run_pool import serve_runs

__all__: list[str] = []

if __name__ == "__main__":
    serve_runs(sys.stdin.buffer, sys.stdout.buffer)
