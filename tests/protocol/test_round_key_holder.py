"""The key-holder opens one roll a round, only what its policy allows, and remembers it on disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from machines import StandIn, header_of

from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import (
    CiphertextError,
    OpeningError,
    PolicyRefusal,
    ProtocolError,
    RoundAborted,
    SecureFUError,
    SignatureError,
    WireError,
)
from secure_fu.privacy import Phase, Subject
from secure_fu.protocol import OpeningRecord
from secure_fu.protocol.header import largest_sum_of
from secure_fu.protocol.key_holder.messages import Opening, OpeningRequest
from secure_fu.protocol.messages import (
    Announcement,
    Invitation,
    Roll,
    RollEntry,
    Upload,
    digest,
    shares_digest,
)


def entries_of(request):
    return decode(OpeningRequest, request).roll.entries


def rolls(machines, good):
    """Rolls that must not open, each signed by the server."""
    first, second, third, fourth = entries_of(good)
    stranger = replace(first, client="server", signature=machines.identities["server"].sign("upload", b"anything"))
    return {
        "a client twice": ((first, first, second, third), PolicyRefusal),
        "one client four times": ((first,) * 4, PolicyRefusal),
        "not sorted": ((second, first, third, fourth), PolicyRefusal),
        "too few": ((first, second), PolicyRefusal),
        "nobody": ((), PolicyRefusal),
        "somebody outside the cohort": ((first, second, third, stranger), PolicyRefusal),
        "an entry that its client did not sign": (
            (replace(first, signature=bytes(64)), second, third),
            SignatureError,
        ),
        "entries exchanged": (
            (replace(first, signature=second.signature), replace(second, signature=first.signature), third),
            SignatureError,
        ),
        "another digest": ((replace(first, ciphertext_digest=bytes(32)), second, third), SignatureError),
        "other shares": ((first, replace(second, shares_digest=bytes(32)), third), SignatureError),
        "another name": ((first, second, replace(third, client="client-3")), SignatureError),
    }


ROLL_KINDS = (
    "a client twice",
    "one client four times",
    "not sorted",
    "too few",
    "nobody",
    "somebody outside the cohort",
    "an entry that its client did not sign",
    "entries exchanged",
    "another digest",
    "other shares",
    "another name",
)


@pytest.mark.parametrize("kind", ROLL_KINDS)
def test_a_bad_roll_is_refused_and_the_honest_one_still_opens(build, kind):
    machines = build()
    invitation = machines.collected(0)
    good = machines.server.close()
    cases = rolls(machines, good)
    assert set(cases) == set(ROLL_KINDS)
    entries, error = cases[kind]
    with pytest.raises(error):
        machines.key_holder.open(machines.forged_roll(good, entries=entries))
    released = machines.server.release(machines.key_holder.open(good))
    noise = sum(machines.noise(name, header_of(invitation)) for name in machines.names)
    assert np.array_equal(released.values, noise * header_of(invitation).grid_step)


def test_a_minimum_in_the_header_above_the_policys_binds_clients_and_key_holder(build):
    machines = build(clients=5, minimum=3)
    announcement = machines.forged_announcement(
        machines.server.announce(machines.request(), machines.names, 0), minimum_cohort=5
    )
    invitation = machines.honest_invitation(announcement)
    # Each adds the share of four assured clients, a half of what two would add; so four must not be enough.
    assert machines.share(header_of(invitation)).assured == 4
    uploads = [decode(Upload, machines.clients[name].respond(invitation)) for name in machines.names]
    entries = tuple(
        RollEntry(
            client=upload.client,
            ciphertext_digest=upload.ciphertext_digest,
            shares_digest=shares_digest(upload.share_digests),
            signature=upload.signature,
        )
        for upload in uploads
    )
    header_digest = uploads[0].header_digest
    roll = Roll(header_digest=header_digest, entries=entries, total_digest=digest(b""), signature=bytes(64))
    request = encode(OpeningRequest(roll=roll, total=b""))
    with pytest.raises(PolicyRefusal, match="lists 4 clients; this round opens with at least 5"):
        machines.key_holder.open(machines.forged_roll(request, entries=entries[:4]))
    with pytest.raises(WireError):  # five get as far as the ciphertext
        machines.key_holder.open(machines.forged_roll(request))


def test_only_the_servers_signature_opens(build):
    machines = build()
    machines.collected(0)
    good = machines.server.close()
    for signer in ("client-0", "keeper"):
        with pytest.raises(SignatureError):
            machines.key_holder.open(machines.forged_roll(good, signer=signer))
    with pytest.raises(ProtocolError):
        machines.key_holder.open(machines.forged_roll(good, header_digest=bytes(32)))
    machines.server.release(machines.key_holder.open(good))


def test_signatures_of_an_earlier_round_do_not_serve(build):
    machines = build()
    machines.collected(0)
    earlier = machines.server.close()
    machines.server.release(machines.key_holder.open(earlier))
    machines.collected(1)
    later = machines.server.close()
    with pytest.raises(SignatureError):
        machines.key_holder.open(machines.forged_roll(later, entries=entries_of(earlier)))
    machines.server.release(machines.key_holder.open(later))


def test_a_second_roll_of_the_same_round_is_refused_and_the_same_one_gets_the_same_bytes(build):
    machines = build()
    machines.collected(0)
    request = machines.server.close()
    opening = machines.key_holder.open(request)
    assert machines.key_holder.open(request) == opening
    message = decode(OpeningRequest, request)
    for changes in (
        {"entries": message.roll.entries[:3]},
        {"total": message.total + b"\0"},
        {"total": b""},
    ):
        with pytest.raises(ProtocolError, match="another roll of round 0"):
            machines.key_holder.open(machines.forged_roll(request, **changes))
    assert machines.key_holder.open(request) == opening


def test_another_total_than_the_one_under_the_servers_signature_is_not_opened_and_the_signed_one_is(build):
    machines = build()
    invitation = machines.collected(0)
    request = machines.server.close()
    message = decode(OpeningRequest, request)
    # A ciphertext that the round's key would open to one client's numbers.
    single = machines.scheme.encrypt(
        machines.scheme.load_public_key(decode(Invitation, invitation).round_key[0].public_key),
        np.ones(6, dtype=np.int64),
    )
    for total in (single, b"", message.total + b"\0"):
        with pytest.raises(ProtocolError, match="not the one that the server signed"):
            machines.key_holder.open(encode(replace(message, total=total)))
    with pytest.raises(SignatureError):
        machines.key_holder.open(
            encode(OpeningRequest(roll=replace(message.roll, total_digest=digest(single)), total=single))
        )
    machines.server.release(machines.key_holder.open(request))


def test_after_a_restart_the_record_gives_the_same_bytes_and_no_second_opening(build, tmp_path):
    path = tmp_path / "record.sqlite"
    machines = build()
    machines.record = OpeningRecord(path, new=True)
    machines.key_holder = machines.new_key_holder()
    machines.collected(0)
    request = machines.server.close()
    opening = machines.key_holder.open(request)
    machines.record.close()

    machines.record = OpeningRecord(path)
    restarted = machines.new_key_holder()
    assert restarted.open(request) == opening
    with pytest.raises(ProtocolError, match="another roll of round 0"):
        restarted.open(machines.forged_roll(request, entries=entries_of(request)[:3]))
    machines.server.release(opening)
    machines.key_holder = restarted
    machines.collected(1)
    machines.finish()
    with pytest.raises(ProtocolError, match="no round with this header"):
        restarted.open(request)  # a record keeps the newest round of a run


def test_after_a_restart_between_key_and_roll_nothing_opens_and_the_charge_stays(build, tmp_path):
    path = tmp_path / "record.sqlite"
    machines = build()
    machines.record = OpeningRecord(path, new=True)
    machines.key_holder = machines.new_key_holder()
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    invitation = machines.server.invite(machines.key_holder.issue_key(announcement))
    for name in machines.names:
        machines.server.receive(machines.clients[name].respond(invitation))
    machines.record.close()
    machines.record = OpeningRecord(path)
    machines.key_holder = machines.new_key_holder()
    request = machines.server.close()
    with pytest.raises(ProtocolError, match="no round with this header"):
        machines.key_holder.open(request)
    with pytest.raises(ProtocolError, match="round_number is 0"):
        machines.key_holder.issue_key(announcement)
    machines.server.forfeit()
    assert machines.ledger.event_counts("original", "client-0", Subject.FORGOTTEN, Phase.BOTH).total() == 1
    machines.collected(1)
    machines.finish()


def test_a_crash_between_choosing_and_answering_opens_nothing(build, tmp_path):
    path = tmp_path / "record.sqlite"
    machines = build()
    machines.record = OpeningRecord(path, new=True)
    machines.key_holder = machines.new_key_holder()
    machines.collected(0)
    request = machines.server.close()
    chosen = []

    class Crashes(OpeningRecord):
        def finish(self, run_id, round_number, opening):
            chosen.append(opening)
            raise KeyboardInterrupt

    machines.record.close()
    machines.record = Crashes(path)
    machines.key_holder._record = machines.record
    with pytest.raises(KeyboardInterrupt):
        machines.key_holder.open(request)
    assert chosen
    machines.record.close()
    machines.record = OpeningRecord(path)
    for key_holder in (machines.key_holder, machines.new_key_holder()):
        key_holder._record = machines.record
        with pytest.raises(ProtocolError, match="no round with this header"):
            key_holder.open(request)
        with pytest.raises(ProtocolError, match="another roll"):
            key_holder.open(machines.forged_roll(request, entries=entries_of(request)[:3]))


def test_round_numbers_only_grow(build):
    machines = build()
    old = machines.server.announce(machines.request(), machines.names, 4)
    machines.key_holder.issue_key(old)
    with pytest.raises(ProtocolError, match="round_number is 4"):
        machines.key_holder.issue_key(old)
    with pytest.raises(ProtocolError, match="round_number is 3"):
        machines.key_holder.issue_key(machines.forged_announcement(old, round_number=3))
    with pytest.raises(ProtocolError, match="round_number is 4"):
        machines.key_holder.issue_key(machines.forged_announcement(old, purpose="train"))
    machines.key_holder.issue_key(machines.forged_announcement(old, round_number=3, run_id=bytes(16)))
    machines.key_holder.issue_key(machines.forged_announcement(old, round_number=5))


def test_the_old_key_is_dropped_when_a_new_round_of_the_run_begins(build):
    machines = build()
    invitation = machines.collected(0)
    request = machines.server.close()
    machines.server.forfeit()
    machines.collected(1)
    with pytest.raises(ProtocolError, match="no round with this header"):
        machines.key_holder.open(request)
    machines.finish()
    assert invitation


def out_of_range(machines, invitation):
    """One client's upload reaches beyond any honest sum."""
    bound = largest_sum_of(header_of(invitation), 4)
    values = np.zeros(machines.length, dtype=np.int64)
    values[-1] = -2 * bound
    return machines.forged_upload(invitation, "client-3", values)


