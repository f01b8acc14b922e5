"""Parties of a round, made fresh for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
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
