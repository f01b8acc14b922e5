"""Logs tell what happens and nothing of what is secret."""

from __future__ import annotations

import ast
import base64
import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from small_federations import REQUESTS, silos

import secure_fu
from secure_fu.deployment import logs as logs_module
from secure_fu.deployment.logs import FIELDS, JsonLines, event, log_to
from secure_fu.errors import ArgumentError, RecordError
from secure_fu.federation import Federation
from secure_fu.learning import mlp
from secure_fu.planning import make_plan
from secure_fu.privacy import Unit
from secure_fu.protocol import Client
from secure_fu.unlearning import Retrain

LOGGER = logging.getLogger("secure_fu")


@pytest.fixture
def lines():
    stream = io.StringIO()
    before = LOGGER.level, LOGGER.propagate
    handler = log_to(stream, level=logging.DEBUG, strict=True)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    LOGGER.removeHandler(handler)
    LOGGER.level, LOGGER.propagate = before


def test_a_line_has_time_level_event_and_fields(lines):
    LOGGER.info("round released", extra=event("round-released", {"round": 3, "branch": "original", "seconds": 0.5}))
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "event": "round-released", "round": 3, "branch": "original", "seconds": 0.5}


def test_the_calls_of_the_package_are_events_with_a_text(lines):
    LOGGER.warning("round %d goes on without client %s: %s", 4, "silo-1", RecordError("the disk is full"))
    (line,) = lines()
    assert line["event"] == "round-goes-on-without-client"
    assert line["text"] == "round 4 goes on without client silo-1: the disk is full"


@pytest.mark.parametrize(
    "fields",
    [
        {"key": "x"},
        {"marks": [1, 2]},
        {"units": 3},
        {"round": b"\x00"},
        {"reason": "x" * 301},
        {"seconds": float("nan")},
        {"round": np.int64(3)},
        {"clients": [1, 2]},
        {"reason": {"a": 1}},
    ],
)
def test_what_is_not_on_the_list_is_refused_in_tests_and_dropped_in_production(lines, fields):
    with pytest.raises(ArgumentError, match="field is"):
        LOGGER.info("x", extra=event("something", fields))
    assert lines() == []
    stream = io.StringIO()
    JsonLines(stream).handle(LOGGER.makeRecord("secure_fu", 20, "", 0, "x", (), None, extra=event("something", fields)))
    line = json.loads(stream.getvalue())
    assert line["dropped"] == 1
    assert not set(line) & FIELDS


def test_a_foreign_exception_is_named_and_not_quoted(lines):
    try:
        float("Mrs Miller")
    except ValueError as error:
        LOGGER.exception("a task of client %s failed: %s", "silo-1", error)
    (line,) = lines()
    assert "Miller" not in json.dumps(line)
    assert line["error"] == "ValueError"
    assert line["text"] == "a task of client silo-1 failed: ValueError"
    assert line["where"][0].startswith("test_logs.py:")


def test_own_errors_keep_their_message(lines):
    try:
        raise RecordError("keys.bin is damaged")
    except RecordError:
        LOGGER.exception("stopped")
    assert lines()[0]["reason"] == "keys.bin is damaged"


@pytest.mark.parametrize(
    "secret",
    [
        bytes(range(32)),
        bytes(range(32)).hex(),
        base64.b64encode(bytes(range(32))).decode(),
        [0.25, 1.5, -3.0, 4.0],
        "[1, 0, 3, 7]",
        (0, 3, 7),
        [17, 4],
        np.arange(5.0),
        "0.123456789",
    ],
)
def test_what_looks_like_a_secret_does_not_pass_through_a_text(lines, secret):
    LOGGER.warning("it is %s here", secret if not isinstance(secret, tuple) else str(secret))
    assert lines()[0]["text"] == "it is [redacted] here"


def test_a_pinned_hash_may_be_logged_in_its_own_field(lines):
    LOGGER.info("pinned", extra=event("pinned", {"roster": "ab" * 32, "reason": "ab" * 32}))
    assert (lines()[0]["roster"], lines()[0]["reason"]) == ("ab" * 32, "[redacted]")


def test_texts_of_calls_are_constants():
    """The event of a call without fields is its text in the source: an f-string would bring data into it."""
    found = 0
    for path in Path(secure_fu.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and isinstance(call.func.value, ast.Name)
                and call.func.value.id.lower().strip("_") in ("logger", "log", "logging")
                and call.func.attr in ("debug", "info", "warning", "error", "exception", "critical", "log")
            ):
                text = call.args[1 if call.func.attr == "log" else 0]
                assert isinstance(text, ast.Constant), f"{path.name}:{call.lineno}"
                found += 1
    assert found >= 10


