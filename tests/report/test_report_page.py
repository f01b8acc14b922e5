from __future__ import annotations

import base64
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_examples import changed, example_result, incomplete, insecure, with_many_records

from secure_fu.errors import RunDirectoryError
from secure_fu.report import write_report

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The elements of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def example_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(example_result(), tmp_path_factory.mktemp("run")).parent


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of words alone: pictures take most of the time."""
    monkeypatch.setattr("secure_fu.report.page._PICTURES", ())


def report(result: dict[str, Any], directory: Path) -> tuple[str, Page]:
    path = write_report(result, directory)
    assert path == directory / "report.html"
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_stands_alone_and_is_accessible(example_directory: Path) -> None:
    text = (example_directory / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for _, attributes in page.elements:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert re.match(r"data:image/png;base64,|#", attributes.get(key) or "#")
    styles = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert styles is not None
    assert "url(" not in styles[1]
    assert "@import" not in styles[1]
    assert not page.all("script")
    assert {"lang": "en"} in page.all("html")
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert all(len(image["alt"] or "") > 40 for image in page.all("img"))
    assert all(header.get("scope") in ("row", "col") for header in page.all("th"))
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {f"#{name}" for name in ids} >= {link["href"] for link in page.all("a")}


def test_pictures_are_both_embedded_and_beside(example_directory: Path) -> None:
    page = Page((example_directory / "report.html").read_text(encoding="utf-8"))
    files = sorted((example_directory / "plots").iterdir())
    assert [file.stem for file in files] == [
        "curves",
        "epsilon",
        "membership_roc",
        "membership_scores",
        "outcome",
        "traffic",
    ]
    embedded = {base64.b64decode((image["src"] or "").split(",")[1]) for image in page.all("img")}
    assert embedded == {file.read_bytes() for file in files}


@pytest.mark.usefixtures("no_pictures")
def test_everything_a_reader_must_know_is_there(tmp_path: Path) -> None:
    result = example_result()
    words = re.sub(r"\s+", " ", report(result, tmp_path)[1].words)
    assert "Yes, with rollback and scrub" in words
    for row in result["rows"]:
        assert row["title"] in words
        assert row["guarantee_text"] in words
    for sentence in (
        result["scheme"]["trust"],
        result["scenario"]["request"],
        "143 forgotten records of silo-09",
        "no useful proof of secrecy",
        "Copies of an older model",
        "no bound",
        "bfv-4096-54-36",
        "training.learning_rate",
    ):
        assert sentence in words
    assert "INSECURE" not in words


@pytest.mark.usefixtures("no_pictures")
def test_an_insecure_run_says_so_first(tmp_path: Path) -> None:
    text, page = report(insecure(), tmp_path)
    assert page.words.index("INSECURE") < page.words.index("Did the model forget?")
    assert "INSECURE" in text[: text.index("</title>")]
    assert "scheme plain: uploads are not encrypted" in page.words
    assert "--insecure-deterministic: noise is predictable" in page.words


@pytest.mark.usefixtures("no_pictures")
def test_an_incomplete_run_says_so(tmp_path: Path) -> None:
    assert "This run did not finish." in report(incomplete(), tmp_path)[1].words
    assert "This run did not finish." not in report(example_result(), tmp_path)[1].words


def test_text_from_the_run_is_escaped(tmp_path: Path) -> None:
    attack = "<script>alert(1)</script> & \"' $x$"
    result = example_result()
    for path in (
        ["rows", 3, "title"],
        ["rows", 3, "guarantee_text"],
        ["scenario", "name"],
        ["scenario", "description"],
        ["scenario", "backdoor", "description"],
        ["scheme", "trust"],
        ["config", "preset"],
        ["software", "torch"],
    ):
        result = changed(result, path, attack)  # type: ignore[arg-type]
    result["insecure"] = [attack]
    _, page = report(result, tmp_path)
    assert not page.all("script")
    assert page.words.count("<script>alert(1)</script>") >= 8


@pytest.mark.usefixtures("no_pictures")
def test_certificates_and_rates_are_shown(tmp_path: Path) -> None:
    result = with_many_records()
    result["rows"][2].update(
        guarantee="certified", certificate={"epsilon": 0.75, "delta": 1e-6, "group_size": 12, "view": "every release"}
    )
    words = report(result, tmp_path)[1].words
    assert "Certificate: epsilon 0.75 at delta 1e-06, for 12 records together, in the view of every release." in words
    assert "0.010 to 0.017" in words


def test_a_report_is_written_again_over_itself(tmp_path: Path) -> None:
    first = write_report(incomplete(), tmp_path).read_text(encoding="utf-8")
    again = changed(incomplete(), ["membership"], {})
    second = write_report(again, tmp_path).read_text(encoding="utf-8")
    assert "Can an attacker tell" in first
    assert "Can an attacker tell" not in second


def test_a_wrong_result_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"\$\.rows\[0\]\.rounds"):
        write_report(changed(example_result(), ["rows", 0, "rounds"], None), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="nowhere"):
        write_report(incomplete(), tmp_path / "nowhere")


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("")
    with pytest.raises(RunDirectoryError, match=re.escape(str(tmp_path))):
        write_report(incomplete(), tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunDirectoryError, match=re.escape(str(tmp_path))):
            write_report(incomplete(), tmp_path)
    finally:
        tmp_path.chmod(0o700)
