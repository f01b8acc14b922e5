"""Audit a model that was trained elsewhere: can an outsider tell which records it was trained on?

The model is a plain torch network that has learned its records by heart; nothing of this project's training, noise or
encryption is in it. The auditor needs three things: records that the model was trained on, records of the same kind
that it was not trained on, and the function that trains such a model, to train shadow models with.
"""

from __future__ import annotations

import torch
from torch import nn

from secure_fu.audit import membership_audit, shadow_models_by
from secure_fu.learning import FlatModel, Records, digits, split_records


def train(records: Records, seed: int) -> nn.Module:
    """Any training procedure of your own: records and a seed in, a model out."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(300):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(records.features), records.labels).backward()
        optimiser.step()
    return model


def main() -> None:
    pool = digits(seed=0).train
    # At random: were these the first and the second half of the file, people who wrote the digits would differ too, and
    # the audit would say so.
    members, held_out = split_records(pool, test_fraction=0.5, seed=0)
    model = train(members, seed=0)  # the model under audit; it could come from a file

    # Each shadow model is trained on a random half of all records, so half of them know any given record.
    shadows = shadow_models_by(train, FlatModel(model), pool, count=16, seed=1)
    audit = membership_audit(model, members=members, non_members=held_out, shadows=shadows)

    print(f"Verdict: {audit.verdict.outcome.value}. {audit.verdict.sentence}")
    for name, attack in audit.attacks.items():
        print(f"AUC of {name}: {attack.auc.value:.3f} (95 % interval {attack.auc.low:.3f} to {attack.auc.high:.3f})")
    found = audit.result.true_positive_rate(0.02)
    print(f"At 2 % false alarms {audit.chosen} finds {found.value:.1%} of the members.")
    print("Most exposed members:", ", ".join(f"record {entry.record}" for entry in audit.most_exposed[:5]))


if __name__ == "__main__":
    main()
