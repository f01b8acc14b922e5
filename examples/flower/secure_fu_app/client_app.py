"""What runs beside each node: a relay. It has no access to the node's keys and data, and imports none of their code."""

from __future__ import annotations

from secure_fu.flower.client_app import client_app

app = client_app()
