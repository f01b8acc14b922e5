"""A founded federation for tests of jobs and of their hosts."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from clinics import APP, CLINICS

from secure_fu.deployment.founding.terms import read_terms


@pytest.fixture
def federation(monkeypatch):
    """The folder of the example's federation with a small model and two rounds."""
    monkeypatch.syspath_prepend(str(APP))
    from make_federation import make

    terms = read_terms(APP / "federation.toml")
    terms = replace(
        terms,
        model={"kind": "logistic", "inputs": 64, "classes": 10, "seed": 0},
        plan={**terms.plan, "rounds": 2, "nominal_units": 960},
    )
    with tempfile.TemporaryDirectory(prefix="fu") as short:  # sockets have short paths
        make(Path(short), terms, CLINICS)
        yield Path(short)
