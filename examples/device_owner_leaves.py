"""One of a hundred devices leaves, and nobody can tell which.

Each device has some fourteen handwritten digits of its owner, and is one unit of privacy: the sums hide its whole
contribution. When an owner leaves, the device still answers the rounds of the deletion, with nothing but its share of
the noise. Encrypted, that looks like everybody else's answer.
"""

from __future__ import annotations

import torch
from torch import nn

from secure_fu import DeletionRequest, Federation, Records, Retrain, Rollback, Unit, make_plan
from secure_fu.learning import digits, iid, limit_threads, logistic
from secure_fu.privacy import EpsilonFigure

DEVICES, LEAVER = 100, "device-042"


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
    parts = iid(data.train, DEVICES, seed=0)
    devices = {f"device-{number:03d}": data.train.subset(part) for number, part in enumerate(parts)}
    model = logistic(inputs=64, classes=10, seed=0)
    plan = make_plan(
        model,
        clients=DEVICES,
        nominal_units=DEVICES,
        minimum_cohort=90,  # ten may be offline
        unit=Unit.CLIENT,
        epsilon=8.0,
        rounds=10,
        sampling_rate=1.0,  # who takes part is public: nothing is gained by drawing devices
        learning_rate=1.0,
        momentum=0.5,
        checkpoint_every=2,
        local={"epochs": 5, "batch_size": 4, "learning_rate": 0.3},
    )
    rollback = Rollback(forget_epsilon=3.0)  # back to where the device had paid at most this

    with Federation(model, devices, plan=plan, methods=(rollback,)) as federation:
        federation.train()
        print(f"Trained: accuracy {accuracy(federation.module_of(federation.state), data.test):.2f}")
        request = DeletionRequest.whole_client(LEAVER)
        print(f"\nAsked: {request.describe()}.")
        for method in (Retrain(), rollback):
            cost = federation.cost(request, method)
            print(f"{method.title} would take {cost.rounds} rounds. {cost.guarantee.describe()}")

        # The longer a deletion takes, the more chances to see that a device went silent: all the others train on.
        print()
        outcomes = [federation.unlearn(request, Retrain()), federation.delete(request, rollback, adaptive=False)]
        for outcome in outcomes:
            hidden = outcome.confidentiality
            print(f"{outcome.method}: accuracy {accuracy(federation.module_of(outcome.state), data.test):.2f}")
            print(f"  uploads in each round: {outcome.traffic[0].uploads}, the leaver's among them")
            print(f"  from the deletion's rounds, what its data was (phase):        {shown(hidden.phase)}")
            print(f"  from everything, whether it ever took part (pair):            {shown(hidden.pair)}")
            print(f"  whether it was this device that left, or another (who asked): {shown(hidden.who_asked)}")


if __name__ == "__main__":
    main()
