"""A client's own audit: what it says of a deletion that did something, of one that did nothing, and of no model."""

from __future__ import annotations

import copy

import pytest
import torch
from small_federations import federation as small_federation
from torch import nn

from secure_fu.audit import Outcome, own_audit
from secure_fu.deletion import DeletionRequest
from secure_fu.errors import AlreadyForgotten, ArgumentError, ProtocolError
from secure_fu.federation import Parting
from secure_fu.learning import Records
from secure_fu.unlearning import Scratch


def noise_records(count: int, seed: int) -> Records:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 30, generator=generator)
    return Records(features, (features[:, 0] + torch.randn(count, generator=generator) > 0).long())


def fitted(records: Records, *, steps: int = 300) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 2))
    optimiser = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(records.features), records.labels).backward()
        optimiser.step()
    return module


FORGOTTEN, REFERENCE, OTHERS = noise_records(120, 1), noise_records(300, 2), noise_records(400, 3)
BOTH = Records(torch.cat([FORGOTTEN.features, OTHERS.features]), torch.cat([FORGOTTEN.labels, OTHERS.labels]))


def test_a_deletion_that_did_nothing_is_a_leak() -> None:
    module = fitted(BOTH)
    audit = own_audit(module, copy.deepcopy(module), forgotten=FORGOTTEN, reference=REFERENCE)
    assert audit.verdict.outcome is Outcome.LEAK
    assert audit.drop.low <= 0.0 <= audit.drop.high


def test_retraining_is_no_leak_and_no_proof() -> None:
    audit = own_audit(fitted(BOTH), fitted(OTHERS), forgotten=FORGOTTEN, reference=REFERENCE)
    assert audit.before.verdict.outcome is Outcome.LEAK
    assert audit.verdict.outcome is Outcome.CANNOT_TELL
    assert "no proof" in audit.verdict.sentence
    assert audit.drop.low > 0.0
    assert set(audit.to_json()) == {"before", "after", "drop", "forgotten", "reference", "verdict"}


def test_a_model_that_learned_nothing_gives_no_answer() -> None:
    untrained = fitted(OTHERS, steps=0)
    audit = own_audit(untrained, untrained, forgotten=FORGOTTEN, reference=REFERENCE)
    assert audit.verdict.outcome in (Outcome.INVALID, Outcome.CANNOT_TELL)


def test_too_few_records_are_refused() -> None:
    module = fitted(OTHERS, steps=1)
    with pytest.raises(ArgumentError, match="reference"):
        own_audit(module, module, forgotten=FORGOTTEN, reference=REFERENCE.subset(slice(0, 1)))


def test_a_client_looks_before_it_wipes_and_what_it_says_decides_nothing() -> None:
    seen: list[Parting] = []

    def look(parting: Parting) -> None:
        seen.append(parting)

    def refuse(parting: Parting) -> None:
        raise RuntimeError("not convinced")

    with small_federation() as federation:
        federation.train()
        leaver = federation.clients[-1]
        request = DeletionRequest.whole_client(leaver)
        before = federation.state
        federation.delete(request, Scratch(length=2), adaptive=True, before_wiping=look)
        (parting,) = seen
        assert parting.client == leaver
        assert parting.before is before
        assert parting.after is federation.state
        assert len(parting.forgotten) > 0
        assert "tensor" not in repr(parting)
        with pytest.raises(AlreadyForgotten):
            federation.delete(request, Scratch(length=2), adaptive=True)
    with small_federation() as federation:
        federation.train()
        with pytest.raises(RuntimeError, match="not convinced"):
            federation.delete(request, Scratch(length=2), adaptive=True, before_wiping=refuse)
        # A client that could refuse outcomes until one tells its secret would publish the secret.
        assert len(federation.executed) == 1
        with pytest.raises(AlreadyForgotten):
            federation.delete(request, Scratch(length=2), adaptive=True)


def test_a_second_deletion_has_to_wait_for_the_first() -> None:
    with small_federation() as federation:
        federation.train()
        first, other = federation.clients[-1], federation.clients[0]

        def nested(_: Parting) -> None:
            federation.delete(DeletionRequest.whole_client(other), Scratch(length=1), adaptive=True)

        with pytest.raises(ProtocolError, match="under way"):
            federation.delete(
                DeletionRequest.whole_client(first), Scratch(length=1), adaptive=True, before_wiping=nested
            )
        assert [entry.request.describe() for entry in federation.executed] == [
            DeletionRequest.whole_client(first).describe()
        ]
