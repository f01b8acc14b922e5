from __future__ import annotations

import pytest
from report_examples import changed, example_result

from secure_fu.report import text
from secure_fu.report.result import Interval
from secure_fu.report.schema import read_result


def plain(words: str) -> str:
    return words.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1 kB"),
        (1_500, "1.5 kB"),
        (62_310, "62.3 kB"),
        (99_499, "99.5 kB"),
        (124_900, "125 kB"),
        (999_499, "999 kB"),
        (999_501, "1 MB"),
        (6_231_000, "6.23 MB"),
        (12e9, "12 GB"),
        (3.2e15, "3200 TB"),
    ],
)
def test_sizes(size: float, words: str) -> None:
    assert plain(text.byte_count(size)) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (8.14, "8.1 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.6, "1 h 0 min"),
        (3780, "1 h 3 min"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert plain(text.duration(seconds)) == words


def test_fractions() -> None:
    assert plain(text.percent(0.923)) == "92.3 %"
    assert plain(text.percent(0.0004)) == "0.0 %"
    assert text.percent(None) == "–"
    assert text.percent(1.0, unit="") == "100.0"
    assert plain(text.points(-0.031)) == "3.1 points"
    assert plain(text.signed_points(-0.031)) == "-3.1 points"
    assert plain(text.signed_points(0.0)) == "+0.0 points"
    assert text.signed_points(None) == "–"


def test_other_figures() -> None:
    assert text.count(1437) == "1,437"
    assert text.count(None) == "–"
    assert text.decimal(None) == "–"
    assert text.decimal(7.846) == "7.85"
    assert text.interval(Interval(value=0.52, low=0.47, high=0.571)) == "0.52 (0.47 to 0.57)"
    assert text.interval(None) == "–"


def test_lists() -> None:
    assert text.join_words(["a"]) == "a"
    assert text.join_words(["a", "b"]) == "a and b"
    assert text.join_words(["a", "b", "c"], "or") == "a, b or c"
    assert text.clients_in_words(("a", "b")) == "a and b"
    assert text.clients_in_words(tuple("abcdef")) == "6 clients"


def test_the_headline_epsilon_is_of_one_unit_over_the_longest_phase() -> None:
    run = read_result(example_result())
    original, scrub = run.row("original"), run.row("scrub")
    assert original is not None
    assert scrub is not None
    claim = text.headline_epsilon(scrub, "forgotten")
    assert claim is not None
    assert (claim.phase, claim.group_size) == ("training+unlearning", 1)
    claim = text.headline_epsilon(original, "forgotten")
    assert claim is not None
    assert (claim.phase, claim.value) == ("training", 3.41)


def test_the_headline_epsilon_prefers_the_view_of_every_release() -> None:
    result = example_result()
    row = [row["name"] for row in result["rows"]].index("scrub")
    result = changed(result, ["rows", row, "epsilon", 2, "view"], "last model only")
    scrub = read_result(result).row("scrub")
    assert scrub is not None
    claim = text.headline_epsilon(scrub, "forgotten")
    assert claim is not None
    assert (claim.phase, claim.view) == ("training", "every release")
    assert text.headline_epsilon(scrub, "nobody") is None