@pytest.mark.parametrize("scheme_name", ["bfv", "plain"])
def test_a_sum_out_of_range_is_not_released_and_stays_charged(build, scheme_name):
    machines = build(scheme_name=scheme_name)
    invitation = machines.invited(0)
    for name in machines.names[:3]:
        machines.server.receive(machines.clients[name].respond(invitation))
    machines.server.receive(out_of_range(machines, invitation))
    request = machines.server.close()
    with pytest.raises(OpeningError):
        machines.key_holder.open(request)
    with pytest.raises(ProtocolError):
        machines.key_holder.open(request)  # the key is gone
    machines.server.forfeit()
    assert machines.transcript.head == bytes(32)
    for name in machines.names:
        assert machines.ledger.event_counts("original", name, Subject.RETAINED, Phase.BOTH).total() == 1
    machines.collected(1)
    machines.finish()


class OutOfRange(StandIn):
    """A client whose upload reaches beyond any honest sum, in rounds below a number."""

    def __init__(self, machines, until):
        self._machines, self._until = machines, until

    def respond(self, invitation):
        if header_of(invitation).round_number < self._until:
            return out_of_range(self._machines, invitation)
        return self._machines.clients["client-3"].respond(invitation)


def test_the_driver_ends_a_round_out_of_range_without_release_and_goes_on(build):
    machines = build()
    sums = machines.sums(clients={**machines.clients, "client-3": OutOfRange(machines, 1)})
    with pytest.raises(RoundAborted, match="round 0"):
        sums.secure_sum(machines.request())
    assert sums.traffic == []
    assert sums.secure_sum(machines.request()).round_number == 1
    assert [event.status.value for event in machines.ledger.events()] == ["committed", "committed"]


