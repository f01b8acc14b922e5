"""Clients and key-holder refuse what their own policy forbids, whoever signed it, and go on with what it allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from machines import AMPLE, KEY_HOLDER, SERVER, SUM, header_of

from secure_fu.crypto import CommitteeTerms, Roster
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import ArgumentError, PolicyRefusal, ProtocolError, SecureFUError, SignatureError
from secure_fu.privacy import Unit
from secure_fu.protocol import Header, Policy
from secure_fu.protocol.header import grid_of, noise_share_of
from secure_fu.protocol.key_holder.encryption import upload_associated_data
from secure_fu.protocol.messages import Announcement, Invitation, Upload

TWO = {"committee": (KEY_HOLDER, "second"), "terms": CommitteeTerms(members=2, threshold=2, quorum=2, corrupt=0)}

# What a stricter party pins, where the server's own policy has something laxer; and what the refusal names.
STRICTER = {
    "server": ({"server": "client-3"}, "client-3"),
    "committee": ({"committee": ("client-3",)}, "field committee"),
    "terms": (TWO, "field committee"),
    "unit": ({"unit": Unit.CLIENT, "budget": replace(AMPLE, unit=Unit.CLIENT)}, "field unit"),
    "budget": ({"budget": replace(AMPLE, epsilon=3.2)}, "the client's own ledger refuses"),
    "clip_norm": ({"clip_norm": 0.99}, "field clip_norm"),
    "saturation": ({"saturation": 1.99}, "field saturation"),
    "noise_multiplier": ({"noise_multiplier": 2.01}, "field noise_multiplier"),
    "sampling_rate": ({"sampling_rate": 0.49}, "field retained_rate"),
    "minimum_cohort": ({"minimum_cohort": 4}, "field minimum_cohort"),
    "colluders": ({"colluders": 2, "minimum_cohort": 4}, "field colluders"),
    "purposes": ({"purposes": frozenset({"train"})}, "field purpose"),
    "parameter_sets": ({"parameter_sets": frozenset({"other"})}, "field parameter_set"),
    "grids": ({"grids": frozenset({"rotated"})}, "field grid"),
}
# A key-holder keeps no ledger.
CLIENTS_OWN = {"budget"}


@pytest.mark.parametrize("field", STRICTER)
def test_a_client_refuses_what_its_policy_forbids_and_the_round_goes_on_without_it(build, field):
    machines = build()
    changes, named = STRICTER[field]
    strict = machines.client("client-2", policy=replace(machines.policy, **changes))
    invitation = machines.invited(0)
    streams = len(machines.tape.streams)
    with pytest.raises(SecureFUError, match=named):
        strict.respond(invitation)
    assert len(machines.tape.streams) == streams, "a refusing client draws nothing"
    assert machines.tasks["client-2"].terms == [], "and computes nothing"
    assert machines.client_record.rounds("client-2") == 0, "and is charged for nothing"
    for name in ("client-0", "client-1", "client-3"):
        machines.server.receive(machines.clients[name].respond(invitation))
    assert machines.finish().participants == ("client-0", "client-1", "client-3")


@pytest.mark.parametrize("field", [name for name in STRICTER if name not in CLIENTS_OWN])
def test_a_key_holder_makes_no_key_for_what_its_policy_forbids(build, field):
    machines = build()
    changes, named = STRICTER[field]
    strict = machines.new_key_holder(policy=replace(machines.policy, **changes))
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    with pytest.raises(SecureFUError, match=named):
        strict.issue_key(announcement)
    machines.server.invite(machines.key_holder.issue_key(announcement))  # its record did not move


def test_every_field_of_a_policy_is_tried():
    # The roster's digest is compared with the roster before there is a party, see below.
    assert set(STRICTER) | {"roster_digest"} == set(Policy.__dataclass_fields__)


def test_nobody_starts_with_another_roster_than_the_pinned_one(build):
    machines = build()
    other = replace(machines.policy, roster_digest=bytes(32))
    smaller = Roster.of(identity.party for name, identity in machines.identities.items() if name != "client-3")
    for make in (
        lambda: machines.client("client-0", policy=other),
        lambda: machines.new_key_holder(policy=other),
        lambda: replace(machines.server._run, policy=other),
        lambda: replace(machines.server._run, roster=smaller),
    ):
        with pytest.raises(ArgumentError, match="pinned roster"):
            make()


def test_who_fears_more_colluders_adds_more_noise_and_refuses_rounds_that_fear_fewer(build):
    machines = build(clients=5, minimum=4, colluders=1)
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    header = header_of(machines.forged_invitation(announcement))
    fearful = replace(header, colluders=2)
    assert noise_share_of(fearful).sigma_squared * 2 == noise_share_of(header).sigma_squared * 3
    strict = machines.client("client-0", policy=replace(machines.policy, colluders=2))
    with pytest.raises(PolicyRefusal, match="field colluders is 1"):
        strict.respond(machines.forged_invitation(announcement))
    # Fearing more than the policy asks for is nobody's loss, and it is this round's noise that is added.
    more = machines.forged_announcement(announcement, colluders=2)
    invitation = machines.honest_invitation(more)
    strict.respond(invitation)
    upload = decode(Upload, machines.clients["client-1"].respond(invitation))
    key = machines.key_holder._pending[header.run_id].key
    total = machines.scheme.accumulator(machines.scheme.load_public_key(key.public_bytes), machines.length)
    associated_data = upload_associated_data(upload.header_digest, "client-1")
    total.add(machines.identities[SERVER].unseal(upload.body, associated_data=associated_data))
    values = machines.scheme.open(key, total.total(), length=machines.length, bound=machines.scheme.capacity)
    drawn = machines.tape.last("noise/client-1")
    assert np.array_equal(values, drawn.replayed(noise_share_of(fearful), machines.length))
    assert values.any()


# Headers that no honest server makes; each is signed with the server's true key.
FORGERIES = {
    "roster_digest": ({"roster_digest": bytes(32)}, "roster_digest"),
    "two key-holders": ({"committee": (KEY_HOLDER, "second")}, "field committee"),
    "no key-holder": ({"committee": ()}, "field committee"),
    "another key-holder": ({"committee": ("client-3",)}, "field committee"),
    "no threshold": ({"threshold": 0}, "field threshold"),
    "a threshold for two": ({"threshold": 2}, "field threshold"),
    "no quorum": ({"quorum": 0}, "field quorum"),
    "a quorum of two": ({"quorum": 2}, "field quorum"),
    "a corrupt key-holder": ({"corrupt": 1}, "field corrupt"),
    "no colluders": ({"colluders": 0}, "field colluders"),
    "too many colluders": ({"colluders": 2}, "field minimum_cohort"),
    "both phases": ({"phase": "both"}, "field phase"),
    "no phase": ({"phase": ""}, "field phase"),
    "the rotated grid": ({"grid": "rotated", "digit_bits": 16}, "field grid"),
    "a grid of another name": ({"grid": "coarse"}, "field grid"),
    "digits of another scheme": ({"digit_bits": 16}, "digit_bits"),
    "purpose": ({"purpose": "unlearn/other"}, "purpose"),
    "parameter_set": ({"parameter_set": "plain-int64"}, "parameter_set"),
    "minimum_cohort": ({"minimum_cohort": 2}, "minimum_cohort"),
    "minimum above the cohort": ({"minimum_cohort": 5}, "cohort"),
    "unsorted cohort": ({"cohort": ("client-1", "client-0", "client-2", "client-3")}, "cohort"),
    "a client twice": ({"cohort": ("client-0", "client-0", "client-1", "client-2")}, "cohort"),
    "a tiny cohort": ({"cohort": ("client-0", "client-1")}, "cohort"),
    "another unit": ({"unit": "client"}, "unit"),
    "no unit": ({"unit": "household"}, "unit"),
    "large clip_norm": ({"clip_norm": 1.5}, "clip_norm"),
    "zero clip_norm": ({"clip_norm": 0.0}, "clip_norm"),
    "negative clip_norm": ({"clip_norm": -1.0}, "clip_norm"),
    "tiny clip_norm": ({"clip_norm": 5e-324}, "clip_norm"),
    "little noise": ({"noise_multiplier": 1.99}, "noise_multiplier"),
    "no noise": ({"noise_multiplier": 0.0}, "noise_multiplier"),
    "endless noise": ({"noise_multiplier": 1e300}, "step is"),
    "retained_rate": ({"retained_rate": 0.51}, "retained_rate"),
    "forgotten_rate": ({"forgotten_rate": 1.0}, "forgotten_rate"),
    "negative rate": ({"retained_rate": -0.1}, "retained_rate"),
    "no coordinates": ({"length": 0}, "length"),
    "another length": ({"length": 7}, "grid_step"),
    "saturation under the clip norm": ({"saturation": 0.5}, "saturation"),
    "large saturation": ({"saturation": 2.0**1.5}, "field saturation"),
    "endless saturation": ({"saturation": 1e300}, "saturation"),
    "coarse grid": ({"grid_step": 0.25}, "grid_step"),
    "fine grid": ({"grid_step": 2.0**-40}, "grid_step"),
    "no grid": ({"grid_step": 0.0}, "grid_step"),
    "a round number that no file can hold": ({"round_number": 2**63}, "round_number"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_client_refuses_a_forged_header_and_answers_the_honest_one(build, forgery):
    machines = build()
    changes, named = FORGERIES[forgery]
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    forged = machines.forged_announcement(announcement, **changes)
    streams = len(machines.tape.streams)
    with pytest.raises(SecureFUError, match=named):
        machines.clients["client-0"].respond(machines.forged_invitation(forged, model=bytes(4 * machines.length)))
    assert len(machines.tape.streams) == streams
    invitation = machines.server.invite(machines.key_holder.issue_key(announcement))
    machines.server.receive(machines.clients["client-0"].respond(invitation))


# Each is wrong in its own way, and has tests of its own here or in test_round_uploads.py.
NOT_THE_POLICYS = {"run_id", "previous_transcript", "model_digest", "settings"}


def test_every_field_of_a_header_is_tried():
    tried = {field for changes, _ in FORGERIES.values() for field in changes}
    assert tried | NOT_THE_POLICYS == set(Header.__dataclass_fields__)
    assert not tried & NOT_THE_POLICYS


def another(value):
    """A value of the same type."""
    if isinstance(value, tuple):
        return (*value, "client-9")
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:]
    return value + (value or "x") if isinstance(value, str) else value + 1


@pytest.mark.parametrize("field", Header.__dataclass_fields__)
def test_signatures_and_round_key_bind_every_field_of_a_header(build, field):
    machines = build()
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    round_key = machines.key_holder.issue_key(announcement)
    invitation = decode(Invitation, machines.server.invite(round_key))
    header = decode(Header, invitation.announcement.header)
    changed = encode(replace(header, **{field: another(getattr(header, field))}))
    unsigned = Announcement(header=changed, signature=invitation.announcement.signature)
    client = machines.clients["client-0"]
    with pytest.raises(SignatureError):
        client.respond(encode(replace(invitation, announcement=unsigned)))
    with pytest.raises(SignatureError):
        machines.key_holder.issue_key(encode(unsigned))
    # Also the server cannot change it once the key-holder has signed a key for it.
    signed = replace(unsigned, signature=machines.identities[SERVER].sign("header", changed))
    with pytest.raises(ProtocolError):
        client.respond(encode(replace(invitation, announcement=signed)))
    assert machines.tape.streams == []
    machines.server.receive(client.respond(encode(invitation)))


# Left to the clients: the key-holder does not see the model, and its scheme has no digits that it could read wrongly.
CLIENTS_ONLY = {"another length"}


@pytest.mark.parametrize("forgery", [name for name in FORGERIES if name not in CLIENTS_ONLY])
def test_a_key_holder_makes_no_key_for_a_forged_header(build, forgery):
    machines = build()
    changes, named = FORGERIES[forgery]
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    with pytest.raises(SecureFUError, match=named):
        machines.key_holder.issue_key(machines.forged_announcement(announcement, **changes))
    machines.server.invite(machines.key_holder.issue_key(announcement))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "[]",
        "3",
        "null",
        '{"a":NaN}',
        '{"a":[1]}',
        '{"a":1e999}',
        '{"b":1,"a":2}',
        '{"a": 1}',
        '{"a":1,"a":2}',
        "[" * 60_000,
    ],
    ids=lambda text: text[:20],
)
def test_settings_that_are_not_canonical_are_refused_before_the_round_counts_as_answered(build, text):
    machines = build()
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    forged = machines.forged_announcement(announcement, settings=text)
    with pytest.raises(SecureFUError, match="settings"):
        machines.clients["client-0"].respond(machines.forged_invitation(forged))
    invitation = machines.server.invite(machines.key_holder.issue_key(announcement))
    machines.server.receive(machines.clients["client-0"].respond(invitation))


def test_settings_arrive_as_they_were_sent(build):
    machines = build()
    settings = {"rate": 0.1, "epochs": 3, "kind": "é\u2028", "flag": True, "zero": 0.0}
    machines.clients["client-1"].respond(machines.invited(0, settings=settings))
    (terms,) = machines.tasks["client-1"].terms
    assert terms.settings == settings
    assert {key: type(value) for key, value in terms.settings.items()} == {k: type(v) for k, v in settings.items()}
    assert (terms.purpose, terms.round_number, terms.unit, terms.clip_norm) == (SUM, 0, Unit.RECORD, 1.0)
    assert (terms.retained_rate, terms.forgotten_rate) == (0.5, 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1], None, b"1", np.float64("nan")])
def test_a_request_with_other_settings_cannot_be_made(build, value):
    with pytest.raises(ArgumentError, match="settings"):
        build().request(settings={"key": value})


def test_a_client_without_code_for_a_purpose_refuses_it(build):
    machines = build()
    invitation = machines.invited(0)
    with pytest.raises(PolicyRefusal, match="purpose"):
        machines.client("client-0", tasks={}).respond(invitation)
    assert machines.client_record.rounds("client-0") == 0


def test_a_client_outside_the_cohort_refuses(build):
    machines = build()
    announcement = machines.server.announce(machines.request(), machines.names[:3], 0)
    invitation = machines.server.invite(machines.key_holder.issue_key(announcement))
    with pytest.raises(PolicyRefusal, match="client-3"):
        machines.clients["client-3"].respond(invitation)


def test_a_client_that_runs_another_scheme_refuses(build):
    machines = build(scheme_name="plain")
    lax = replace(machines.policy, parameter_sets=frozenset({"bfv-4096-54-36", "plain-int64"}))
    other = build(scheme_name="bfv")
    client = machines.client("client-0", policy=lax)
    key_holder = machines.new_key_holder(policy=lax)
    announcement = other.server.announce(other.request(), other.names, 0)
    with pytest.raises(PolicyRefusal, match="this key-holder runs 'plain-int64'"):
        key_holder.issue_key(announcement)
    with pytest.raises(PolicyRefusal, match="this client runs 'plain-int64'"):
        client.respond(other.server.invite(other.key_holder.issue_key(announcement)))


@pytest.mark.parametrize("change", [{"length": 7}, {"length": 5}])
def test_a_model_of_another_length_is_refused(build, change):
    machines = build()
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    header = header_of(machines.forged_invitation(announcement))
    grid = grid_of(replace(header, **change))
    forged = machines.forged_announcement(announcement, grid_step=grid.step, **change)
    with pytest.raises(SecureFUError, match="the model has 24 bytes"):
        machines.clients["client-0"].respond(machines.forged_invitation(forged, model=bytes(24)))


def test_another_model_than_the_headers_is_refused(build):
    machines = build()
    message = decode(Invitation, machines.invited(0))
    with pytest.raises(SecureFUError, match="model"):
        machines.clients["client-0"].respond(encode(replace(message, model=b"\1" + message.model[1:])))


def test_the_server_refuses_to_announce_what_its_own_policy_forbids_and_reserves_nothing(build):
    machines = build()
    for changes in (
        {"noise_multiplier": 1.0},
        {"clip_norm": 1.5, "saturation": 3.0},
        {"purpose": "train/other"},
        {"unit": Unit.CLIENT},
        {"retained_rate": 0.75},
    ):
        with pytest.raises(PolicyRefusal):
            machines.server.announce(machines.request(**changes), machines.names, 0)
    with pytest.raises(PolicyRefusal, match="cohort"):
        machines.server.announce(machines.request(), machines.names[:2], 0)
    with pytest.raises(PolicyRefusal, match="cohort"):
        machines.server.announce(machines.request(), (*machines.names, "client-0"), 0)
    with pytest.raises(SecureFUError, match="stranger"):
        machines.server.announce(machines.request(), (*machines.names, "stranger"), 0)
    assert machines.ledger.pending() == ()
    assert list(machines.ledger.events()) == []
    machines.collected(0)
    machines.finish()


@pytest.mark.parametrize("name", [SERVER, KEY_HOLDER])
def test_only_a_client_can_be_a_client(build, name):
    machines = build()
    machines.identities["client-0"] = machines.identities[name]
    with pytest.raises(ArgumentError, match="role of a client"):
        machines.client("client-0")


@pytest.mark.parametrize("name", ["client-0", SERVER])
def test_only_a_key_holder_can_be_a_key_holder(build, name):
    machines = build()
    machines.identities[KEY_HOLDER] = machines.identities[name]
    with pytest.raises(ArgumentError, match="role of a key-holder"):
        machines.new_key_holder()
