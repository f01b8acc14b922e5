"""Parties of a round, made fresh for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from committee_machines import CommitteeMachines, make_committee_machines
from machines import Machines, make_machines


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Machines]]:
    """Builds machines; arguments as :func:`machines.make_machines`, closed after the test."""
    built: list[Machines] = []

    def make(**arguments: object) -> Machines:
        built.append(make_machines(tmp_path, **arguments))  # type: ignore[arg-type]
        return built[-1]

    yield make
    for machines in built:
        machines.close()


@pytest.fixture
def federate(tmp_path: Path) -> Iterator[Callable[..., CommitteeMachines]]:
    """Builds parties with a committee; arguments as :func:`committee_machines.make_committee_machines`."""
    built: list[CommitteeMachines] = []

    def make(**arguments: object) -> CommitteeMachines:
        directory = tmp_path / f"federation-{len(built)}"
        directory.mkdir()
        built.append(make_committee_machines(directory, **arguments))  # type: ignore[arg-type]
        return built[-1]

    yield make
    for machines in built:
        machines.close()
