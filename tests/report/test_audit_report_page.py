from __future__ import annotations

import base64
import io
import itertools
import re
from pathlib import Path
from typing import Any

import audit_examples
import numpy as np
import pytest
from PIL import Image
from report_examples import changed
from rich.console import Console
from test_report_page import Page

from secure_fu.errors import RunDirectoryError
from secure_fu.report.attack_plots import LOG_RECORDS
from secure_fu.report.audit import audit_summary, write_audit_page
from secure_fu.report.audit.deletion_pictures import deletion_gap_picture, deletion_pair_picture, stated_tests
from secure_fu.report.audit.marks import judged, judged_pairs
from secure_fu.report.audit.membership_pictures import membership_roc_picture, membership_scores_picture
from secure_fu.report.audit.protocol_pictures import bounds_picture, noise_picture, views_picture
from secure_fu.report.audit.result import Audit, Outcome
from secure_fu.report.audit.schema import read_audit
from secure_fu.report.audit.words import cards
from secure_fu.report.canvas import Picture, drawing, picture

PICTURES = [
    membership_roc_picture,
    membership_scores_picture,
    deletion_gap_picture,
    deletion_pair_picture,
    bounds_picture,
    noise_picture,
    views_picture,
]


def page_of(result: dict[str, Any], folder: Path) -> Page:
    return Page(write_audit_page(result, folder).read_text(encoding="utf-8"))


def words_of(result: dict[str, Any], folder: Path) -> str:
    return re.sub(r"\s+", " ", page_of(result, folder).words)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secure_fu.report.audit.page._PICTURES", ())


def draw(picture_of: Any, result: dict[str, Any]) -> Picture | None:
    with drawing():
        drawn = picture_of(read_audit(result))
    assert drawn is None or isinstance(drawn, Picture)
    return drawn


def test_the_page_stands_alone_and_is_accessible(tmp_path: Path) -> None:
    path = write_audit_page(audit_examples.example_audit(), tmp_path)
    assert path == tmp_path / "audit.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    for _, attributes in page.elements:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert re.match(r"data:image/png;base64,|#", attributes.get(key) or "#")
    assert "url(" not in text
    assert "@import" not in text
    assert not page.all("script")
    assert {"lang": "en"} in page.all("html")
    assert "default-src 'none'" in text
    assert all(len(image["alt"] or "") > 40 for image in page.all("img"))
    assert all(header.get("scope") in ("row", "col") for header in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    files = sorted((tmp_path / "plots").iterdir())
    assert [file.stem for file in files] == [
        "deletion_gaps",
        "deletion_pair",
        "membership_roc",
        "membership_scores",
        "protocol_bounds",
        "protocol_noise",
        "views",
    ]
    embedded = {base64.b64decode((image["src"] or "").split(",")[1]) for image in page.all("img")}
    assert embedded == {file.read_bytes() for file in files}


@pytest.mark.usefixtures("no_pictures")
def test_everything_a_reader_must_know_is_there(tmp_path: Path) -> None:
    result = audit_examples.example_audit()
    words = words_of(result, tmp_path)
    sentences = [*result["verdict"]["sentences"], *result["assumptions"], *result["not_seen"]]
    sentences += [row["verdict"]["sentence"] for row in result["deletion"]["rows"]]
    sentences += [row["pair_verdict"]["sentence"] for row in result["deletion"]["rows"]]
    sentences += [result[part]["verdict"]["sentence"] for part in ("membership", "protocol")]
    sentences += [finding["sentence"] for finding in result["protocol"]["findings"].values()]
    sentences += [bound["assumes"] for bound in result["protocol"]["bounds"]]
    sentences += [view[key] for view in result["views"] for key in ("party", "sees", "finds")]
    for sentence in sentences:
        assert sentence in words
    assert "9.40" in words  # the largest epsilon that a bound could have shown
    assert "no limit" in words
    assert "INSECURE" not in words


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("example", "headline"),
    [
        (audit_examples.example_audit, "A leak was found"),
        (audit_examples.passed, "Nothing was found, and it would have been"),
        (audit_examples.cannot_tell, "The audit cannot tell"),
        (audit_examples.invalid, "The audit is not valid"),
    ],
)
def test_the_verdict_comes_first_and_says_what_it_means(example: Any, headline: str, tmp_path: Path) -> None:
    result = example()
    words = words_of(result, tmp_path)
    headings = [
        words.index(part)
        for part in ("Membership: whose", "Deletion: is it", "Protocol: is", "What was assumed")
        if part in words
    ]
    assert words.index(headline) < words.index(result["verdict"]["sentences"][0]) < min(headings)
    assert words.index("What this means: ") < min(headings)
    others = {"A leak was found", "it would have been", "cannot tell", "not valid"}
    shown = words[: words.index("What this means")]
    assert sum(other in shown for other in others) == 1


