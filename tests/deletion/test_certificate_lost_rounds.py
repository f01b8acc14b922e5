"""Rounds that were lost after their roll had left: charged, never released, and no obstacle to a certificate."""

from __future__ import annotations

import certificate_cast as cast
import pytest
from small_federations import federation, plan_for

from secure_fu.deletion import DeletionRequest
from secure_fu.deletion.certificates import Evidence, check_certificate
from secure_fu.errors import RoundAborted
from secure_fu.learning import mlp
from secure_fu.privacy import PrivacyLedger
from secure_fu.unlearning import Rollback

REQUEST = DeletionRequest.some_records("silo-1", (0, 3, 7))


@pytest.mark.parametrize("lost", [1, 3], ids=["in training", "in the deletion"])
def test_a_round_that_was_charged_and_not_released_is_certified_as_such(tmp_path, lost):
    asked: dict[tuple[int, str], int] = {}

    def away(number: int, member: str) -> bool:
        """In one round, all members vote and none answers."""
        asked[number, member] = asked.get((number, member), 0) + 1
        return number == lost and asked[number, member] == 2

    with federation(
        directory=tmp_path,
        scheme_name="kahe",
        resumable=True,
        member_vanishes=away,
        plan=plan_for(mlp(5, (), 3, 0), rounds=3, branch_rounds=8),
    ) as made:
        if lost < 3:
            with pytest.raises(RoundAborted):
                made.train()
        made.train()
        if lost == 3:
            with pytest.raises(RoundAborted):
                cast.executed(made, tmp_path, REQUEST, Rollback())
        one, _ = cast.executed(made, tmp_path, REQUEST, Rollback())
        committed = [event for event in made.ledger.events() if event.participants is not None]
        roster, policy = made.roster, made.policy
    lines = (tmp_path / "transcript.jsonl").read_text().splitlines()
    assert len(committed) == len(lines) + 1, "one round is charged to its participants, and has no line"
    with PrivacyLedger.open(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        evidence = Evidence(policy=policy, transcript=tmp_path / "transcript.jsonl", ledger=ledger)
        check_certificate(one, roster=roster, evidence=evidence)
