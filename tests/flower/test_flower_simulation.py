"""The example's app in Flower's simulation engine, where nodes are opened for each message; half a minute each."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("flwr")
pytest.importorskip("ray")

from secure_fu.deployment.exchange import socket_path
from secure_fu.deployment.founding.terms import read_terms
from secure_fu.deployment.local import LocalNodes
from secure_fu.flower.local import LocalFlower

APP = Path(__file__).resolve().parents[2] / "examples" / "flower"
CLINICS = tuple(f"clinic-{number}" for number in range(1, 5))
# A key-holder keeps the round's key in memory alone, so it cannot be opened for each message: it runs, at its socket.
CASTS = {
    "kahe": {f"node-{clinic}": (clinic, f"member-{clinic[-1]}") for clinic in CLINICS},
    "bfv": {**{f"node-{clinic}": (clinic,) for clinic in CLINICS}, "node-keys": ("key-holder",)},
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("scheme", CASTS)
def test_the_app_trains_in_the_simulation_engine(scheme, monkeypatch):
    monkeypatch.syspath_prepend(str(APP))
    from make_federation import make

    terms = read_terms(APP / "federation.toml")
    committee = terms.committee if scheme == "kahe" else {}
    terms = replace(terms, scheme=scheme, committee=committee, plan={**terms.plan, "rounds": 2, "nominal_units": 960})
    with tempfile.TemporaryDirectory(prefix="fu") as short:  # sockets have short paths
        folder = Path(short)
        make(folder / "fed", terms, CASTS[scheme])
        nodes = folder / "fed" / "nodes"
        running = {name: nodes / name for name in CASTS[scheme] if name == "node-keys"}
        with (
            LocalNodes(
                running,
                {name: socket_path(path) for name, path in running.items()},
                logs=folder / "logs",
            ),
            LocalFlower(folder / "flower", {}) as flower,
        ):
            outcome = flower.run(
                APP,
                {
                    "server-directory": str(folder / "fed" / "server"),
                    "nodes-directory": str(nodes),
                    "job": "train",
                    "report": str(folder / "report.json"),
                },
                federation_config={"num-supernodes": len(CASTS[scheme])},
                timeout=200,
            )
            assert outcome.status == "finished:completed", outcome.log
        report = json.loads((folder / "report.json").read_text())
    assert [traffic["uploads"] for traffic in report["traffic"]] == [len(CLINICS)] * 2
    assert all(traffic["parameter_set"].startswith(scheme) for traffic in report["traffic"])
    assert report["left out"] == []
