"""Signed deletion requests: who may ask, what is hidden, and what is refused."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queue_cast import DAY, NOW, content, identities, policy, roster, signed

from secure_fu.crypto import Identity, Role, Roster, encode
from secure_fu.deletion import (
    MAX_REQUEST_BYTES,
    DeletionRequest,
    RequestExpired,
    RequestForged,
    RequestFromTheFuture,
    RequestUnauthorised,
    Scope,
    SignedBatch,
    check_request,
    check_signature,
    decode_request,
    open_request,
    read_request,
    sign_request,
)
from secure_fu.errors import ArgumentError
from secure_fu.federation.founding import from_plain, to_plain

REQUESTS = [
    DeletionRequest.whole_client("alder"),
    DeletionRequest.some_records("alder", (7, 0, 3)),
    DeletionRequest.person("ann", "Zoë", client="alder"),
    DeletionRequest.whole_class(0, client="alder"),
]
EVERYWHERE = [DeletionRequest.person("ann"), DeletionRequest.whole_class(4)]


def check(request, now=NOW, **changes):
    check_request(request, roster=roster(), policy=policy(**changes), now=now)


@pytest.mark.parametrize("wanted", REQUESTS, ids=lambda wanted: wanted.scope.value)
def test_a_client_asks_about_itself_and_alone_can_open(wanted):
    request = decode_request(content(signed(request=wanted)))
    check(request)
    assert open_request(request, identities()["alder"]) == wanted
    assert request.concerns("alder")
    assert not request.concerns("birch")
    with pytest.raises(ArgumentError, match="concerns"):
        open_request(request, identities()["birch"])


@pytest.mark.parametrize("wanted", EVERYWHERE, ids=lambda wanted: wanted.scope.value)
def test_a_class_signer_asks_every_client(wanted):
    request = signed("officer", wanted)
    check(request)
    assert {open_request(request, identities()[name]) == wanted for name in roster().clients} == {True}


@pytest.mark.parametrize(
    ("signer", "wanted"),
    [
        ("alder", DeletionRequest.some_records("birch", (1,))),
        ("alder", DeletionRequest.whole_client("birch")),
        ("alder", DeletionRequest.whole_class(1)),
        ("alder", DeletionRequest.person("ann", client="birch")),
        ("officer", DeletionRequest.whole_client("birch")),
        ("officer", DeletionRequest.some_records("birch", (1,))),
        ("hub", DeletionRequest.whole_class(1)),
    ],
)
def test_nobody_asks_for_what_is_not_theirs(signer, wanted):
    request = signed(signer, wanted)
    with pytest.raises(RequestUnauthorised, match=f"{signer}.*may not ask"):
        check(request)


def test_whoever_the_policy_names_may_and_nobody_else():
    request = signed("birch", DeletionRequest.whole_class(1))
    check(request, class_signers=("birch",))
    with pytest.raises(RequestUnauthorised):
        check(request, class_signers=())


def test_the_server_never_asks_whatever_the_policy_says():
    for wanted in (DeletionRequest.whole_class(1), DeletionRequest.person("ann", client="birch")):
        check(signed("officer", wanted), class_signers=("hub", "officer"))
        with pytest.raises(RequestUnauthorised, match=r"hub.*may not ask"):
            check(signed("hub", wanted), class_signers=("hub", "officer"))


def test_every_byte_is_signed():
    """A change anywhere is refused: by the wire format, by the form, or by the signature."""
    whole = content(signed())
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        with pytest.raises((RequestForged, RequestUnauthorised)):
            check_signature(decode_request(bytes(changed)), roster=roster(), policy=policy())


@pytest.mark.parametrize(
    "change",
    [
        {"units": 1},
        {"deadline": NOW + 31 * DAY},
        {"submitted": NOW},
        {"request_id": bytes(16)},
        {"client": "birch"},
        {"scope": Scope.CLIENT},
    ],
)
def test_a_changed_field_is_a_forgery(change):
    request = signed()
    if "client" in change:
        change = {**change, "boxes": (replace(request.boxes[0], client="birch"),)}
    with pytest.raises(RequestForged):
        check(replace(request, **change))


def test_signed_by_another_key_of_the_same_name():
    impostor = Identity.generate("alder", Role.CLIENT)
    wanted = DeletionRequest.whole_client("alder")
    request = sign_request(impostor, wanted, roster=roster(), units=1, submitted=NOW, deadline=NOW + DAY)
    with pytest.raises(RequestForged, match="alder"):
        check(request)


def test_an_unknown_signer_and_an_unknown_client():
    stranger = Identity.generate("stranger", Role.CLIENT)
    larger = Roster.of([*roster().parties, stranger.party])
    wanted = DeletionRequest.whole_client("stranger")
    request = sign_request(stranger, wanted, roster=larger, units=1, submitted=NOW, deadline=NOW + DAY)
    check_request(request, roster=larger, policy=policy(), now=NOW)
    with pytest.raises(RequestUnauthorised, match="'stranger' is not in the roster"):
        check(request)
    with pytest.raises(ArgumentError, match="a client of the roster"):
        signed(request=DeletionRequest.whole_client("elm"))


def test_a_request_is_worth_nothing_at_another_server():
    others = [party for party in roster().parties if party.role is not Role.SERVER]
    elsewhere = Roster.of([*others, Identity.generate("hub", Role.SERVER).party])
    with pytest.raises(RequestForged, match="another server"):
        check_request(signed(), roster=elsewhere, policy=policy(), now=NOW)


def test_a_box_opens_in_its_own_request_only():
    """A signer cannot pass another's sealed details off as its own wish, whatever it signs."""
    victim = signed()
    copied = replace(signed(), boxes=victim.boxes)
    with pytest.raises(RequestForged, match="SealError"):
        open_request(copied, identities()["alder"])
    assert open_request(victim, identities()["alder"]).records == (4, 1)


