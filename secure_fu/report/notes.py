"""What the figures of a run rest on, and what nothing in it protects, as sentences."""

from __future__ import annotations

from secure_fu.report.result import Result
from secure_fu.report.text import clients_in_words, count

__all__ = ["NOT_PROTECTED", "assumptions"]

NOT_PROTECTED = (
    "A party that stops answering: denial of service is not prevented.",
    "A client that lies about its own data, poisons them, or fails to clip.",
    "That a release is the true sum: a server can add to it.",
    "Traffic analysis beyond the size of messages, and side channels of the arithmetic.",
    "The fact that a client no longer takes part.",
    "Copies of an older model that somebody kept.",
    "Choosing settings by trying them on the private data: that is not counted in any epsilon.",
)


def assumptions(result: Result) -> tuple[str, ...]:
    """The sentences that a reader must accept before the figures mean what they say."""
    privacy, scenario = result.privacy, result.scenario
    sentences = [
        f"Encryption ({result.scheme.name}, {result.scheme.parameter_set}). {result.scheme.trust}",
        f"Noise. Each round has at least {privacy.minimum_cohort} uploads, and at most {privacy.colluders} of the "
        f"clients in it omit their noise or give it away; the epsilon figures count on the other {privacy.assured}.",
    ]
    if privacy.sampling_rate < 1:
        sentences.append(
            f"Sampling. Clients draw each {privacy.unit} with probability {privacy.sampling_rate:g} in a round, "
            "independently and in secret; the epsilon figures count on that."
        )
    units = len(scenario.forgotten_clients) if privacy.unit == "client" else scenario.forgotten_records
    if units > 1:
        whose = f" of {clients_in_words(scenario.forgotten_clients)}" if scenario.forgotten_clients else ""
        what = "clients" if privacy.unit == "client" else f"records{whose}"
        sentences.append(
            f"Unit. Epsilon speaks of one {privacy.unit}. The {count(units)} forgotten {what} are more than one, and "
            "as a whole they get no useful proof of secrecy from it."
        )
    sentences += [
        "Measurements. Accuracies, backdoor and attack figures come from the simulation's evaluator, which looks at "
        "client data. A real federation has none, and these figures are not private.",
        "One run. Two retrainings differ as well; small differences between rows may be chance.",
        "Branches. Retraining and each method are alternatives to one another. Epsilon is counted as if only one of "
        "them were published.",
    ]
    return tuple(sentences)
