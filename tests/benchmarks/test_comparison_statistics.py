"""The statistics of the comparison, on made-up cells whose truth is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from comparison.figures import FIGURES
from comparison.statistics import (
    CellFigures,
    compared,
    distances,
    gap,
    gap_interval,
    geometric_interval,
    holm,
    ranking,
    units,
    worst,
)

SPREAD = 0.02


def made_up_cells(draw, seeds, shifts=None, references=2, spread=SPREAD):
    """Cells of rows whose test accuracy is retraining's plus a shift; all else equal, each with noise of its own."""
    cells = []
    for _ in range(seeds):
        level = draw.normal(0.9, 0.05)  # seeds differ by more than rows do: pairing has to take it out

        def run(level=level, shift=0.0):
            return {
                "test_accuracy": level + shift + draw.normal(0.0, spread),
                "relearn_steps": math.exp(draw.normal(3.0, 0.5)),
                "backdoor_success": None,
            }

        rows = {"retrained": run()} | {name: run(shift=shift) for name, shift in (shifts or {}).items()}
        for row in rows.values():
            row["output_distance"] = 0.2 + draw.normal(0.0, 0.02)
        pairs = {pair: 0.2 + draw.normal(0.0, 0.02) for pair in itertools.combinations(range(references + 1), 2)}
        cells.append(CellFigures(rows=rows, references=[run() for _ in range(references)], pairs=pairs))
    return cells


def test_a_gap_is_to_the_mean_of_the_references_and_of_logarithms_for_ratios():
    cell = CellFigures(
        rows={"retrained": {}, "one": {"test_accuracy": 0.8, "relearn_steps": 40.0, "output_distance": 0.5}},
        references=[{"test_accuracy": 0.9, "relearn_steps": 10.0}, {"test_accuracy": 0.8, "relearn_steps": 40.0}],
        pairs={(0, 1): 0.9, (0, 2): 0.9, (1, 2): 0.2},
    )
    assert gap(cell, "one", FIGURES["test_accuracy"]) == pytest.approx(-0.05)
    assert gap(cell, "one", FIGURES["relearn_steps"]) == pytest.approx(math.log(2.0))
    assert gap(cell, "one", FIGURES["output_distance"]) == pytest.approx(0.3)
    assert gap(cell, "one", FIGURES["backdoor_success"]) is None


def test_gap_intervals_cover_ninety_percent_and_not_more():
    draw, truth, covered, repetitions = np.random.default_rng(1), -0.03, 0, 1000
    for _ in range(repetitions):
        found = gap_interval(made_up_cells(draw, 5, {"one": truth}), "one", "test_accuracy")
        covered += found.low <= truth <= found.high
    assert 0.87 <= covered / repetitions <= 0.93


def test_a_unit_is_what_one_retraining_is_away_from_the_others():
    draw = np.random.default_rng(2)
    found = units(made_up_cells(draw, 400))
    assert found["test_accuracy"] == pytest.approx(SPREAD * math.sqrt(1.5), rel=0.06)
    assert found["relearn_steps"] == pytest.approx(0.5 * math.sqrt(1.5), rel=0.06)
    # One retraining's distance to two others is a mean of two, and the others' own is a third.
    assert found["output_distance"] == pytest.approx(0.02 * math.sqrt(1.5), rel=0.06)


def test_a_unit_is_never_below_its_floor():
    cells = made_up_cells(np.random.default_rng(3), 10, spread=1e-6)
    assert units(cells)["test_accuracy"] == 0.01


def test_a_distance_is_the_worst_figure():
    cells = made_up_cells(np.random.default_rng(4), 10, {"far": -1.0})
    unit = units(cells)
    for cell in cells:
        expected = abs(gap(cell, "far", FIGURES["test_accuracy"])) / unit["test_accuracy"]
        assert distances(cell, unit)["far"] == pytest.approx(expected)
    assert all(distances(cell, unit)["retrained"] < 5.0 for cell in cells)
    assert worst(cells, "far", unit) == "test_accuracy"


