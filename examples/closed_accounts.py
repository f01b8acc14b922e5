"""Three accounts are closed, and the banks have to show a guarantee that they are forgotten.

Five banks train a model that reads handwritten digits on paying-in slips. The unit of privacy is the account: all of
its digits are hidden together and forgotten together. The digits are real (UCI, 8 by 8 pixels); which account one
belongs to is made up.
"""

from __future__ import annotations

from secure_fu import DeletionBatch, DeletionRequest, Federation, Records, Retrain, Rollback, Scrub, Unit, make_plan
from secure_fu.errors import GuaranteeError
from secure_fu.learning import digits, iid, logistic, module_accuracy
from secure_fu.unlearning import Certified, Requirement

BANKS, DIGITS = 5, 2  # banks, and digits of one account


def accounts(bank: str, records: Records) -> Records:
    """The same records, with the name of an account for each."""
    owners = [f"{bank}/account-{number // DIGITS:03d}" for number in range(len(records))]
    return Records.from_arrays(records.features, records.labels, groups=owners)


def main() -> None:
    data = digits(seed=0)
    names = [f"bank-{number + 1}" for number in range(BANKS)]
    dealt = zip(names, iid(data.train, BANKS, seed=0), strict=True)
    banks = {name: accounts(name, data.train.subset(part)) for name, part in dealt}
    model = logistic(inputs=64, classes=10, seed=0)
    plan = make_plan(
        model,
        clients=BANKS,
        nominal_units=720,  # accounts that the federation is designed for: a public number, not a count
        minimum_cohort=BANKS - 1,
        unit=Unit.GROUP,
        epsilon=2.0,  # what one account may spend on training and one deletion together
        rounds=12,
        learning_rate=1.0,
        checkpoint_every=2,
    )
    closed = DeletionBatch(
        (
            DeletionRequest.person("bank-1/account-007", client="bank-1"),
            DeletionRequest.person("bank-4/account-031", "bank-4/account-050", client="bank-4"),
        )
    )
    # A batch is one group: the certificate is about its three accounts together, and is weaker for more of them.
    required = Requirement(kind=Certified, epsilon=3.0)
    rollback = Rollback(forget_epsilon=3.0)  # back to the last checkpoint up to which the group had paid at most this

    # Settings that are chosen after training would void a rollback's certificate, so they are declared before it.
    with Federation(model, banks, plan=plan, methods=(rollback,)) as federation:
        trained = federation.module_of(federation.train())
        print(f"Trained: accuracy {module_accuracy(trained, data.test):.2f}")
        print(f"\nAsked: {closed.describe()}.")
        paid = federation.deletion(closed, adaptive=False).last_epsilon
        print(f"As it is, the model is within epsilon {paid:.2f} of one without them. Required: {required.epsilon:g}.")
        for method in (Scrub(), rollback, Retrain()):
            cost = federation.cost(closed, method, adaptive=False)
            print(f"{method.title} would take {cost.rounds} rounds. {cost.guarantee.describe()}")

        # Of the methods that the refusal names, scratch is a short training anew: exact, and of a weak model.
        try:
            federation.delete(closed, Scrub(), adaptive=False, require=required)
        except GuaranteeError as refusal:
            print(f"\nRefused, before any bank was asked: {refusal}.")

        # First a try in a branch of its own, which the federation does not go on from; then the deletion itself.
        # adaptive=False: the accounts were not closed because of what somebody saw in the models.
        retrained = federation.unlearn(closed, Retrain(), adaptive=False)
        deleted = federation.delete(closed, rollback, adaptive=False, require=required)
        print(f"\nDeleted in {len(deleted.traffic)} rounds: {deleted.guarantee.describe()}")
        print(f"Accuracy {module_accuracy(federation.module_of(deleted.state), data.test):.2f}, ", end="")
        print(f"after retraining {module_accuracy(federation.module_of(retrained.state), data.test):.2f}.")
        hidden = deleted.confidentiality
        print("\nWhat somebody who sees every sum can tell of one closed account, at most:")
        print(f"phase     {hidden.phase.describe()} (what was on its slips, from the rounds of the deletion)")
        print(f"pair      {hidden.pair.describe()} (whether it ever was there, from everything before and after)")
        print(f"who asked {hidden.who_asked.describe()} (whether it was closed or stayed)")


if __name__ == "__main__":
    main()
