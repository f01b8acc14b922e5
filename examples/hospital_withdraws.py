"""A hospital withdraws, and training goes on without it.

Six hospitals train one model of breast tumours (real records, Wisconsin 1993). The sixth joined late, after 30 rounds,
and withdraws after 35. The server still has the model of round 30, so nothing has to be undone: it goes back there and
repeats five rounds.
"""

from __future__ import annotations

import torch
from torch import nn

from secure_fu import DeletionRequest, Federation, Records, Retrain, Rollback, make_plan
from secure_fu.learning import breast_cancer, iid, limit_threads, logistic
from secure_fu.privacy import EpsilonFigure
from secure_fu.unlearning import Exact, Requirement

HOSPITALS, LEAVER = 6, "hospital-6"


def accuracy(module: nn.Module, records: Records) -> float:
    """Share of records that the module labels right."""
    with torch.no_grad():
        return float((module(records.features).argmax(dim=1) == records.labels).float().mean())


def shown(figure: EpsilonFigure) -> str:
    """An epsilon as a word."""
    return "no bound" if figure.value is None else f"epsilon {figure.value:.2f}"


def main() -> None:
    limit_threads()
    data = breast_cancer(seed=0)
    parts = iid(data.train, HOSPITALS, seed=0)
    hospitals = {f"hospital-{number + 1}": data.train.subset(part) for number, part in enumerate(parts)}
    model = logistic(inputs=30, classes=2, seed=0)
    plan = make_plan(
        model,
        clients=HOSPITALS,
        nominal_units=450,  # records that the federation is designed for: a public number, not a count
        minimum_cohort=HOSPITALS - 1,
        epsilon=8.0,
        rounds=40,
        learning_rate=0.5,
        momentum=0.5,
        checkpoint_every=5,
    )

    with Federation(model, hospitals, plan=plan, joins={LEAVER: 30}) as federation:
        federation.train(rounds=35)
        print(f"After 35 of 40 rounds: accuracy {accuracy(federation.module_of(federation.state), data.test):.2f}")

        request = DeletionRequest.whole_client(LEAVER)
        print(f"\nAsked: {request.describe()}")
        for method in (Retrain(), Rollback()):
            cost = federation.cost(request, method)
            print(f"{method.title}: {cost.rounds} rounds. {cost.guarantee.describe()}")

        # A try in a branch of its own: what retraining would have come to. The federation stays as it is.
        retrained = federation.unlearn(request, Retrain())

        # The deletion itself. adaptive=False says that the hospital did not look at the models and then decide: here
        # the day was in its contract. If nobody can say so, leave it out; then no re-run can promise to be exact.
        deleted = federation.delete(request, Rollback(), adaptive=False, require=Requirement(kind=Exact))
        print(f"\nDone in {len(deleted.traffic)} rounds, {deleted.seconds:.1f} s; retraining: {retrained.seconds:.1f} s")
        print(f"accuracy after deletion:   {accuracy(federation.module_of(deleted.state), data.test):.2f}")
        print(f"accuracy after retraining: {accuracy(federation.module_of(retrained.state), data.test):.2f}")
        hidden = deleted.confidentiality
        print("\nHow well one of its records stays hidden from somebody who sees every release:")
        print(f"in the rounds of the deletion (phase):   {shown(hidden.phase)}")
        print(f"in everything before and after (pair):   {shown(hidden.pair)}")
        print(f"whether it left or stayed (who asked):   {shown(hidden.who_asked)}")

        final = federation.train()
        print(f"\nTraining went on to round {final.rounds}: accuracy", end=" ")
        print(f"{accuracy(federation.module_of(final), data.test):.2f}")
        print(f"Executed: {', '.join(entry.request.describe() for entry in federation.executed)}")


if __name__ == "__main__":
    main()
