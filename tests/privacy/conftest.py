"""A ledger in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger_cast import BUDGET

from secure_fu.privacy.ledger import PrivacyLedger


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Iterator[PrivacyLedger]:
    with PrivacyLedger.create(path, budget=BUDGET) as made:
        made.branch("original")
        yield made