@pytest.mark.usefixtures("no_pictures")
def test_what_was_not_audited_is_left_out(tmp_path: Path) -> None:
    words = words_of(audit_examples.cannot_tell(), tmp_path)
    for absent in ("Deletion: is it", "Protocol: is", "What each party", "most exposed"):
        assert absent not in words
    assert "Membership: whose" in words


@pytest.mark.usefixtures("no_pictures")
def test_insecure_and_incomplete_audits_say_so_first(tmp_path: Path) -> None:
    result = audit_examples.memorising()
    result["complete"] = False
    page = page_of(result, tmp_path)
    verdict = page.words.index("A leak was found")
    assert page.words.index("INSECURE") < verdict
    assert page.words.index("This audit did not finish.") < verdict
    assert "training adds no noise" in page.words


@pytest.mark.usefixtures("no_pictures")
def test_text_from_the_audit_is_escaped(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script> & \"' $x$"
    result = audit_examples.example_audit()
    for path in (
        ["source", "name"],
        ["source", "config", "preset"],
        ["software", "torch"],
        ["deletion", "rows", 1, "title"],
        ["deletion", "rows", 1, "verdict", "sentence"],
        ["protocol", "bounds", 0, "assumes"],
        ["views", 0, "sees"],
        ["assumptions", 0],
        ["membership", "warnings"],
    ):
        result = changed(result, path, [attack] if path[-1] == "warnings" else attack)  # type: ignore[arg-type]
    page = page_of(result, tmp_path)
    assert not page.all("script")
    assert page.words.count("<script>alert(1)</script>") >= 9


# Who reads it in a hurry


@pytest.mark.usefixtures("no_pictures")
def test_a_quick_audit_says_so_beside_the_verdict_and_no_other_does(tmp_path: Path) -> None:
    words = words_of(audit_examples.quick(), tmp_path)
    verdict, mark = words.index("The audit cannot tell"), words.index("Made with --quick")
    assert 0 < mark - verdict < 40
    assert summary(audit_examples.quick()).splitlines()[1] == "Made with --quick: a look, not a verdict to sign."
    assert "--quick" not in words_of(audit_examples.example_audit(), tmp_path)
    assert "--quick" not in summary(audit_examples.example_audit())


def cards_of(result: dict[str, Any]) -> dict[str, str]:
    return {card.title: card.reason for card in cards(read_audit(result))}


def test_methods_with_one_answer_share_a_card_and_baselines_have_none() -> None:
    result = audit_examples.quick()
    together = "Rollback to before silo-09 joined, Scrub and Correction of the client's history"
    assert list(cards_of(result)) == ["Membership", together, "Protocol"]
    scrub = result["deletion"]["rows"][1]["verdict"]
    scrub["outcome"] = "leak"  # the same words for another answer are another card
    assert [title for title in cards_of(result) if "Scrub" in title] == ["Scrub"]
    scrub.update(outcome="cannot tell", sentence="Another reason.")
    assert [title for title in cards_of(result) if "Scrub" in title] == ["Scrub"]


def test_a_card_does_not_repeat_what_the_verdict_says() -> None:
    result = audit_examples.quick()
    found = cards_of(result)
    assert found["Protocol"] == "As above."
    assert found["Membership"] == result["membership"]["verdict"]["sentence"]


@pytest.mark.usefixtures("no_pictures")
def test_a_long_reason_is_said_once_in_the_cards_and_once_in_the_table(tmp_path: Path) -> None:
    result = audit_examples.quick()
    sentence = result["deletion"]["rows"][0]["verdict"]["sentence"]
    words = words_of(result, tmp_path)
    assert words.count(sentence) == 2
    assert words.count('As for "Rollback to before silo-09 joined" above.') >= 3
    assert re.sub(r"\s+", " ", summary(result, 400)).count(sentence) == 1


@pytest.mark.usefixtures("no_pictures")
def test_baselines_are_labelled(tmp_path: Path) -> None:
    words = words_of(audit_examples.quick(), tmp_path)
    assert words.count("baseline, does not count") == 4  # two of them, in two tables
    assert re.search(r"Fine-tuning on the rest ?baseline, does not count", words)
    assert "does not count" not in words_of(audit_examples.example_audit(), tmp_path)
    text = summary(audit_examples.quick(), 132)
    assert "Fine-tuning" not in text[: text.index("Who holds both")]
    assert "(baseline)" in text[text.index("Who holds both") :]


@pytest.mark.usefixtures("no_pictures")
def test_controls_stand_apart_from_the_methods_and_have_no_pill(tmp_path: Path) -> None:
    result = audit_examples.example_audit()
    result["deletion"]["rows"].insert(0, result["deletion"]["rows"].pop())  # a control that comes first
    text = write_audit_page(result, tmp_path).read_text(encoding="utf-8")
    part = text[text.index('id="pair"') : text.index("Every attack on the pair")]
    table, apart = part.split("</table>")
    assert "Doing nothing" not in table
    assert table.count('class="pill') == 5
    assert "pill" not in apart
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", apart))
    area = "area 0.50 (0.47 to 0.53)"
    assert f"Doing nothing (control). Forgotten or never there: {area}. Forgotten or still there: {area}." in plain
    below = summary(result, 200)
    assert f"Doing nothing (control). Forgotten or never there: {area}" in below
    assert below.index("Doing nothing") > below.index("Fine-tuning on the rest", below.index("Who holds both"))


@pytest.mark.usefixtures("no_pictures")
def test_figures_behind_an_answer_are_folded_and_have_no_empty_ones(tmp_path: Path) -> None:
    text = write_audit_page(audit_examples.example_audit(), tmp_path).read_text(encoding="utf-8")
    folds = re.findall(r"<details>\s*<summary>The figures behind this answer</summary>(.*?)</details>", text, re.S)
    figures = [re.sub(r"<[^>]+>", "", fold).strip() for fold in folds]
    assert figures == ["auc 0.531; auc needed 0.56", "claim 4; largest bound 3.54"]
    assert "two sample p" not in text
    result = changed(audit_examples.example_audit(), ["membership", "verdict", "figures"], {"p": None})
    assert (tmp_path / "audit.html").exists()
    assert write_audit_page(result, tmp_path).read_text(encoding="utf-8").count("The figures behind") == 1


def test_long_names_of_parties_do_not_run_into_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    result = audit_examples.example_audit()
    for view in result["views"]:
        view["party"] = f"in this run's transcript: {view['party']}, and whoever else may read it later"
    figures: list[Any] = []

    def kept(figure: Any, **words: str) -> Picture:
        drawn = picture(figure, **words)
        figures.append(figure)
        return drawn

    monkeypatch.setattr("secure_fu.report.audit.protocol_pictures.picture", kept)
    drawn = draw(views_picture, result)
    assert drawn is not None
    image = np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB"))
    assert (image[:, 0] == 255).all()
    boxes = [text.get_window_extent() for text in figures[0].axes[0].texts if "transcript" in text.get_text()]
    assert len(boxes) == 4
    boxes.sort(key=lambda box: -box.y0)
    assert all(above.y0 > below.y1 for above, below in itertools.pairwise(boxes))


def test_a_wrong_result_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"\$\.deletion\.runs"):
        write_audit_page(changed(audit_examples.example_audit(), ["deletion", "runs"], None), tmp_path)
    assert list(tmp_path.iterdir()) == []


