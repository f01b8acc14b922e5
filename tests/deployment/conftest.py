"""Deployments, and nodes over a test's own `cast`, all closed in the end; and the command line."""

from __future__ import annotations

import sys

import pytest
from deployed import Deployment
from node_cast import CLIENT, KEEPER, ServerSide

from secure_fu.cli import main
from secure_fu.deployment.node import Node


@pytest.fixture
def deploy(tmp_path):
    built = []

    def make(scheme_name="kahe", **arguments):
        arguments = {"branch_rounds": 16, **arguments}
        built.append(Deployment(tmp_path / f"deployment-{len(built)}", scheme_name, **arguments))
        return built[-1]

    yield make
    for one in built:
        one.close()


@pytest.fixture
def keeper(cast):
    with Node.create(cast.folder(KEEPER)) as made:
        yield made


@pytest.fixture
def node(cast):
    with Node.create(cast.folder(CLIENT)) as made:
        yield made


@pytest.fixture
def side(cast, tmp_path):
    made = ServerSide(cast, tmp_path / "server")
    yield made
    made.close()


@pytest.fixture
def command(monkeypatch, capsys):
    """The command line in this process: what it is called with to its exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["secure-fu", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run
