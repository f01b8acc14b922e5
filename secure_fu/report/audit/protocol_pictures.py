"""The pictures of the protocol's audit: bounds against the claim, the noise that was found, what parties see."""

from __future__ import annotations

import textwrap

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from secure_fu.report.audit.marks import MARKERS, OUTCOME_COLOURS
from secure_fu.report.audit.result import Audit, Bound, Outcome
from secure_fu.report.audit.words import method_bound_title
from secure_fu.report.canvas import Picture, bare, label_rows, new_figure, picture
from secure_fu.report.style import INK, MUTED, WARNING
from secure_fu.report.text import decimal

__all__ = ["bounds_picture", "noise_picture", "views_picture"]

_BAR = "#0072b2"
_ROOM_FOR_LABEL = 0.12
"""A bar that takes up more than this part of the axis has its figure inside."""

_PARTY_WIDTH = 32


def bounds_picture(audit: Audit) -> Picture | None:
    """Every lower bound on epsilon against the claim, with the largest that each could have shown."""
    figures = audit.protocol
    if figures is None or not figures.bounds:
        return None
    claim = figures.claim_epsilon
    largest = max([claim or 0.0, *(max(bound.value, bound.largest or 0.0) for bound in figures.bounds)]) or 1.0
    figure = new_figure(1.2 + 0.42 * len(figures.bounds))
    axes = figure.subplots()
    for position, bound in enumerate(figures.bounds):
        above = claim is not None and bound.value > claim
        axes.barh(position, bound.value, height=0.5, color=OUTCOME_COLOURS[Outcome.LEAK] if above else _BAR, zorder=2)
        reach, limited = (1.04 * largest, False) if bound.largest is None else (bound.largest, True)
        axes.plot([bound.value, reach], [position, position], color=MUTED, linewidth=1.0, zorder=1)
        if limited:
            axes.plot(reach, position, marker="|", markersize=13, markeredgewidth=1.8, color=MUTED, zorder=2)
        inside = bound.value > _ROOM_FOR_LABEL * largest
        axes.annotate(
            decimal(bound.value),
            (bound.value, position),
            (-6 if inside else 6, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            fontsize=9,
            color="white" if inside else INK,
            bbox=None if inside else {"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            zorder=4,
        )
    handles = [Line2D([], [], color=MUTED, marker="|", markersize=11, label="the largest it could have shown")]
    if claim is not None:
        axes.axvline(claim, color=WARNING, linestyle=(0, (4, 3)), linewidth=1.4, zorder=3)
        handles.append(
            Line2D([], [], color=WARNING, linestyle=(0, (4, 3)), linewidth=1.4, label=f"claimed: {claim:.3g}")
        )
    axes.set_xlim(0, 1.04 * largest)
    axes.set_xlabel(f"epsilon of one canary at delta {figures.claim_delta:g}")
    label_rows(axes, [method_bound_title(bound.method) for bound in figures.bounds])
    bare(axes)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return picture(
        figure,
        name="protocol_bounds",
        title="Epsilon: at least this much, against the claim",
        caption=(
            "A bar is a lower bound: the true epsilon is at least that, with the stated confidence and under the "
            "bound's own assumption. A bar beyond the dashed claim refutes it. A bar short of it proves nothing: how "
            "much each could have shown at best is marked, where there is a limit."
        ),
        alt=("No claim. " if claim is None else f"Claim {claim:.3g}. ")
        + "; ".join(
            f"{method_bound_title(bound.method)} at least {bound.value:.2f}, at best {_largest(bound)}"
            for bound in figures.bounds
        ),
    )


def _largest(bound: Bound) -> str:
    return "no limit" if bound.largest is None else decimal(bound.largest)


def noise_picture(audit: Audit) -> Picture | None:
    """Measured over expected noise, in rounds of noise only and in the training rounds."""
    figures = audit.protocol
    if figures is None:
        return None
    candidates = (
        ("rounds of noise only, against the noise of all who took part", figures.zero_round, "noise"),
        ("the same rounds, against the noise that is accounted", figures.required_noise, "noise"),
        ("training rounds, against the noise of all who took part", figures.round_noise, "rounds"),
    )
    checks = [(label, check, question) for label, check, question in candidates if check is not None]
    if not checks:
        return None
    figure = new_figure(1.0 + 0.52 * len(checks))
    axes = figure.subplots()
    axes.axvline(1.0, color=MUTED, linewidth=1.2, linestyle=(0, (3, 2)), zorder=1)
    low = high = 1.0
    for position, (_, check, question) in enumerate(checks):
        verdict = figures.findings.get(question, figures.verdict)
        wrong = verdict.outcome is Outcome.LEAK and check.p_too_small <= 1 - check.level
        colour = OUTCOME_COLOURS[Outcome.LEAK] if wrong else _BAR
        ratio = check.ratio
        axes.plot([ratio.low, ratio.high], [position, position], color=colour, linewidth=2.4, zorder=2)
        axes.plot(ratio.value, position, marker="o", markersize=7, color=colour, zorder=3)
        axes.annotate(
            decimal(ratio.value, 3),
            (ratio.value, position),
            (0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
        low, high = min(low, ratio.low), max(high, ratio.high)
    room = max(0.1 * (high - low), 0.02)
    axes.set_xlim(max(low - room, 0.0), high + room)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_xlabel("measured over expected standard deviation")
    label_rows(axes, [label for label, *_ in checks], width=36)
    axes.set_ylim(len(checks) - 0.5, -0.7)
    bare(axes)
    return picture(
        figure,
        name="protocol_noise",
        title="Is the noise there?",
        caption=(
            "In a round in which everybody sends noise only, all that is released is noise, and it can be measured. "
            "Against the noise of all who took part the ratio should be 1. Against the noise that privacy is "
            "accounted with, for which some of them may leave theirs out, it should be 1 or more."
        ),
        alt="Measured over expected noise: "
        + "; ".join(
            f"{label} {check.ratio.value:.3f} ({check.ratio.low:.3f} to {check.ratio.high:.3f})"
            for label, check, _ in checks
        ),
    )


def views_picture(audit: Audit) -> Picture | None:
    """Every bound from each party's view, against the claim."""
    rows = [view for view in audit.views if view.bounds]
    if not rows:
        return None
    methods = list(dict.fromkeys(bound.method for view in rows for bound in view.bounds))
    lines = max(len(textwrap.wrap(view.party, _PARTY_WIDTH)) for view in rows)
    figure = new_figure(1.35 + max(0.45, 0.08 + 0.17 * lines) * len(rows))
    axes = figure.subplots()
    largest = 0.0
    for position, view in enumerate(rows):
        highest = max(bound.value for bound in view.bounds)
        axes.plot([0.0, highest], [position, position], color=_BAR, linewidth=1.6, zorder=2)
        for bound in view.bounds:
            marker = MARKERS[methods.index(bound.method) % len(MARKERS)]
            above = view.claim_epsilon is not None and bound.value > view.claim_epsilon
            colour = OUTCOME_COLOURS[Outcome.LEAK] if above else _BAR
            axes.plot(bound.value, position, marker=marker, markersize=6.0, color=colour, zorder=3, clip_on=False)
        if view.claim_epsilon is not None:
            claim = [view.claim_epsilon, view.claim_epsilon]
            axes.plot(claim, [position - 0.36, position + 0.36], color=WARNING, linewidth=1.8, zorder=1)
        largest = max(largest, highest, view.claim_epsilon or 0.0)
    axes.set_xlim(0, 1.06 * largest or 1.0)
    axes.set_xlabel("epsilon of one canary")
    label_rows(axes, [view.party for view in rows], width=_PARTY_WIDTH)
    bare(axes)
    handles = [
        Line2D(
            [], [], color=_BAR, marker=MARKERS[index % len(MARKERS)], linestyle="none", label=method_bound_title(name)
        )
        for index, name in enumerate(methods)
    ]
    handles.append(Line2D([], [], color=WARNING, linewidth=1.8, label="claimed"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return picture(
        figure,
        name="views",
        title="Who could find out how much",
        caption=(
            "Lower bounds on epsilon from what each party sees, each under its own assumption. Beyond the upright line "
            "a party would have found more than was promised against it."
        ),
        alt="Highest bound and claim: "
        + "; ".join(
            f"{view.party} {max(bound.value for bound in view.bounds):.2f} of {decimal(view.claim_epsilon)}"
            for view in rows
        ),
    )