# Pictures


@pytest.mark.parametrize("picture_of", PICTURES)
def test_a_picture_is_whole_and_says_what_it_shows(picture_of: Any) -> None:
    drawn = draw(picture_of, audit_examples.example_audit())
    assert drawn is not None
    image = np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB"))
    assert image.shape[1] == 1184
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == 255).all(), "something reaches the edge of the picture"
    assert len(drawn.alt) > 40
    assert "nan" not in drawn.alt


@pytest.mark.parametrize("picture_of", PICTURES)
def test_what_was_not_measured_is_not_drawn(picture_of: Any) -> None:
    result = audit_examples.example_audit()
    result.update(membership=None, deletion=None, protocol=None, views=[])
    assert draw(picture_of, result) is None


def axes_of(result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The panel with the ROC curves."""
    figures: list[Any] = []

    def kept(figure: Any, **words: str) -> Picture:
        figures.append(figure)
        return picture(figure, **words)

    monkeypatch.setattr("secure_fu.report.audit.membership_pictures.picture", kept)
    draw(membership_roc_picture, result)
    return figures[0].axes[0]


@pytest.mark.parametrize(("records", "scale"), [(LOG_RECORDS - 1, "linear"), (LOG_RECORDS, "log")])
def test_axes_are_logarithmic_only_where_the_counts_allow(
    records: int, scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = audit_examples.memorising()
    result["membership"].update(audit_examples.membership(area=0.7, records=2000), non_members=records)
    axes = axes_of(result, monkeypatch)
    assert (axes.get_xscale(), axes.get_yscale()) == (scale, scale)
    assert (axes.get_xlim()[0] > 0) == (scale == "log")


def test_few_members_keep_the_axes_linear_too(monkeypatch: pytest.MonkeyPatch) -> None:
    result = audit_examples.memorising()
    result["membership"]["members"] = 50
    assert axes_of(result, monkeypatch).get_xscale() == "linear"


# Answers that pictures and tables give


def audit_of(*values: float) -> Audit:
    """One method with these p-values of a difference, none of them equivalent."""
    result = audit_examples.example_audit()
    row = result["deletion"]["rows"][0]
    figures = [*row["after_only"].values(), row["forget_set"]["excess"]]
    for figure, value in zip(figures, values, strict=True):
        figure.update(p_different=value, equivalent=False)
    return read_audit(result)


@pytest.mark.parametrize(
    ("values", "different"),
    [
        ((0.01, 0.6, 0.6), 1),
        ((0.03, 0.6, 0.6), 0),  # below 0.05 by itself, and not after Holm
        ((0.01, 0.02, 0.6), 2),
        ((0.6, 0.6, 0.6), 0),
    ],
)
def test_differences_count_after_holm(values: tuple[float, ...], different: int) -> None:
    deletion = audit_of(*values).deletion
    assert deletion is not None
    answers = judged(stated_tests(deletion.rows[0]), level=deletion.level)
    assert len(answers) == 3
    assert sum(answer is Outcome.LEAK for answer in answers.values()) == different
    assert Outcome.PASSED not in answers.values()


def test_what_lies_within_the_margin_is_no_leak_however_sure_the_difference() -> None:
    result = audit_examples.example_audit()
    for row in result["deletion"]["rows"]:
        for attack in row["pair"]["attacks"]:
            attack.update(equivalent=True, p_different=1e-9)
    deletion = read_audit(result).deletion
    assert deletion is not None
    assert set(judged_pairs(deletion.rows[0].pair, level=0.95)) == {Outcome.PASSED}


# Terminal


def summary(result: dict[str, Any], width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(audit_summary(result))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


@pytest.mark.parametrize("width", [80, 132])
def test_the_summary_has_the_verdict_first_and_every_question(width: int) -> None:
    text = summary(audit_examples.example_audit(), width)
    lines = text.splitlines()
    assert lines[0] == "A leak was found."
    assert max(map(len, lines)) <= width
    assert "…" not in text
    flat = re.sub(r"\s+", " ", text)
    for outcome in ("leak", "invalid", "cannot tell", "passed"):
        assert outcome in flat
    assert "Doing nothing" not in flat[: flat.index("Who holds both")]  # a control is no finding


def test_an_insecure_audit_says_so_in_the_terminal() -> None:
    assert summary(audit_examples.memorising()).startswith("INSECURE: privacy.epsilon is none")


def test_a_short_audit_is_short() -> None:
    assert len(summary(audit_examples.invalid()).splitlines()) <= 3
