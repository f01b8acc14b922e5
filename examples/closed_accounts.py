"""Bank customers close their accounts, and the bank has to prove that they are forgotten.

Five banks train a model that reads handwritten digits on paying-in slips. The unit of privacy is the account: all
digits of one account are hidden together and forgotten together. Three accounts at three banks are closed. The digits
are real (UCI, 8 by 8 pixels); to which account one belongs is made up.
"""

from __future__ import annotations

import torch
from torch import nn

from secure_fu import DeletionRequest, Federation, Records, Retrain, Rollback, Scrub, Unit, make_plan
from secure_fu.deletion import DeletionBatch
from secure_fu.errors import GuaranteeError
from secure_fu.learning import digits, iid, limit_threads, logistic
from secure_fu.privacy import EpsilonFigure
from secure_fu.unlearning import Certified, Requirement

BANKS, SLIPS = 5, 4  # digits of one account


def accounts(bank: str, records: Records) -> Records:
    """The same records, with the name of an account for each."""
    owners = [f"{bank}/account-{number // SLIPS:03d}" for number in range(len(records))]
    return Records.from_arrays(records.features, records.labels, groups=owners)


def accuracy(module: nn.Module, records: Records) -> float:
    """Share of records that the module labels right."""
    with torch.no_grad():
        return float((module(records.features).argmax(dim=1) == records.labels).float().mean())


def shown(figure: EpsilonFigure) -> str:
    """An epsilon in words; None means that nothing finite can be shown."""
    return "no bound" if figure.value is None else f"epsilon {figure.value:.2f}"


def main() -> None:
    limit_threads()
    data = digits(seed=0)
    names = [f"bank-{number + 1}" for number in range(BANKS)]
    dealt = zip(names, iid(data.train, BANKS, seed=0), strict=True)
    banks = {name: accounts(name, data.train.subset(part)) for name, part in dealt}
    model = logistic(inputs=64, classes=10, seed=0)
    plan = make_plan(
        model,
        clients=BANKS,
        nominal_units=360,  # accounts
        minimum_cohort=BANKS - 1,
        unit=Unit.GROUP,
        epsilon=8.0,
        rounds=20,
        learning_rate=1.0,
        checkpoint_every=2,
    )
    closed = DeletionBatch(
        tuple(DeletionRequest.person(f"{bank}/account-{number:03d}") for bank, number in zip(names, (7, 31, 50)))
    )
    # The batch is one group: the certificate speaks of its three accounts together.
    required = Requirement(kind=Certified, epsilon=4.0)
    rollback = Rollback(forget_epsilon=4.0)

    # A certificate of a re-run stands on settings that were fixed before training: so the method is declared here.
    with Federation(model, banks, plan=plan, methods=(rollback,)) as federation:
        federation.train()
        print(f"Trained: accuracy {accuracy(federation.module_of(federation.state), data.test):.2f}")
        print(f"\nAsked: {closed.describe()}.")
        for method in (Scrub(), rollback, Retrain()):
            cost = federation.cost(closed, method)
            print(f"{method.title} would take {cost.rounds} rounds. {cost.guarantee.describe()}")

        try:
            federation.delete(closed, Scrub(), adaptive=False, require=required)
        except GuaranteeError as refusal:
            print(f"\nRefused, before any bank was asked: {refusal}.")

        retrained = federation.unlearn(closed, Retrain())
        deleted = federation.delete(closed, rollback, adaptive=False, require=required)
        print(f"\nDeleted in {len(deleted.traffic)} rounds: {deleted.guarantee.describe()}")
        print(f"Accuracy {accuracy(federation.module_of(deleted.state), data.test):.2f}, ", end="")
        print(f"after retraining {accuracy(federation.module_of(retrained.state), data.test):.2f}.")
        hidden = deleted.confidentiality
        print("What somebody who sees every sum can tell of one closed account, at most:")
        print(f"phase     {shown(hidden.phase)}")
        print(f"pair      {shown(hidden.pair)}")
        print(f"who asked {shown(hidden.who_asked)}")


if __name__ == "__main__":
    main()
