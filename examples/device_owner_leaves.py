"""One of sixty devices leaves. How well is it hidden which?

Each device has some two dozen handwritten digits (real, 8 by 8 pixels) and is one unit of privacy: the sums hide all
that it contributes. When its owner leaves, the device excludes itself: it still answers the rounds of the deletion, but
with nothing but its share of the noise. Encrypted, that looks like any other answer; what the sums tell is bounded.
"""

from __future__ import annotations

from secure_fu import DeletionRequest, Federation, Retrain, Rollback, Unit, make_plan
from secure_fu.learning import digits, iid, logistic, module_accuracy

DEVICES, LEAVER = 60, "device-42"


def main() -> None:
    data = digits(seed=0)
    parts = iid(data.train, DEVICES, seed=0)
    devices = {f"device-{number:02d}": data.train.subset(part) for number, part in enumerate(parts)}
    model = logistic(inputs=64, classes=10, seed=0)
    plan = make_plan(
        model,
        clients=DEVICES,
        nominal_units=DEVICES,
        minimum_cohort=54,  # a tenth of them may be offline
        unit=Unit.CLIENT,
        epsilon=8.0,
        rounds=8,
        sampling_rate=1.0,  # who takes part is public: nothing is gained by drawing devices
        learning_rate=1.0,
        momentum=0.5,
        checkpoint_every=2,
        local={"epochs": 3, "batch_size": 4, "learning_rate": 0.3},
    )
    rollback = Rollback(forget_epsilon=3.0)  # back to where the device had paid at most this

    with Federation(model, devices, plan=plan, methods=(rollback,)) as federation:
        trained = federation.module_of(federation.train())
        print(f"Trained: accuracy {module_accuracy(trained, data.test):.2f}")
        request = DeletionRequest.whole_client(LEAVER)
        print(f"\nAsked: {request.describe()}.")
        for method in (Retrain(), rollback):
            cost = federation.cost(request, method, adaptive=False)
            print(f"{method.title} would take {cost.rounds} rounds. {cost.guarantee.describe()}")

        # First a try in a branch of its own, then the deletion itself. Both are silent about the data that leaves. Yet
        # everybody else trains in each round, so each is one more chance to notice who does not: fewer hide better.
        retrained = federation.unlearn(request, Retrain(), adaptive=False)
        deleted = federation.delete(request, rollback, adaptive=False)
        print("\n           rounds  accuracy  phase         pair          who asked")
        for done in (retrained, deleted):
            hidden = done.confidentiality
            print(f"{done.method:10} {len(done.traffic):6} ", end="")
            print(f"{module_accuracy(federation.module_of(done.state), data.test):9.2f} ", end="")
            print(f" {hidden.phase.describe()}  {hidden.pair.describe()}  {hidden.who_asked.describe()}")
        print("phase: what the rounds of the deletion tell of the device's data")
        print("pair: what everything before and after tells of whether it ever took part")
        print("who asked: what tells that this device left, and not another")
        print(f"Answers in each round of the deletion: {deleted.traffic[0].uploads}, from {LEAVER} too.")


if __name__ == "__main__":
    main()
