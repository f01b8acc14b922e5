"""Scores from elsewhere: read with clear errors, judged with a level that holds."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from secure_fu.audit import Outcome, read_scores, scores_audit
from secure_fu.errors import ArgumentError, DataError


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    generator = np.random.default_rng(0)
    members, others = generator.normal(size=50).astype(np.float32), generator.integers(0, 9, size=70)
    np.savez_compressed(path, member_scores=members, non_member_scores=others, something=np.zeros((2, 2)))
    scores = read_scores(path)
    np.testing.assert_array_equal(scores.member_scores, members.astype(np.float64))
    np.testing.assert_array_equal(scores.non_member_scores, others)
    assert scores.non_member_scores.dtype == np.float64


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"member_scores": np.zeros(3)}, "no array 'non_member_scores'"),
        ({"member_scores": np.array([0.0, np.nan, np.inf])}, "2 of 3 member_scores are NaN or infinite"),
        ({"member_scores": np.zeros((3, 2))}, r"member_scores are of shape \(3, 2\)"),
        ({"member_scores": np.zeros(0)}, r"of shape \(0,\)"),
        ({"member_scores": np.array(1.0)}, r"of shape \(\)"),
        ({"member_scores": np.array(["a", "b"])}, "expected real numbers"),
        ({"member_scores": np.array([1j])}, "expected real numbers"),
        ({"member_scores": np.array([{}], dtype=object)}, "expected real numbers"),
    ],
)
def test_what_cannot_be_scores_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    path = tmp_path / "scores.npz"
    if "non_member_scores" not in words:
        arrays = {**arrays, "non_member_scores": np.zeros(3)}
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=words) as caught:
        read_scores(path)
    assert str(path) in str(caught.value)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    with pytest.raises(DataError, match="is no file"):
        read_scores(path)
    path.write_bytes(b"member_scores")
    with pytest.raises(DataError, match="cannot be read"):
        read_scores(path)
    good = io.BytesIO()
    np.savez(good, member_scores=np.zeros(5), non_member_scores=np.zeros(5))
    path.write_bytes(good.getvalue()[: len(good.getvalue()) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        read_scores(path)
    # a header that claims more than there is, and one that is none
    for content, words in ((_npy("(1000000000000,)"), "claim 1000000000000 values"), (b"\x93NUMPY", "cannot be read")):
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("member_scores", "non_member_scores"):
                archive.writestr(f"{name}.npy", content)
        with pytest.raises(DataError, match=words):
            read_scores(path)


def _npy(shape: str) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(16)


def test_without_a_leak_it_is_said_as_rarely_as_stated() -> None:
    """400 draws at 5 %: at most 20 expected, above 42 with a chance below 1e-5. It does happen, so the test is one."""
    generator = np.random.default_rng(2)
    outcomes = [
        scores_audit(generator.exponential(size=40), generator.exponential(size=60)).verdict.outcome for _ in range(400)
    ]
    assert 4 <= outcomes.count(Outcome.LEAK) <= 42
    assert outcomes.count(Outcome.PASSED) == 0
    assert outcomes.count(Outcome.INVALID) == 0


def test_the_four_outcomes() -> None:
    generator = np.random.default_rng(1)

    def outcome(members: int, others: int, shift: float) -> tuple[Outcome, str]:
        found = scores_audit(generator.normal(shift, size=members), generator.normal(size=others)).verdict
        return found.outcome, found.sentence

    found, sentence = outcome(400, 400, 0.5)
    assert found is Outcome.LEAK
    assert "The scores tell members from records that were never seen: AUC 0.6" in sentence
    found, sentence = outcome(400, 400, -0.5)
    assert found is Outcome.LEAK
    assert "wrong sign" in sentence
    assert "AUC 0.3" in sentence
    found, sentence = outcome(100, 100, 0.0)
    assert found is Outcome.CANNOT_TELL
    assert "that takes, for example," in sentence
    found, sentence = outcome(5000, 5000, 0.0)
    assert found is Outcome.PASSED
    assert "within 0.05 of chance" in sentence
    found, sentence = outcome(3, 500, 9.0)
    assert found is Outcome.LEAK  # three against many can be beyond chance
    found, sentence = outcome(3, 3, 9.0)
    assert found is Outcome.INVALID
    assert "at least 5 of each" in sentence


def test_a_pass_is_never_given_without_the_power_for_it() -> None:
    generator = np.random.default_rng(4)
    for count in (100, 300, 600, 1200, 2400):
        verdict = scores_audit(*generator.normal(size=(2, count)), margin=0.05).verdict
        power = verdict.figures["power_at_margin"]
        assert power is not None
        assert verdict.outcome is not Outcome.PASSED or power >= 0.8
    # and what is at the margin does not pass
    shift = np.sqrt(2.0) * 0.126  # area .55
    outcomes = [
        scores_audit(generator.normal(shift, size=1500), generator.normal(size=1500)).verdict.outcome
        for _ in range(100)
    ]
    assert outcomes.count(Outcome.PASSED) <= 14  # at most 5 % each; more with a chance below 4e-4


def test_a_few_exposed_records_among_many() -> None:
    generator = np.random.default_rng(5)
    members, others = generator.normal(size=(2, 2000))
    members[:25] += 8.0
    audit = scores_audit(members, others)
    assert audit.verdict.outcome is Outcome.LEAK
    assert "Of the 40 records with the highest scores" in audit.verdict.sentence
    assert {entry.record for entry in audit.most_exposed} <= set(range(25))
    assert audit.most_exposed[0].score == members.max()
    assert audit.most_exposed[0].false_positive_rate == 0.0


def test_rates_that_so_few_cannot_show_say_how_many_can() -> None:
    audit = scores_audit(np.arange(50.0), np.arange(50.0))
    assert audit.tpr_at_1pct_fpr is None
    assert audit.tpr_at_01pct_fpr is None
    with pytest.raises(ArgumentError, match="this one takes 1000"):
        audit.result.true_positive_rate(0.01)
    assert audit.result.true_positive_rate(0.2).value == pytest.approx(0.2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: scores_audit([], [1.0]),
        lambda: scores_audit([1.0], [np.nan]),
        lambda: scores_audit([[1.0]], [1.0]),
        lambda: scores_audit([1.0], [1.0], level=1.0),
        lambda: scores_audit([1.0], [1.0], margin=0.5),
    ],
)
def test_bad_scores(call: object) -> None:
    with pytest.raises(ArgumentError):
        call()  # type: ignore[operator]
