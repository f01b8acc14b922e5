"""Audit a model that was trained elsewhere: does it treat its training records better than records it never saw?

The model here is a plain torch network, trained on a hundred digits until it has learned them by heart. Nothing of
this project's training, noise or encryption is in it, so the attack should succeed.
"""

from __future__ import annotations

import torch
from torch import nn

from secure_fu import membership_audit
from secure_fu.learning import digits


def main() -> None:
    data = digits(seed=0, test_fraction=0.6)
    members = data.train.subset(slice(0, 100))  # what the model is trained on
    held_out = data.test  # of the same distribution, never trained on

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(300):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(members.features), members.labels).backward()
        optimiser.step()

    audit = membership_audit(model, members=members, non_members=held_out)
    auc, rate = audit.auc, audit.tpr_at_1pct_fpr
    print(f"{len(members)} members, {len(held_out)} records held out")
    print(f"AUC of the loss attack: {auc.value:.2f} (95 % interval {auc.low:.2f} to {auc.high:.2f}; 0.5 is chance)")
    if rate is None:
        print("True positive rate at 1 % false positives: too few held-out records to say")
    else:
        print(f"True positive rate at 1 % false positives: {rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})")


if __name__ == "__main__":
    main()
