"""What runs beside the SuperLink: the federation's server, one job a run."""

from __future__ import annotations

from secure_fu.flower.server_app import server_app

app = server_app()
