from __future__ import annotations

import dataclasses
import json
import math

import pytest

from secure_fu.errors import ArgumentError
from secure_fu.privacy.epsilon import EpsilonEntry, Phase, Subject, View

ENTRY = EpsilonEntry(
    subject=Subject.FORGOTTEN,
    phase=Phase.BOTH,
    view=View.EVERY_RELEASE,
    value=7.8,
    delta=1e-5,
    group_size=1,
)


def test_json_is_what_the_schema_says():
    assert ENTRY.to_json() == {
        "subject": "forgotten",
        "phase": "training+unlearning",
        "view": "every release",
        "value": 7.8,
        "delta": 1e-5,
        "group_size": 1,
    }
    assert list(ENTRY.to_json()) == ["subject", "phase", "view", "value", "delta", "group_size"]
    assert json.loads(json.dumps(dataclasses.replace(ENTRY, value=None).to_json(), allow_nan=False))["value"] is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("value", math.inf), ("value", math.nan), ("value", -0.1), ("delta", 0.0), ("group_size", 0)],
)
def test_entries_refuse_what_makes_no_sense(field, value):
    with pytest.raises(ArgumentError, match=field):
        dataclasses.replace(ENTRY, **{field: value})