def slugs():
    """The events of calls that have none of their own, with where they are."""
    for path in Path(secure_fu.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            logs = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
            if not logs or not isinstance(call.func.value, ast.Name) or call.func.value.id not in ("_LOGGER", "_log"):
                continue
            if not any(keyword.arg == "extra" for keyword in call.keywords):
                text = call.args[1 if call.func.attr == "log" else 0]
                yield f"{path.name}:{call.lineno}", logs_module._slug(text.value)


def test_an_event_that_is_made_of_a_text_says_what_happened():
    found = dict(slugs())
    assert len(found) > 10
    bad = {place: slug for place, slug in found.items() if not names_an_event(slug)}
    assert bad == {}
    assert not names_an_event(logs_module._slug("%s to %s: %s (%s)"))
    assert not names_an_event(logs_module._slug("node %s: %s"))


def names_an_event(slug: str) -> bool:
    words = slug.split("-")
    if len(slug) > 55 or slug.endswith("failed-with"):  # cut in the middle of a sentence
        return True
    return len(words) > 1 and words[-1] not in ("to", "with", "s")


def test_a_certificates_path_and_no_other_text_is_told_as_it_is(lines):
    path = "/srv/securefu/server/deletion/certificates/20261123T103000Zab12ab12ab12ab12ab12.json"
    LOGGER.info("x", extra=event("window", {"certificate": path, "reason": path, "present": ["clinic-1"]}))
    (line,) = lines()
    assert line["certificate"] == path
    assert "[redacted]" in line["reason"]
    LOGGER.info("x", extra=event("window", {"certificate": "ab" * 32}))
    assert lines()[1]["certificate"] == "[redacted]"


def _secrets(directory: Path, records, contributions) -> dict[str, set[str]]:
    """Everything that must not be in a log, as texts."""
    stored = (directory / "identities.bin").read_bytes()
    bits = {stored[start : start + 12] for start in range(32, len(stored) - 12, 4)}
    keys = {form for part in bits for form in (part.hex(), base64.b64encode(part).decode(), repr(part)[2:-1])}
    values = [*np.concatenate([one.features.ravel() for one in records.values()]).tolist()]
    sent = np.concatenate(contributions)
    sent = sent[np.abs(sent) > 0].tolist()
    return {
        "keys": keys,
        "data": {form for value in values for form in (repr(value), f"{value:.6f}", f"{value:.6g}")},
        "contributions": {form for value in sent for form in (repr(value), f"{value:.8g}")},
    }


class Watched:
    """A small encrypted federation in which a lot goes wrong, and what was secret in it.

    Args:
        failure: what silo-3's first task raises, made of its records and its contribution.
    """

    def __init__(self, directory: Path, monkeypatch, *, failure):
        self._directory = directory
        self._contributions: list[np.ndarray] = []
        self._records = silos()
        self._failures = [failure]
        original = Client._bounded_contribution

        def watched(client, header, model, terms):
            found = original(client, header, model, terms)
            self._contributions.append(found)
            if client.name == "silo-3" and self._failures:
                raise self._failures.pop()(self._records["silo-3"], found)
            return found

        monkeypatch.setattr(Client, "_bounded_contribution", watched)

    def run(self):
        module = mlp(5, (), 3, 0)
        plan = make_plan(
            module, clients=4, nominal_units=40, minimum_cohort=3, unit=Unit.RECORD, rounds=2, sampling_rate=0.5
        )
        with Federation(
            module,
            self._records,
            plan=plan,
            directory=self._directory,
            resumable=True,
            vanishes=lambda number, name: number == 1 and name == "silo-2",
            member_vanishes=lambda number, name: number == 0 and name == "member-1",
        ) as federated:
            federated.train()
            federated.delete(REQUESTS[Unit.RECORD], Retrain(), adaptive=False)

    @property
    def keys(self):
        return (self._directory / "identities.bin").read_bytes()

    def found_in(self, log: str) -> set[str]:
        """Which kinds of secrets a log has."""
        keys = {self.keys[start : start + 12] for start in range(32, len(self.keys) - 12, 4)}
        values = np.concatenate([one.features.ravel() for one in self._records.values()]).tolist()
        sent = [value for one in self._contributions for value in one.tolist() if value]
        secrets = {
            "keys": {form for part in keys for form in (part.hex(), repr(part)[2:-1])},
            "data": {form for value in values for form in (repr(value), f"{value:.6f}", f"{value:.6g}")},
            "contributions": {form for value in sent for form in (repr(value), f"{value:.8g}")},
        }
        return {kind for kind, texts in secrets.items() if any(text in log for text in texts if len(text) > 5)}


def test_the_log_of_a_federation_has_no_keys_data_or_contributions(tmp_path, monkeypatch, lines):
    watched = Watched(tmp_path, monkeypatch, failure=lambda *_: RecordError("the record cannot be read"))
    watched.run()
    told = lines()
    assert "round-client-sends-noise-alone" in {line["event"] for line in told}
    assert watched.found_in(json.dumps(told)) == set()


def test_the_search_finds_what_a_careless_log_would_have_told(tmp_path, monkeypatch, lines):
    """The same run with calls that quote what they must not: a plain log has it, this one not."""
    careless = io.StringIO()
    plain = logging.StreamHandler(careless)
    LOGGER.addHandler(plain)

    def quoting(records, contribution):
        LOGGER.warning("cannot use %s", records.features[0].tolist())
        LOGGER.warning("contribution %r, key %s", float(contribution[0]), watched.keys)
        return ValueError(f"could not read {records.features[0, 0]!r}")

    watched = Watched(tmp_path, monkeypatch, failure=quoting)
    try:
        with pytest.raises(ValueError, match="could not read"):
            watched.run()
    finally:
        LOGGER.removeHandler(plain)
    assert watched.found_in(careless.getvalue()) == {"keys", "data", "contributions"}
    assert watched.found_in(json.dumps(lines())) == set()
