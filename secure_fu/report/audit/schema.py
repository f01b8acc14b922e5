"""Reading and checking ``audit.json``, schema ``secure-fu/audit/1``.

Keys that the schema does not know are ignored, so that a later release may add some; a known key that is missing or
holds something else ends in :class:`~secure_fu.errors.RunDirectoryError`, which names the JSON path.
"""

from __future__ import annotations

from collections.abc import Mapping

from secure_fu.errors import RunDirectoryError
from secure_fu.report.audit.result import (
    AttackFigures,
    Audit,
    Bound,
    ClassLeakage,
    Comparison,
    DeletionFigures,
    Exposed,
    Harm,
    HeldCanaries,
    Inversion,
    MembershipFigures,
    MethodRow,
    Outcome,
    PairAttack,
    Power,
    ProtocolFigures,
    Relearning,
    Source,
    VarianceCheck,
    Verdict,
    ViewRow,
)
from secure_fu.report.audit.words import method_title
from secure_fu.report.histogram import read_histogram
from secure_fu.report.node import Node
from secure_fu.report.result import Interval

__all__ = ["AUDIT_SCHEMA", "read_audit", "validate_audit"]

AUDIT_SCHEMA = "secure-fu/audit/1"


def validate_audit(result: Mapping[str, object]) -> None:
    """Check that a decoded ``audit.json`` follows the schema.

    Raises:
        RunDirectoryError: names the path of the first value that is missing or wrong, and what would be right.
    """
    read_audit(result)


def read_audit(result: Mapping[str, object]) -> Audit:
    """Turn a decoded ``audit.json`` into typed values.

    Raises:
        RunDirectoryError: as :func:`validate_audit`.
    """
    root = Node("$", result, file="audit.json")
    schema = root["schema"].text()
    if schema != AUDIT_SCHEMA:
        raise RunDirectoryError(
            f"audit.json: $.schema is {schema!r}; expected {AUDIT_SCHEMA!r} (this audit was written by another version)"
        )
    root.check_json()
    verdict = root["verdict"]
    audit = Audit(
        created=root["created"].moment(),
        complete=root["complete"].boolean(),
        software=root["software"].mapping(Node.text),
        source=_source(root["source"]),
        insecure=root["insecure"].each(Node.text),
        outcome=_outcome(verdict["outcome"]),
        sentences=verdict["sentences"].each(Node.text),
        membership=root["membership"].optional(_membership),
        deletion=root["deletion"].optional(_deletion),
        protocol=root["protocol"].optional(_protocol),
        views=root["views"].each(_view),
        assumptions=root["assumptions"].each(Node.text),
        not_seen=root["not_seen"].each(Node.text),
        timing=root["timing"].mapping(lambda node: node.number(low=0)),
    )
    if not audit.sentences:
        verdict["sentences"].reject("at least one sentence")
    return audit


def _source(node: Node) -> Source:
    return Source(
        kind=node["kind"].choice("run", "config", "scores"),
        name=node["name"].text(),
        config=node["config"].optional(lambda value: value.mapping(lambda member: member.value)),
        quick=node.maybe("quick", Node.boolean) or False,
    )


def _outcome(node: Node) -> Outcome:
    return Outcome(node.choice(*(outcome.value for outcome in Outcome)))


def _verdict(node: Node) -> Verdict:
    return Verdict(
        outcome=_outcome(node["outcome"]),
        sentence=node["sentence"].text(),
        figures=node["figures"].mapping(lambda value: value.optional(Node.number)),
    )


def _interval(node: Node, *, low: float, high: float) -> Interval:
    interval = Interval(
        value=node["value"].number(low=low, high=high),
        low=node["low"].number(low=low, high=high),
        high=node["high"].number(low=low, high=high),
    )
    if not interval.low <= interval.value <= interval.high:
        node.reject("low <= value <= high")
    return interval


_UNBOUNDED = float("inf")


def _share(node: Node) -> Interval:
    return _interval(node, low=0, high=1)


def _any_interval(node: Node) -> Interval:
    return _interval(node, low=-_UNBOUNDED, high=_UNBOUNDED)


