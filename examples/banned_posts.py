"""A topic is banned: every post on it has to be forgotten, on all servers.

Five servers of a message board train one model that sorts posts by topic. The posts are real text: paragraphs of the
Python reference, which comes with Python, and its chapters are the topics. Then one topic is banned, and its posts go:
a request for a whole class. Scrub unlearns it in a few rounds; whether it worked is measured, not proved.
"""

from __future__ import annotations

import re
from pydoc_data.topics import topics as chapters

from sklearn.feature_extraction.text import HashingVectorizer

from secure_fu import DeletionRequest, Federation, FineTune, Records, Retrain, Scrub, UnlearningMethod, make_plan
from secure_fu.learning import iid, logistic, module_accuracy, split_records

TOPICS, BANNED = ("specialnames", "compound", "string-methods", "debugger"), "debugger"
SERVERS, WORDS = 5, 128  # so many columns for the words, by a fixed hash: a vocabulary counted from posts would leak


def posts() -> Records:
    """Bags of words with their topics, a row for each paragraph of at least eight words."""
    found = [(post, label) for label, name in enumerate(TOPICS) for post in re.split(r"\n\s*\n", chapters[name])]
    kept = [(post, label) for post, label in found if len(re.findall(r"[a-z]{3,}", post.lower())) >= 8]
    bags = HashingVectorizer(n_features=WORDS, stop_words="english").transform([post for post, _ in kept])
    return Records.from_arrays(bags.toarray(), [label for _, label in kept])


def main() -> None:
    train, test = split_records(posts(), test_fraction=0.2, seed=0)
    parts = iid(train, SERVERS, seed=0)
    servers = {f"server-{number + 1}": train.subset(part) for number, part in enumerate(parts)}
    model = logistic(inputs=WORDS, classes=len(TOPICS), seed=0)
    plan = make_plan(
        model,
        clients=SERVERS,
        nominal_units=500,  # posts; a public number, not a count
        minimum_cohort=SERVERS - 1,
        epsilon=8.0,
        rounds=12,
        learning_rate=3.0,
        momentum=0.8,
        clip_norm=1.0,
    )
    request = DeletionRequest.whole_class(TOPICS.index(BANNED))
    banned = train.subset(request.identify("all", train))  # in truth each server looks at its own posts only
    kept = test.subset(~request.identify("test", test))

    with Federation(model, servers, plan=plan) as federation:
        trained = federation.module_of(federation.train())
        print(f"Asked: {request.describe()} ({len(banned)} posts on {BANNED!r}).")
        # Fine-tuning is no method but the control: so many rounds of simply training on.
        methods: tuple[UnlearningMethod, ...] = (Retrain(), FineTune(length=3), Scrub(length=3))
        for method in methods:
            cost = federation.cost(request, method, adaptive=True)
            print(f"{method.title} would take {cost.rounds} rounds. {cost.guarantee.describe()}")

        print("\n                 banned posts   other topics (held-out posts)")
        print(f"before           {module_accuracy(trained, banned):8.0%} {module_accuracy(trained, kept):14.0%}")
        for method in methods:
            outcome = federation.unlearn(request, method, adaptive=True)
            module = federation.module_of(outcome.state)
            print(f"after {method.name:10} {module_accuracy(module, banned):8.0%} ", end="")
            print(f"{module_accuracy(module, kept):14.0%}")

        hidden = outcome.confidentiality
        print("\nWhat somebody who sees every sum can tell of one banned post, after scrub, at most:")
        print(f"phase     {hidden.phase.describe()} (its content, from the rounds of the deletion)")
        print(f"pair      {hidden.pair.describe()} (whether it ever was there, from everything before and after)")
        print(f"who asked {hidden.who_asked.describe()} (whether it was deleted or stayed)")


if __name__ == "__main__":
    main()
