"""Reading and checking ``result.json``, schema ``secure-fu/result/1``.

Keys that the schema does not know are ignored, so that a later release may add some; a known key that is missing or
holds something else ends in :class:`~secure_fu.errors.RunDirectoryError`, which names the JSON path.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from secure_fu.errors import RunDirectoryError
from secure_fu.report.histogram import read_histogram
from secure_fu.report.node import Node
from secure_fu.report.result import (
    Attack,
    Backdoor,
    Certificate,
    Confidentiality,
    CurvePoint,
    EpsilonClaim,
    EpsilonFigure,
    Gap,
    Guarantee,
    Interval,
    Privacy,
    Refused,
    Result,
    Row,
    Scenario,
    Scheme,
    TrafficRound,
)

__all__ = ["SCHEMA", "read_result", "validate_result"]

SCHEMA = "secure-fu/result/1"


def validate_result(result: Mapping[str, object]) -> None:
    """Check that a decoded ``result.json`` follows the schema.

    Raises:
        RunDirectoryError: names the path of the first value that is missing or wrong, and what would be right.
    """
    read_result(result)


def read_result(result: Mapping[str, object]) -> Result:
    """Turn a decoded ``result.json`` into typed values.

    Raises:
        RunDirectoryError: as :func:`validate_result`.
    """
    root = Node("$", result)
    schema = root["schema"].text()
    if schema != SCHEMA:
        raise RunDirectoryError(
            f"result.json: $.schema is {schema!r}; expected {SCHEMA!r} (this run was written by another version)"
        )
    root.check_json()
    complete = root["complete"].boolean()
    rows = root["rows"].each(_row)
    names = _check_names(root["rows"], [row.name for row in rows], complete=complete)
    return Result(
        created=root["created"].moment(),
        complete=complete,
        insecure=root["insecure"].each(Node.text),
        software=root["software"].mapping(Node.text),
        config=root["config"].mapping(lambda node: node.value),
        scenario=_scenario(root["scenario"]),
        scheme=_scheme(root["scheme"]),
        privacy=_privacy(root["privacy"]),
        rows=rows,
        refused=root["refused"].each(_refused),
        curves=root["curves"].mapping(_curve, keys=names),
        traffic=root["traffic"]["per_round"].each(lambda node: _traffic_round(node, names)),
        timing=root["timing"].mapping(lambda node: node.number(low=0)),
        membership=root["membership"].mapping(_attack, keys=names),
    )


def _check_names(node: Node, names: list[str], *, complete: bool) -> list[str]:
    for index, name in enumerate(names):
        if name in names[:index]:
            node.at(index)["name"].reject("a name that no other row has")
    for name in ("original", "retrained"):
        if complete and name not in names:
            node.reject(f"a row named {name!r}, as every complete run has")
    return names


def _scenario(node: Node) -> Scenario:
    return Scenario(
        name=node["name"].text(),
        description=node["description"].text(),
        clients=node["clients"].integer(low=1),
        unit=node["unit"].choice("record", "group", "client"),
        dimension=node["dimension"].integer(low=1),
        model=node["model"].text(),
        train_records=node["train_records"].integer(low=1),
        test_records=node["test_records"].integer(low=1),
        forgotten_records=node["forgotten_records"].integer(low=1),
        forgotten_clients=node["forgotten_clients"].each(Node.text),
        request=node["request"].text(),
        joined_at_round=node["joined_at_round"].optional(Node.integer),
        backdoor=node["backdoor"].optional(
            lambda value: Backdoor(
                target_label=value["target_label"].integer(), description=value["description"].text()
            )
        ),
    )


def _scheme(node: Node) -> Scheme:
    return Scheme(
        name=node["name"].text(),
        parameter_set=node["parameter_set"].text(),
        secure=node["secure"].boolean(),
        trust=node["trust"].text(),
    )


def _privacy(node: Node) -> Privacy:
    return Privacy(
        delta=node["delta"].fraction(),
        budget_epsilon=node["budget_epsilon"].optional(lambda value: value.number(low=0)),
        noise_multiplier=node["noise_multiplier"].number(low=0),
        clip_norm=node["clip_norm"].number(low=0),
        sampling_rate=node["sampling_rate"].fraction(),
        unit=node["unit"].choice("record", "group", "client"),
        minimum_cohort=node["minimum_cohort"].integer(low=1),
        colluders=node["colluders"].integer(),
        assured=node["assured"].integer(low=1),
        accountant=node["accountant"].text(),
    )


def _row(node: Node) -> Row:
    counts = node["membership_n"]
    return Row(
        name=node["name"].name(),
        title=node["title"].text(),
        guarantee=Guarantee(node["guarantee"].choice(*(guarantee.value for guarantee in Guarantee))),
        guarantee_text=node["guarantee_text"].text(),
        certificate=node["certificate"].optional(_certificate),
        test_accuracy=node["test_accuracy"].fraction(),
        retain_accuracy=node["retain_accuracy"].optional(Node.fraction),
        forget_accuracy=node["forget_accuracy"].optional(Node.fraction),
        forget_loss=node["forget_loss"].optional(Node.number),
        membership_auc=node["membership_auc"].optional(_interval),
        membership_tpr_at_1pct_fpr=node["membership_tpr_at_1pct_fpr"].optional(_interval),
        membership_auc_distance=node["membership_auc_distance"].optional(Node.fraction),
        members=counts.optional(lambda value: value["members"].integer()),
        non_members=counts.optional(lambda value: value["non_members"].integer()),
        backdoor_success=node["backdoor_success"].optional(Node.fraction),
        rounds=node["rounds"].integer(),
        predicted_rounds=node["predicted_rounds"].optional(Node.integer),
        seconds=node["seconds"].number(low=0),
        upload_bytes_per_client=node["upload_bytes_per_client"].integer(),
        epsilon=node["epsilon"].each(_epsilon),
        confidentiality=node["confidentiality"].optional(_confidentiality),
        gap=node["gap_to_retrained"].optional(_gap),
    )


def _certificate(node: Node) -> Certificate:
    return Certificate(
        epsilon=node["epsilon"].number(low=0),
        delta=node["delta"].fraction(),
        group_size=node["group_size"].integer(low=1),
        view=node["view"].text(),
    )


def _refused(node: Node) -> Refused:
    return Refused(name=node["name"].name(), title=node["title"].text(), reason=node["reason"].text())


def _confidentiality(node: Node) -> Confidentiality:
    return Confidentiality(
        phase=_figure(node["phase"]), pair=_figure(node["pair"]), who_asked=_figure(node["who_asked"])
    )


def _figure(node: Node) -> EpsilonFigure:
    return EpsilonFigure(
        value=node["value"].optional(lambda value: value.number(low=0)),
        delta=node["delta"].fraction(),
        group_size=node["group_size"].integer(low=1),
    )


def _interval(node: Node) -> Interval:
    interval = Interval(value=node["value"].fraction(), low=node["low"].fraction(), high=node["high"].fraction())
    if not interval.low <= interval.value <= interval.high:
        node.reject("low <= value <= high")
    return interval


def _epsilon(node: Node) -> EpsilonClaim:
    return EpsilonClaim(
        subject=node["subject"].choice("forgotten", "retained"),
        phase=node["phase"].text(),
        view=node["view"].text(),
        value=node["value"].optional(lambda value: value.number(low=0)),
        delta=node["delta"].fraction(),
        group_size=node["group_size"].integer(low=1),
    )


def _gap(node: Node) -> Gap:
    return Gap(
        test_accuracy=node["test_accuracy"].number(low=-1, high=1),
        forget_accuracy=node["forget_accuracy"].number(low=-1, high=1),
        forget_loss=node["forget_loss"].number(),
        backdoor_success=node["backdoor_success"].optional(lambda value: value.number(low=-1, high=1)),
    )


def _curve(node: Node) -> tuple[CurvePoint, ...]:
    points = node.each(
        lambda point: CurvePoint(
            round=point["round"].integer(),
            test_accuracy=point["test_accuracy"].fraction(),
            backdoor_success=point["backdoor_success"].optional(Node.fraction),
        )
    )
    for index in range(1, len(points)):
        if points[index].round <= points[index - 1].round:
            node.at(index)["round"].reject("a round after the one before it")
    return points


def _traffic_round(node: Node, names: Collection[str]) -> TrafficRound:
    branch = node["branch"]
    if branch.text() not in names:
        branch.reject("the name of a row")
    return TrafficRound(
        branch=branch.text(),
        round=node["round"].integer(),
        purpose=node["purpose"].text(),
        upload_bytes_per_client=node["upload_bytes_per_client"].integer(),
        download_bytes_per_client=node["download_bytes_per_client"].integer(),
        uploads=node["uploads"].integer(),
    )


def _attack(node: Node) -> Attack:
    curves: dict[str, tuple[float, ...]] = {}
    for key in ("fpr", "tpr", "tpr_low", "tpr_high"):
        curve = node[key].optional(lambda value: value.each(Node.fraction))
        if curve is None and key in ("fpr", "tpr"):
            node[key].reject("a list of fractions")
        if curve is not None and len(curve) != len(curves.get("fpr", curve)):
            node[key].reject(f"as many fractions as fpr has ({len(curves['fpr'])})")
        curves[key] = () if curve is None else curve
    return Attack(
        fpr=curves["fpr"],
        tpr=curves["tpr"],
        tpr_low=curves["tpr_low"] or None,
        tpr_high=curves["tpr_high"] or None,
        histogram=node["member_scores_histogram"].optional(read_histogram),
    )
