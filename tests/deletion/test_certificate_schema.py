"""A certificate has one text: whatever is edited, anywhere, is refused, and said to be."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import jsonschema
import pytest
from certificate_cast import BASIS, accounts, batch, certificate, certified, forged, request, roster, unsigned_change
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fu.deletion.certificates import Certificate, CertificateError, parse_certificate, read_certificate
from secure_fu.deletion.certificates.schema import CERTIFICATE_SCHEMA, certificate_text, check_shape

DOCS = Path(__file__).resolve().parents[2] / "docs" / "certificates.md"


@pytest.fixture(scope="module")
def made():
    return certificate(batch(request(), request("bob", disclose=True)))


def refused(content):
    """Whether a text is refused, by its form or its signature; and that nothing else than the named error is raised."""
    try:
        Certificate.of(content).check_signature(roster())
    except CertificateError:
        return True
    return False


# Edits


def test_it_holds_as_it_is(made):
    assert not refused(made.content)


def test_every_single_flipped_bit_is_refused(made):
    rng = random.Random(5)
    for place in range(len(made.content)):
        edited = bytearray(made.content)
        edited[place] ^= 1 << rng.randrange(8)
        assert refused(bytes(edited)), place


def test_every_character_replaced_by_another_of_its_kind_is_refused(made):
    """Digits by digits, letters by letters: what a forger does, and what stays well-formed."""
    kinds = ("0123456789", "abcdef", "ghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", '{}[],:" \n', "-_./")
    text = made.content.decode()
    for place, letter in enumerate(text):
        kind = next((kind for kind in kinds if letter in kind), letter + "!")
        other = kind[(kind.index(letter) + 1 + place % (len(kind) - 1)) % len(kind)]
        edited = text[:place] + other + text[place + 1 :]
        assert other != letter
        assert refused(edited.encode()), place


def test_every_third_character_left_out_or_doubled_is_refused(made):
    for place in range(0, len(made.content), 3):
        assert refused(made.content[:place] + made.content[place + 1 :]), place
        assert refused(made.content[:place] + made.content[place : place + 1] + made.content[place:]), place


@pytest.mark.parametrize(
    "write",
    [
        lambda found: json.dumps(found),
        lambda found: json.dumps(found, indent=1),
        lambda found: json.dumps(found, sort_keys=True, indent=1),
        lambda found: json.dumps(found, sort_keys=True, separators=(",", ":")),
        lambda found: json.dumps(found, sort_keys=True, indent=2) + "\n",
        lambda found: json.dumps(dict(reversed(found.items())), indent=1) + "\n",
        lambda found: json.dumps(found, sort_keys=True, indent=1) + "\n\n",
        lambda found: " " + json.dumps(found, sort_keys=True, indent=1) + "\n",
        lambda found: json.dumps(found, sort_keys=True, indent=1).replace("\n", "\r\n") + "\r\n",
        lambda found: "\ufeff" + json.dumps(found, sort_keys=True, indent=1) + "\n",
    ],
)
def test_the_same_content_written_otherwise_is_refused(made, write):
    with pytest.raises(CertificateError, match=r"edited|written"):
        parse_certificate(write(json.loads(made.content)).encode())


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('"number": 1,', '"number": 1,\n  "number": 1,', "key twice"),
        ('"number": 1,', '"number": 2,\n  "number": 1,', "key twice"),
        ('"delta": 1e-05', '"delta": 0.00001', "written anew"),
        ('"delta": 1e-05', '"delta": 1.0e-05', "written anew"),
        ('"delta": 1e-05', '"delta": NaN', "NaN"),
        ('"delta": 1e-05', '"delta": -Infinity', "Infinity"),
        ('"delta": 1e-05', '"delta": 1e-999', "expected a number above 0"),
        ('"delta": 1e-05', '"delta": 1e999', "too large"),
        ('"number": 1', '"number": 1.0', "expected a JSON integer"),
        ('"number": 1', '"number": true', "expected a JSON integer"),
        ('"number": 1', '"number": ' + "1" * 5000, "digits"),
        ('"number": 1', '"number": 99999999999999999999', "at most"),
        ('"number": 1', '"number": 0', "at least"),
        ('"number": 1', '"number": -0', "at least"),
        ('"scrub"', '"scr\\u0075b"', "written anew"),
        ('"scrub"', '"scrub\\u202e"', "form"),
        ('"scrub"', '"scr\\ud800b"', "form"),
        ('"scrub"', '"scr\x00b"', "edited"),
        ('"scrub"', '"scrüb"', "ASCII"),
        ('"audit": null', '"audit": null, "more": 1', "which certificates do not have"),
        ('"audit": null', '"Audit": null', "missing"),
        ('"audit": null', '"audit": {}', "missing"),
        ('"kahe-8192"', '"kahe-8192\\n"', "form"),
        ("secure-fu/certificate/1", "secure-fu/certificate/2", "expected"),
    ],
)
def test_what_a_forger_may_try_is_named(made, old, new, word):
    text = made.content.decode()
    assert old in text
    with pytest.raises(CertificateError, match=word):
        parse_certificate(text.replace(old, new, 1).encode("utf-8"))


def test_large_and_deep_files_are_refused_quickly(made, monkeypatch, tmp_path):
    for content, word in (
        (b"[" * 200_000, "deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "deep"),
        (made.content.replace(b'"audit": null', b'"audit": ' + b"[" * 5000 + b"]" * 5000), "deep"),
        (b'"' + b"a" * 100_000, "edited"),
        (b"", "edited"),
        (b"null", "expected a JSON object"),
        (b"\x00" * 100, "edited"),
    ):
        with pytest.raises(CertificateError, match=word):
            parse_certificate(content)
    monkeypatch.setattr("secure_fu.deletion.certificates.schema.MAX_CERTIFICATE_BYTES", 1000)
    monkeypatch.setattr("secure_fu.deletion.certificates.certificate.MAX_CERTIFICATE_BYTES", 1000)
    (tmp_path / "large").write_bytes(made.content)
    with pytest.raises(CertificateError, match="more than 1000 bytes"):
        read_certificate(tmp_path / "large")
    with pytest.raises(CertificateError, match="No such file"):
        read_certificate(tmp_path / "absent")
    with pytest.raises(CertificateError, match="directory"):
        read_certificate(tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(content):
    with pytest.raises(CertificateError):
        parse_certificate(content)


def test_an_old_signature_does_not_serve_for_other_content(made):
    for change in (
        lambda body: body["method"].update(name="retrain"),
        lambda body: body["unconfirmed"].clear(),
        lambda body: body["forgetting"].update(kind="exact"),
        lambda body: body.update(number=2),
    ):
        with pytest.raises(CertificateError, match="edited or forged"):
            Certificate.of(unsigned_change(made, change)).check_signature(roster())


# The schema


def test_the_schema_in_the_documentation_is_the_one_in_the_code():
    text = DOCS.read_text("utf-8")
    (block,) = [part for part in text.split("```")[1::2] if part.startswith("json") and '"$schema"' in part]
    assert json.loads(block.removeprefix("json")) == CERTIFICATE_SCHEMA


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(CERTIFICATE_SCHEMA)


def test_every_part_of_the_certificate_is_explained_in_the_documentation():
    rows = [line for line in DOCS.read_text("utf-8").splitlines() if line.startswith("|")]
    for part in CERTIFICATE_SCHEMA["properties"]["certificate"]["properties"]:
        assert any(f"`{part}`" in row.split("|")[1] for row in rows), part


def paths(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*path, key))


def changed(document, path, value):
    found = copy.deepcopy(document)
    holder = found
    for key in path[:-1]:
        holder = holder[key]
    if value is Ellipsis:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return found


def ours(document):
    try:
        check_shape(document)
    except CertificateError:
        return False
    return True


def test_our_validator_and_an_independent_one_agree_on_every_changed_value(made):
    validator = jsonschema.Draft202012Validator(CERTIFICATE_SCHEMA)
    document = json.loads(made.content)
    values = (..., None, True, 0, 1, -1, 0.5, 2**60, "", "a b", "ab" * 32, "\a", "é", [], {}, ["x"], {"x": 1})
    compared = disagreed = accepted = 0
    for path in paths(document):
        if not path or (path[-1] is not None and isinstance(path[-1], int) and path[-1] > 1):
            continue
        for value in values:
            spoilt = changed(document, path, value)
            theirs, mine = validator.is_valid(spoilt), ours(spoilt)
            compared += 1
            accepted += mine
            disagreed += theirs is not mine
    assert compared > 1000
    assert accepted > 20  # a validator that refuses everything agrees too often
    assert disagreed == 0


def test_certificates_of_every_kind_follow_the_schema():
    validator = jsonschema.Draft202012Validator(CERTIFICATE_SCHEMA)
    own = accounts(story=((BASIS, 3, ("ada", "bob", "eve")),))
    for one in (
        certificate(),
        certificate(batch(request(disclose=True)), accounts(("ada",))),
        certificate(batch(hidden_units=2)),
        certificate(own=own, guarantee=certified(own), rounds=0),
    ):
        validator.validate(json.loads(one.content))
        check_shape(json.loads(one.content))


def test_a_forged_certificate_is_written_as_certificates_are(made):
    """What the other tests of lies rest on: only the lie is refused."""
    same = forged(made, lambda body: None)
    assert same.content == made.content
    assert certificate_text(json.loads(made.content)) == made.content
