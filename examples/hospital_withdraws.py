"""A hospital withdraws, and training goes on without it.

Six hospitals train one model of breast tumours (real records, Wisconsin). The sixth joined late, after 12 rounds, and
withdraws after 15. The server still has the model of round 12, so there is nothing to undo: it goes back to it and
repeats three rounds.
"""

from __future__ import annotations

from secure_fu import DeletionRequest, Exact, Federation, Requirement, Retrain, Rollback, make_plan
from secure_fu.learning import breast_cancer, iid, logistic, module_accuracy

HOSPITALS, LEAVER = 6, "hospital-6"


def main() -> None:
    data = breast_cancer(seed=0)
    parts = iid(data.train, HOSPITALS, seed=0)
    hospitals = {f"hospital-{number + 1}": data.train.subset(part) for number, part in enumerate(parts)}
    model = logistic(inputs=30, classes=2, seed=0)
    plan = make_plan(
        model,
        clients=HOSPITALS,
        nominal_units=450,  # records that the federation is designed for: a public number, not a count
        minimum_cohort=HOSPITALS - 1,
        epsilon=8.0,  # what one record may spend on training and one deletion together
        rounds=20,
        learning_rate=0.5,
        momentum=0.5,
        checkpoint_every=4,
    )

    with Federation(model, hospitals, plan=plan, joins={LEAVER: 12}) as federation:
        trained = federation.module_of(federation.train(rounds=15))
        print(f"Trained 15 of 20 rounds: accuracy {module_accuracy(trained, data.test):.2f}")

        # adaptive=False says that nobody looked at the models and then chose to withdraw: here the contract ended.
        # Where nobody can say so, no re-run can promise to be exact; the last line shows what is left.
        request = DeletionRequest.whole_client(LEAVER)
        print(f"\nAsked: {request.describe()}.")
        for method in (Retrain(), Rollback()):
            cost = federation.cost(request, method, adaptive=False)
            print(f"{method.title} would take {cost.rounds} rounds. {cost.guarantee.describe()}")
        print(f"Asked after seeing models: {federation.cost(request, Rollback(), adaptive=True).guarantee.describe()}")

        # First a try in a branch of its own, which the federation does not go on from; then the deletion itself.
        retrained = federation.unlearn(request, Retrain(), adaptive=False)
        deleted = federation.delete(request, Rollback(), adaptive=False, require=Requirement(kind=Exact))
        print(f"\nDeleted in {len(deleted.traffic)} rounds: {deleted.guarantee.kind}.")
        print(f"Accuracy {module_accuracy(federation.module_of(deleted.state), data.test):.2f}, ", end="")
        print(f"after retraining {module_accuracy(federation.module_of(retrained.state), data.test):.2f}.")

        hidden = deleted.confidentiality
        print("\nWhat somebody who sees every sum can tell of one of its records, at most:")
        print(f"phase     {hidden.phase.describe()} (whether it was there, from the rounds of the deletion)")
        print(f"pair      {hidden.pair.describe()} (whether it ever was, from everything before and after)")
        print(f"who asked {hidden.who_asked.describe()} (whether it left or stayed)")

        final = federation.train()
        print(f"\nTraining went on to round {final.rounds}, without the hospital: accuracy ", end="")
        print(f"{module_accuracy(federation.module_of(final), data.test):.2f}")


if __name__ == "__main__":
    main()