def test_times():
    request = signed(submitted=NOW, deadline=NOW + DAY)
    check(request, now=NOW - 300)
    check(request, now=NOW + DAY + 299)
    with pytest.raises(RequestFromTheFuture, match="off by more than 300 s"):
        check(request, now=NOW - 301)
    with pytest.raises(RequestExpired, match="has passed"):
        check(request, now=NOW + DAY + 300)
    for submitted, deadline in ((NOW, NOW), (NOW, NOW - 1), (NOW, 1 << 50), (-1, NOW)):
        with pytest.raises(ArgumentError, match="deadline"):
            signed(submitted=submitted, deadline=deadline)


def test_nothing_of_the_details_is_in_the_open():
    secret = DeletionRequest.person("Maria Sklodowska", client="alder")
    request = signed(request=secret)
    assert b"Maria" not in content(request)
    assert "Maria" not in repr(request) + request.describe() + str(to_plain(request))


@given(st.integers(1, 200), st.integers(1, 200))
def test_the_length_tells_scope_and_units_and_no_more(first, second):
    lengths = {
        len(content(signed(request=DeletionRequest.some_records("alder", range(count)), units=200)))
        for count in (first, second)
    }
    assert len(lengths) == 1


def test_more_positions_than_units_show_up_to_a_factor_of_two():
    lengths = [
        len(content(signed(request=DeletionRequest.some_records("alder", range(count)), units=1)))
        for count in (1, 100, 900, 1000)
    ]
    assert lengths[0] == lengths[1] < lengths[2] == lengths[3]


def test_the_open_part_has_these_fields_and_no_others():
    """A new field would tell the server more than the module's docstring says."""
    open_part = set(to_plain(signed())) - {"boxes", "signature", "server", "request_id"}
    assert open_part == {"signer", "scope", "client", "units", "submitted", "deadline", "disclosure"}


def test_who_asked_cannot_be_guessed_from_the_digest():
    """Equal wishes have unrelated digests, so that nobody can try all signers."""
    assert len({signed().digest for _ in range(4)}) == 4
    assert signed().disclose is False
    assert signed(disclose=True).disclose is True


def test_too_much_at_once():
    with pytest.raises(ArgumentError, match="1000001 positions'; expected at most 1000000"):
        signed(request=DeletionRequest.some_records("alder", range(1_000_001)))
    with pytest.raises(ArgumentError, match="persons"):
        signed(request=DeletionRequest.person(*map(str, range(10_001)), client="alder"))
    with pytest.raises(ArgumentError, match="ask in parts"):
        signed(request=DeletionRequest.person(*(f"{n:01000}" for n in range(9_000)), client="alder"))
    with pytest.raises(ArgumentError, match="values that travel"):
        signed(request=DeletionRequest.some_records("alder", (-1,)))
    large = signed(request=DeletionRequest.some_records("alder", range(1_000_000)), units=1_000_000)
    assert len(content(large)) < MAX_REQUEST_BYTES
    check(large)


def test_a_file_of_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(5 << 30)  # a hole: takes no room, and would take 5 GiB of memory to read
    with pytest.raises(RequestForged, match="5368709120 bytes; a request has at most"):
        read_request(path)


def test_files(tmp_path):
    request, path = signed(), tmp_path / "request"
    path.write_bytes(content(request))
    assert read_request(path) == request
    for bad in (b"", b"SFU", content(request)[:-1], content(request) + b"x", os.urandom(100)):
        path.write_bytes(bad)
        with pytest.raises(RequestForged, match="not a signed deletion request"):
            read_request(path)
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(ArgumentError, match="FILE"):
            read_request(wrong)


def test_batches_have_ids_of_their_own():
    first, second = signed(), signed("birch")
    batch = SignedBatch.of(NOW, [second, first], 0)
    assert batch == SignedBatch.of(NOW, [first, second], 0)
    others = [
        SignedBatch.of(NOW + 1, [first, second], 0),
        SignedBatch.of(NOW, [first], 0),
        SignedBatch.of(NOW, [first, second], 1),
        SignedBatch.of(NOW, [], 1),
    ]
    assert len({one.window_id for one in [batch, *others]}) == 5
    assert batch.units == 6
    assert others[2].units == 6
    assert others[2].describe() == "2 requests, at most 6 units, and up to 1 hidden units at each client"
    with pytest.raises(ArgumentError, match="window_id"):
        replace(batch, requests=(first,))
    with pytest.raises(ArgumentError, match="at least one request, or hidden_units"):
        SignedBatch.of(NOW, [], 0)
    with pytest.raises(ArgumentError, match="each once"):
        SignedBatch.of(NOW, [first, first], 0)


def test_a_batch_survives_the_main_lines_file():
    batch = SignedBatch.of(NOW, [signed(), signed("officer", EVERYWHERE[0])], 2)
    assert from_plain(SignedBatch, to_plain(batch)) == batch
    assert encode(batch.requests[0]) == encode(from_plain(SignedBatch, to_plain(batch)).requests[0])