def _non_negative(node: Node) -> float:
    return node.number(low=0)


def _membership(node: Node) -> MembershipFigures:
    attacks = node["attacks"].mapping(_attack)
    chosen = node["chosen"]
    if chosen.text() not in attacks:
        chosen.reject("the name of an attack")
    return MembershipFigures(
        attacks=attacks,
        chosen=chosen.text(),
        members=node["members"].integer(low=1),
        non_members=node["non_members"].integer(low=1),
        shadows=node["shadows"].integer(),
        most_exposed=node["most_exposed"].each(
            lambda item: Exposed(
                record=item["record"].integer(),
                score=item["score"].number(),
                member=item["member"].boolean(),
                false_positive_rate=item.maybe("false_positive_rate", Node.fraction),
            )
        ),
        histogram=node["histogram"].optional(read_histogram),
        warnings=node["warnings"].each(Node.text),
        verdict=_verdict(node["verdict"]),
    )


def _attack(node: Node) -> AttackFigures:
    curves: dict[str, tuple[float, ...]] = {}
    for key in ("fpr", "tpr", "low", "high"):
        curves[key] = node["roc"][key].each(Node.fraction)
        if len(curves[key]) != len(curves["fpr"]):
            node["roc"][key].reject(f"as many fractions as fpr has ({len(curves['fpr'])})")
    return AttackFigures(
        auc=_share(node["auc"]),
        p_value=node.maybe("p_value", Node.fraction),
        tpr_at_1pct_fpr=node["tpr_at_1pct_fpr"].optional(_share),
        tpr_at_01pct_fpr=node["tpr_at_01pct_fpr"].optional(_share),
        fpr=curves["fpr"],
        tpr=curves["tpr"],
        low=curves["low"],
        high=curves["high"],
    )


def _deletion(node: Node) -> DeletionFigures:
    return DeletionFigures(
        runs=node["runs"].integer(low=1),
        units=node["units"].integer(low=1),
        forgotten=node["forgotten"].integer(low=1),
        unit=node["unit"].choice("record", "group", "client"),
        margin=node["margin"].number(low=0),
        accuracy_margin=node["accuracy_margin"].number(low=0),
        utility_margin=node["utility_margin"].number(low=0),
        level=node["level"].fraction(),
        power=node["power"].mapping(
            lambda item: Power(
                margin=_non_negative(item["margin"]),
                spread=_non_negative(item["spread"]),
                power=item["power"].fraction(),
                runs_needed=item["runs_needed"].optional(Node.integer),
            )
        ),
        reference=node["reference"].each(_pair_attack),
        rows=node["rows"].each(_row),
        refused=node.maybe("refused", lambda found: found.each(_refused)) or (),
    )


def _row(node: Node) -> MethodRow:
    name = node["name"].name()
    return MethodRow(
        name=name,
        title=node.maybe("title", Node.text) or method_title(name),
        after_only=node["after_only"].mapping(_comparison),
        forget_excess=_comparison(node["forget_set"]["excess"]),
        forget_accuracy=_comparison(node["forget_set"]["accuracy"]),
        forget_loss=_comparison(node["forget_set"]["loss"]),
        test_accuracy=_comparison(node["usefulness"]["accuracy"]),
        chance=node["usefulness"]["chance"].fraction(),
        headline=node["pair"]["headline"].mapping(_pair_attack),
        pair=node["pair"]["attacks"].each(_pair_attack),
        harm=node["retained_harm"].optional(_harm),
        relearning=node["relearning"].optional(_relearning),
        class_leakage=node["class_leakage"].optional(_class_leakage),
        inversion=node["inversion"].optional(_inversion),
        verdict=_verdict(node["verdict"]),
        pair_verdict=node["pair_verdict"].optional(_verdict),
        baseline=node.maybe("baseline", Node.boolean) or False,
    )


def _refused(node: Node) -> tuple[str, str]:
    return node["name"].name(), node["reason"].text()


