"""The one rule that deletions and certificates are held to: which charges a claim of forgetting bears."""

from __future__ import annotations

from itertools import product

import pytest

from secure_fu.privacy import ChargedRounds

CASES = list(product([False, True], repeat=5))


@pytest.mark.parametrize(("deletion", "basis", "released", "exact", "chosen_late"), CASES)
def test_a_claim_passes_exactly_where_its_definition_holds(deletion, basis, released, exact, chosen_late):
    charged = ChargedRounds(deletion=deletion, basis=basis, released=released)
    found = charged.objection(exact=exact, chosen_late=chosen_late)
    # Exact: the outcome is a function of rounds without the units, and so is whatever chose request and settings.
    behind_the_outcome = [deletion, basis, released and chosen_late] if exact else [deletion]
    assert (found is None) is not any(behind_the_outcome)
    if deletion:
        assert found == "units to be forgotten entered the deletion's rounds"
