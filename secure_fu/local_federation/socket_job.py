"""One job of a federation's server over its nodes' sockets, as a process: python -m ... SERVER_DIR JOB REPORT."""

from __future__ import annotations

import sys
from pathlib import Path

from secure_fu.deployment.exchange import SocketExchange
from secure_fu.deployment.logs import log_to
from secure_fu.deployment.server import read_node_sockets
from secure_fu.deployment.server.jobs import run_job, write_report
from secure_fu.learning import limit_threads

__all__ = ["main"]


def main() -> None:
    """Do the job, and write its report."""
    server, job, report = sys.argv[1:]
    limit_threads()
    log_to(sys.stderr)
    exchange = SocketExchange(read_node_sockets(Path(server)))
    done = run_job(Path(server), exchange, job=job, at_once=job == "unlearn")
    write_report(done, Path(report))


if __name__ == "__main__":
    main()