def test_retraining_is_about_two_units_from_retraining():
    cells = made_up_cells(np.random.default_rng(5), 400)
    unit = units(cells)
    mean = np.mean([distances(cell, unit)["retrained"] for cell in cells])
    assert 1.0 < mean < 2.0  # the largest of three standard normals: 1.33


def blocks_of(draw, seeds, levels, noise=0.3):
    return [
        {
            name: math.exp(shared + level + draw.normal(0.0, noise))
            for shared in [draw.normal(0.0, 1.0)]
            for name, level in levels.items()
        }
        for _ in range(seeds)
    ]


def test_ranking_finds_a_planted_difference_and_groups_equals():
    draw = np.random.default_rng(6)
    levels = {"a": 0.0, "b": 0.0, "far": 2.5, "farther": 2.5}
    found = ranking(blocks_of(draw, 10, levels, noise=0.2))
    groups = {entry.row: entry.groups for entry in found}
    assert {entry.row for entry in found[:2]} == {"a", "b"}
    assert groups["a"] == groups["b"] == "a"
    assert groups["far"] == groups["farther"] == "b"
    assert found[0].distance.low < found[0].distance.value < found[0].distance.high


def test_ranking_seldom_tells_equals_apart():
    draw, wrong, repetitions = np.random.default_rng(7), 0, 400
    for _ in range(repetitions):
        found = ranking(blocks_of(draw, 6, dict.fromkeys("abcdef", 0.0)))
        wrong += any(entry.groups != "a" for entry in found)
    assert wrong / repetitions <= 0.08


def test_without_correction_equals_would_be_told_apart():
    """The test above can fail: the same at an error that undoes Holm's correction for fifteen pairs."""
    draw, wrong, repetitions = np.random.default_rng(7), 0, 100
    for _ in range(repetitions):
        found = ranking(blocks_of(draw, 6, dict.fromkeys("abcdef", 0.0)), error=15 * 0.05)
        wrong += any(entry.groups != "a" for entry in found)
    assert wrong / repetitions > 0.2


def test_pairing_takes_out_what_cells_share():
    """Cells differ a hundredfold; rows by a factor of two in each."""
    blocks = [
        {"near": level * wobble, "far": 2.0 * level} for level, wobble in ((1, 1.1), (10, 0.9), (100, 1.0), (3, 1))
    ]
    assert [entry.groups for entry in ranking(blocks)] == ["a", "b"]


def test_a_row_between_two_groups_has_both_letters():
    blocks = blocks_of(np.random.default_rng(8), 5, {"near": 0.0, "far": 1.4}, noise=0.1)
    for block, noise in zip(blocks, (-0.9, 0.9, -0.6, 0.7, 0.0), strict=True):
        block["between"] = math.sqrt(block["near"] * block["far"]) * math.exp(noise)
    assert {entry.row: entry.groups for entry in ranking(blocks)} == {"near": "a", "between": "ab", "far": "b"}


def test_one_cell_ranks_and_tells_nothing_apart():
    found = ranking([{"near": 1.0, "far": 50.0}])
    assert [(entry.row, entry.groups) for entry in found] == [("near", "a"), ("far", "a")]


def test_comparing_two_rows_is_paired():
    found = compared([(1.0, 2.0), (10.0, 22.0), (100.0, 190.0), (5.0, 10.0)])
    assert found.ratio == pytest.approx((0.5 * (10 / 22) * (100 / 190) * 0.5) ** 0.25)
    assert found.p < 0.01
    assert compared([(1.0, 2.0), (10.0, 2.0), (3.0, 3.0)]).p > 0.2
    assert compared([]) is None
    assert compared([(1.0, 50.0)]).p == 1.0


def test_holm_is_stepwise():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_geometric_interval_covers():
    draw, covered = np.random.default_rng(9), 0
    for _ in range(1000):
        found = geometric_interval(np.exp(draw.normal(1.0, 0.4, 6)))
        covered += found.low <= math.e <= found.high
    assert 0.87 <= covered / 1000 <= 0.93
