from __future__ import annotations

import io
import subprocess
import sys
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from report_examples import (
    changed,
    example_result,
    incomplete,
    with_many_records,
    without_backdoor,
    without_membership,
)

from secure_fu.report.attack_plots import roc_picture, scores_picture
from secure_fu.report.canvas import Picture, drawing
from secure_fu.report.curves import curves_picture
from secure_fu.report.plots import epsilon_picture, outcome_picture, traffic_picture
from secure_fu.report.schema import read_result
from secure_fu.report.style import method_styles

ALL = [outcome_picture, curves_picture, epsilon_picture, traffic_picture, roc_picture, scores_picture]


@cache
def drawn_example(picture_of: Any) -> Picture | None:
    return draw(picture_of, example_result())


def draw(picture_of: Any, result: dict[str, Any]) -> Picture | None:
    with drawing():
        drawn = picture_of(read_result(result))
    assert drawn is None or isinstance(drawn, Picture)
    return drawn


def pixels(picture: Picture | None) -> np.ndarray[Any, Any]:
    assert picture is not None
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))


def assert_nothing_is_cut_off(picture: Picture | None) -> None:
    image = pixels(picture)
    assert image.shape[1] == 1184
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == 255).all(), "something reaches the edge of the picture"


def hostile(result: dict[str, Any]) -> dict[str, Any]:
    """Long and strange titles, methods without a colour of their own, clients by the dozen."""
    for index, row in enumerate(result["rows"][2:]):
        name = f"novelty-{index}"
        for key in ("curves", "membership"):
            result[key][name] = result[key].pop(row["name"])
        for item in result["traffic"]["per_round"]:
            item["branch"] = name if item["branch"] == row["name"] else item["branch"]
        row.update(name=name, title=f"Method {index} of $x_i$ & <others> with a title that will not end, in any case")
    result["scenario"]["forgotten_clients"] = [f"device-{index:04}" for index in range(40)]
    result["privacy"]["budget_epsilon"] = None
    return result


@pytest.mark.parametrize("picture_of", ALL)
def test_nothing_is_cut_off(picture_of: Any) -> None:
    assert_nothing_is_cut_off(drawn_example(picture_of))


@pytest.mark.parametrize("picture_of", ALL)
@pytest.mark.parametrize("example", [incomplete, lambda: hostile(without_backdoor())])
def test_nothing_is_cut_off_in_stranger_runs(picture_of: Any, example: Any) -> None:
    assert_nothing_is_cut_off(draw(picture_of, example()))


def test_logarithmic_curves_are_not_cut_off_either() -> None:
    linear, logarithmic = drawn_example(roc_picture), draw(roc_picture, with_many_records())
    assert_nothing_is_cut_off(logarithmic)
    assert not np.array_equal(pixels(linear), pixels(logarithmic))


def test_what_was_not_measured_is_not_drawn() -> None:
    result = without_membership()
    assert draw(roc_picture, result) is None
    assert draw(scores_picture, result) is None
    assert draw(traffic_picture, changed(result, ["traffic", "per_round"], [])) is None
    assert draw(curves_picture, changed(result, ["curves"], {})) is None
    for row in result["rows"]:
        row["epsilon"] = []
    assert draw(epsilon_picture, result) is None
    assert_nothing_is_cut_off(draw(outcome_picture, result))


def test_a_missing_band_or_histogram_is_left_out() -> None:
    result = example_result()
    for attack in result["membership"].values():
        attack.update(tpr_low=None, tpr_high=None, member_scores_histogram=None)
    assert_nothing_is_cut_off(draw(roc_picture, result))
    assert draw(scores_picture, result) is None


def test_an_epsilon_without_bound_and_one_of_zero_are_drawn_in_words() -> None:
    result = example_result()
    for claim in result["rows"][3]["epsilon"]:
        claim["value"] = None
    for claim in result["rows"][4]["epsilon"]:
        claim["value"] = 0.0
    assert_nothing_is_cut_off(draw(epsilon_picture, result))


def test_alternative_texts_carry_the_figures() -> None:
    outcome = drawn_example(outcome_picture)
    assert outcome is not None
    assert "Scrub 92.5\u00a0% and 4.2\u00a0%" in outcome.alt
    epsilon = drawn_example(epsilon_picture)
    assert epsilon is not None
    assert "Scrub, forgotten: training 3.41, unlearning 3.60, training+unlearning 4.96" in epsilon.alt


def test_each_method_has_one_colour_whatever_else_is_shown() -> None:
    everything = method_styles(["original", "retrained", "rollback", "novelty", "scrub", "other"])
    assert method_styles(["scrub"])["scrub"] == everything["scrub"]
    assert len({style.colour for style in everything.values()}) == len(everything)
    assert everything["novelty"] != everything["other"]
    colour = tuple(int(everything["scrub"].colour[index : index + 2], 16) for index in (1, 3, 5))
    for picture_of in ALL:
        assert (pixels(drawn_example(picture_of)) == colour).all(axis=-1).any()


def test_settings_are_put_back() -> None:
    with mpl.rc_context({"font.size": 31.0, "xtick.major.size": 20.0, "hatch.linewidth": 5.0}):
        before = dict(mpl.rcParams)
        ours = draw(outcome_picture, example_result())
        assert dict(mpl.rcParams) == before
    assert np.array_equal(pixels(ours), pixels(drawn_example(outcome_picture)))


def test_pyplot_is_never_loaded() -> None:
    code = "import sys, secure_fu.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
