"""The server's half: the federation that it drives, the nodes that it asks, and deletions that run there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from secure_fu.lazy import lazily

if TYPE_CHECKING:
    from secure_fu.deployment.server.deletion_executor import deletion_service as deletion_service
    from secure_fu.deployment.server.deletion_executor import read_node_sockets as read_node_sockets
    from secure_fu.deployment.server.federation_server import FederationServer as FederationServer
    from secure_fu.deployment.server.jobs import JOBS as JOBS
    from secure_fu.deployment.server.jobs import run_job as run_job
    from secure_fu.deployment.server.jobs import write_report as write_report
    from secure_fu.deployment.server.remote_sums import Patience as Patience
    from secure_fu.deployment.server.request_queue import has_queue as has_queue
    from secure_fu.deployment.server.request_queue import open_queue as open_queue
    from secure_fu.deployment.server.window_files import WindowFiles as WindowFiles

# Who looks at the queue alone does not pay for torch.
_HOMES: Final = {
    "deletion_executor": ("deletion_service", "read_node_sockets"),
    "federation_server": ("FederationServer",),
    "jobs": ("JOBS", "run_job", "write_report"),
    "remote_sums": ("Patience",),
    "request_queue": ("has_queue", "open_queue"),
    "window_files": ("WindowFiles",),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)

if not TYPE_CHECKING:  # a type checker has the names from above, and refuses others
    __getattr__, __dir__ = lazily(__name__, _HOMES)
