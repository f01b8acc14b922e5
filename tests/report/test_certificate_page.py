"""The certificate's page: all of it there, nothing from elsewhere, nothing that a certificate could smuggle in."""

from __future__ import annotations

import copy
import html.parser
import json
import math
import re
import sys
from pathlib import Path

import pytest

from secure_fu.errors import RunDirectoryError
from secure_fu.report.certificate import write_certificate_page
from secure_fu.report.certificate.words import cards, headline, requests, secrecy, sureness

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deletion"))
import certificate_cast as cast

from secure_fu.deletion.certificates import check_certificate
from secure_fu.deletion.certificates.schema import check_shape

AUDIT = {
    "sha256": "ab" * 32,
    "created": "2026-09-01T00:00:00+00:00",
    "complete": True,
    "quick": True,
    "source": "wards",
    "outcome": "leak",
    "sentences": ["A leak was found in the deletion."],
    "method": {"outcome": "leak", "sentence": "Recognised better than after retraining."},
    "assumptions": ["silos are alike"],
    "not_seen": ["other attacks"],
    "insecure": [],
}
FINDINGS = {
    "proved": ["The server signed it."],
    "attention": ["No audit was run."],
    "not_checked": ["The ledger."],
    "not_proved": ["That a sum is the true sum."],
}


@pytest.fixture(scope="module")
def honest():
    named = cast.request("bob", disclose=True)
    return json.loads(cast.certificate(cast.batch(cast.request(), named)).content)


def page_of(document, tmp_path, findings=FINDINGS):
    check_shape(document)
    path = write_certificate_page(
        document, tmp_path / "page.html", name="certificate-000001.json", sha256="cd" * 32, findings=findings
    )
    return path.read_text("utf-8")


class Page(html.parser.HTMLParser):
    """Tags in balance, and every attribute that could reach outside."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br", "img", "link"):
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "action", "srcset", "data")]
        assert not any(name.startswith("on") for name, _ in attributes)
        assert tag not in ("script", "iframe", "object", "form", "link", "img")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def changed(document, change):
    found = copy.deepcopy(document)
    change(found["certificate"])
    return found


def test_it_is_whole_and_needs_nothing_else(honest, tmp_path):
    page = page_of(honest, tmp_path)
    shown = Page(page)
    assert shown.links == []
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert "url(" not in page
    for words in (
        "2 requests were put to the clients: at most 6 records forgotten",
        "does not want to be named",
        "bob",
        "No audit was run",
        "ada, bob",
        "Not confirmed yet",
        "eve",
        "The server signed it.",
        "That a sum is the true sum.",
        honest["certificate"]["model"]["after"],
        honest["certificate"]["transcript"]["root"],
        honest["signature"]["value"],
        "cd" * 32,
        "secure-fu verify certificate-000001.json --roster roster.bin",
        "What is signed is that file, not this page",
    ):
        assert words in shown.text, words


def test_it_says_so_when_nothing_was_checked(honest, tmp_path):
    text = Page(page_of(honest, tmp_path, None)).text
    assert "made without checking anything" in text
    assert "Checked when this page was made" not in text


def test_an_audit_is_shown_with_its_limits(honest, tmp_path):
    text = Page(page_of(changed(honest, lambda body: body.update(audit=AUDIT)), tmp_path)).text
    for words in (
        "A leak was found in the deletion.",
        "not a verdict to sign",
        "other attacks",
        "not of this very model",
    ):
        assert words in text
    assert "No audit was run" not in text.replace("No audit was run.", "", 1)  # FINDINGS says it once


def test_markup_in_a_certificate_stays_text(honest, tmp_path):
    hostile = "<script>alert(1)</script>{{ 7*7 }}<img src=x onerror=y>&amp;"

    def change(body):
        body["forgetting"]["reason"] = hostile
        body["method"]["name"] = "<b>scrub</b>"
        body["software"] = {"a<i>": "1<u>"}
        body["ledger"]["branch"] = "unlearn/<s>"

    shown = Page(page_of(changed(honest, change), tmp_path))
    assert "<script>alert(1)</script>{{ 7*7 }}" in shown.text
    assert "<b>scrub</b>" in shown.text


def test_no_bound_is_said_and_never_shown_as_a_number(honest, tmp_path):
    def change(body):
        for name in ("phase", "pair", "who_asked"):
            body["confidentiality"][name]["value"] = None
        body["forgetting"] |= {
            "kind": "certified",
            "epsilon": None,
            "delta": 1e-5,
            "group_size": 6,
            "view": "every release",
            "counted": "everything",
        }

    document = changed(honest, change)
    text = Page(page_of(document, tmp_path)).text
    assert "it guarantees nothing" in text
    assert text.count("no bound") >= 3
    assert "100.0 %" in text
    tones = {card.title: card.tone for card in cards(document["certificate"])}
    assert tones["Is it forgotten?"] == tones["Is the deletion itself secret?"] == "no"


def test_an_insecure_scheme_is_a_banner(honest, tmp_path):
    assert "INSECURE" not in page_of(honest, tmp_path)
    plain = changed(honest, lambda body: body.update(parameter_sets=["plain-int64"]))
    assert "INSECURE" in page_of(plain, tmp_path)


def test_words_for_numbers(honest):
    body = honest["certificate"]
    assert sureness(0.0) == 0.5
    assert sureness(math.log(3.0)) == pytest.approx(0.75)
    assert sureness(None) == 1.0
    phase, pair, who = secrecy(body)
    assert phase.sure < pair.sure < 1.0
    assert who.group_epsilon > who.epsilon
    assert headline(body) == "2 requests were put to the clients: at most 6 records forgotten"
    cover = changed(honest, lambda inner: inner["asked"].update(requests=[], hidden_units=5, units=5))
    assert headline(cover["certificate"]).startswith("A round for cover: up to 5 records")
    assert {row[0] for row in requests(body)} == {"bob", "does not want to be named"}
    assert {row[5] for row in requests(body)} == {"yes"}


def test_nothing_of_who_hid_is_on_the_page(tmp_path):
    """Two hidden requesters: the same page, but for hashes."""
    pages = []
    for name in ("ada", "eve"):
        document = json.loads(cast.certificate(cast.batch(cast.request(name, (424242,)))).content)
        findings = check_certificate(
            cast.Certificate.of(cast.certificate_text(document)), roster=cast.roster()
        ).to_json()
        text = Page(page_of(document, tmp_path, findings)).text
        assert "424242" not in text
        pages.append(re.sub(r"\b[0-9a-f]{32,128}\b", "", text))
    assert pages[0] == pages[1]


def test_a_place_that_cannot_be_written_is_named(honest, tmp_path):
    with pytest.raises(RunDirectoryError, match="absent"):
        write_certificate_page(honest, tmp_path / "absent" / "page.html", name="c", sha256="")