def _comparison(node: Node) -> Comparison:
    return Comparison(
        value=_any_interval(node["value"]),
        retrained=_any_interval(node["retrained"]),
        gap=_any_interval(node["gap"]),
        margin=node["margin"].optional(_non_negative),
        p_equivalent=node["p_equivalent"].optional(Node.fraction),
        p_different=node["p_different"].optional(Node.fraction),
        equivalent=node["equivalent"].optional(Node.boolean),
    )


def _pair_attack(node: Node) -> PairAttack:
    return PairAttack(
        game=node["game"].text(),
        feature=node["feature"].text(),
        auc=_any_interval(node["auc"]),
        retrained=_any_interval(node["retrained"]),
        margin=_non_negative(node["margin"]),
        p_equivalent=node["p_equivalent"].fraction(),
        p_different=node["p_different"].fraction(),
        equivalent=node["equivalent"].boolean(),
    )


def _harm(node: Node) -> Harm:
    return Harm(
        before=_any_interval(node["before"]),
        after=_any_interval(node["after"]),
        retrained=_any_interval(node["retrained"]),
        by_deletion=_any_interval(node["by_deletion"]),
        by_method=_any_interval(node["by_method"]),
    )


def _relearning(node: Node) -> Relearning:
    return Relearning(
        steps=_any_interval(node["steps"]),
        retrained=_any_interval(node["retrained"]),
        gap=_any_interval(node["gap"]),
        longest=node["longest"].integer(low=1),
    )


def _class_leakage(node: Node) -> ClassLeakage:
    return ClassLeakage(
        accuracy=_any_interval(node["accuracy"]),
        chance=node["chance"].fraction(),
        correlation=node["correlation"].optional(_any_interval),
    )


def _inversion(node: Node) -> Inversion:
    return Inversion(
        exact=node["exact"].boolean(),
        cosine=_any_interval(node["cosine"]),
        guess_cosine=_any_interval(node["guess_cosine"]),
        gain=_any_interval(node["gain"]),
    )


def _protocol(node: Node) -> ProtocolFigures:
    claim = node["claim"]
    return ProtocolFigures(
        claim_epsilon=claim["epsilon"].optional(_non_negative),
        claim_delta=claim["delta"].fraction(),
        recomputed=claim.maybe("recomputed", _non_negative),
        bounds=node["bounds"].each(_bound),
        zero_round=node["zero_round"].optional(_variance),
        required_noise=node.maybe("required_noise", _variance),
        round_noise=node.maybe("round_noise", _variance),
        contributions=node.maybe(
            "contributions", lambda held: (_held(held["overall"]), *held["least_likely"].each(_held))
        )
        or (),
        canaries=node["canaries"].integer(low=1),
        rounds=node["rounds"].integer(low=1),
        findings=node.maybe("findings", lambda found: found.mapping(_verdict)) or {},
        verdict=_verdict(node["verdict"]),
    )


def _bound(node: Node) -> Bound:
    return Bound(
        method=node["method"].text(),
        assumes=node["assumes"].text(),
        value=_non_negative(node["value"]),
        largest=node["largest"].optional(_non_negative),
        delta=node["delta"].fraction(),
        level=node["level"].fraction(),
        canaries=node["canaries"].integer(),
    )


def _variance(node: Node) -> VarianceCheck:
    return VarianceCheck(
        ratio=_interval(node["ratio"], low=0, high=_UNBOUNDED),
        p_too_small=node["p_too_small"].fraction(),
        p_too_large=node["p_too_large"].fraction(),
        values=node["values"].integer(low=1),
        level=node["level"].fraction(),
    )


def _held(node: Node) -> HeldCanaries:
    return HeldCanaries(
        name=node["name"].text(),
        draws=node["draws"].integer(),
        factor=node["factor"].number(),
        p_too_large=node["p_too_large"].fraction(),
        p_too_small=node["p_too_small"].fraction(),
    )


def _view(node: Node) -> ViewRow:
    return ViewRow(
        party=node["party"].text(),
        sees=node["sees"].text(),
        finds=node["finds"].text(),
        bounds=node["bounds"].each(_bound),
        claim_epsilon=node["claim"].optional(lambda claim: claim["epsilon"].optional(_non_negative)),
        verdict=_verdict(node["verdict"]),
    )