def test_an_honest_sum_at_its_largest_still_opens(build):
    # Everybody saturates every coordinate: the range check must not refuse what an honest sum can be.
    machines = build(clients=6, contributions=lambda number: np.full(6, 1e9))
    invitation = machines.collected(0)
    released = machines.finish()
    header = header_of(invitation)
    noise = sum(machines.noise(name, header) for name in machines.names)
    assert np.array_equal(released.values, (6 * round(2.0 / header.grid_step) + noise) * header.grid_step)


@pytest.mark.parametrize("total", [b"", b"garbage", None])
def test_a_total_that_is_no_ciphertext_uses_the_round_up(build, total):
    machines = build()
    machines.collected(0)
    request = machines.server.close()
    if total is None:
        total = machines.scheme.encrypt(
            machines.scheme.load_public_key(machines.scheme.generate_key().public_bytes), np.zeros(6, dtype=np.int64)
        )
    with pytest.raises((WireError, CiphertextError)):
        machines.key_holder.open(machines.forged_roll(request, total=total))
    with pytest.raises(ProtocolError):
        machines.key_holder.open(request)


def test_a_foreign_announcement_gets_no_key(build):
    machines = build()
    announcement = decode(Announcement, machines.server.announce(machines.request(), machines.names, 0))
    for name in ("client-0", "keeper"):
        signature = machines.identities[name].sign("header", announcement.header)
        with pytest.raises(SignatureError):
            machines.key_holder.issue_key(encode(replace(announcement, signature=signature)))
    wrong_domain = machines.identities["server"].sign("roll", announcement.header)
    with pytest.raises(SignatureError):
        machines.key_holder.issue_key(encode(replace(announcement, signature=wrong_domain)))
    machines.key_holder.issue_key(encode(announcement))


def test_an_opening_holds_the_sum_and_nothing_else(build):
    machines = build(contributions=lambda number: np.full(6, 0.25))
    invitation = machines.collected(0)
    opening = decode(Opening, machines.key_holder.open(machines.server.close()))
    header = header_of(invitation)
    noise = sum(machines.noise(name, header) for name in machines.names)
    assert np.array_equal(np.frombuffer(opening.values, dtype="<i8"), noise + 4 * round(0.25 / header.grid_step))
    assert len(encode(opening)) < 8 * 6 + 200


def test_every_refusal_here_is_one_of_the_packages(build):
    machines = build()
    for call in (machines.key_holder.issue_key, machines.key_holder.open):
        for message in (b"", b"SFU", bytes(1000)):
            with pytest.raises(SecureFUError):
                call(message)
