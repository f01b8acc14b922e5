"""Messages cut, lengthened or flipped anywhere raise the package's errors and leave everybody's state as it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import header_of

from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import SecureFUError
from secure_fu.protocol.key_holder.messages import OpeningRequest

EXAMPLES = 150


@st.composite
def mangled(draw, message):
    """Another byte string than `message`: flipped bits, a piece left out, put in, overwritten, or moved."""
    kind = draw(st.sampled_from(["flip", "flip near the start", "cut", "drop", "insert", "overwrite", "swap"]))
    size = len(message)
    if kind.startswith("flip"):
        bound = size if kind == "flip" else min(size, 400)
        position = draw(st.integers(0, bound - 1))
        changed = bytearray(message)
        changed[position] ^= 1 << draw(st.integers(0, 7))
        return bytes(changed)
    if kind == "cut":
        return message[: draw(st.integers(0, size - 1))]
    start = draw(st.integers(0, size - 1))
    length = draw(st.integers(1, 40))
    piece = draw(st.binary(min_size=1, max_size=40))
    changed = {
        "drop": message[:start] + message[start + length :],
        "insert": message[:start] + piece + message[start:],
        "overwrite": message[:start] + piece + message[start + len(piece) :],
        "swap": message[start:] + message[:start],
    }[kind]
    return changed if changed != message else message + b"\0"


def refuses_whatever_is_mangled(call, message):
    @settings(max_examples=EXAMPLES)
    @given(mangled(message))
    def check(bad):
        with pytest.raises(SecureFUError):
            call(bad)

    check()


def test_a_mangled_announcement_gets_no_key(build):
    machines = build()
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    refuses_whatever_is_mangled(machines.key_holder.issue_key, announcement)
    machines.server.invite(machines.key_holder.issue_key(announcement))


def test_a_mangled_round_key_starts_no_collection(build):
    machines = build()
    round_key = machines.key_holder.issue_key(machines.server.announce(machines.request(), machines.names, 0))
    refuses_whatever_is_mangled(machines.server.invite, round_key)
    invitation = machines.server.invite(round_key)
    for name in machines.names:
        machines.server.receive(machines.clients[name].respond(invitation))
    machines.finish()


def test_a_mangled_invitation_gets_no_upload_and_draws_nothing(build):
    machines = build()
    invitation = machines.invited(0)
    refuses_whatever_is_mangled(machines.clients["client-0"].respond, invitation)
    assert machines.tape.streams == []
    assert machines.tasks["client-0"].terms == []
    assert machines.client_record.rounds("client-0") == 0
    for name in machines.names:
        machines.server.receive(machines.clients[name].respond(invitation))
    machines.finish()


def test_a_mangled_upload_is_not_in_the_sum(build):
    machines = build(contributions=lambda number: np.full(6, number / 4.0))
    invitation = machines.invited(0)
    uploads = {name: machines.clients[name].respond(invitation) for name in machines.names}
    refuses_whatever_is_mangled(machines.server.receive, uploads["client-0"])
    machines.server.receive(uploads["client-1"])
    refuses_whatever_is_mangled(machines.server.receive, uploads["client-0"])
    for name in ("client-0", "client-2", "client-3"):
        machines.server.receive(uploads[name])
    released = machines.finish()
    header = header_of(invitation)
    noise = sum(machines.noise(name, header) for name in machines.names)
    assert np.array_equal(released.values, (noise + round(1.5 / header.grid_step)) * header.grid_step)


def test_a_mangled_opening_request_is_not_opened(build):
    machines = build()
    machines.collected(0)
    request = machines.server.close()
    refuses_whatever_is_mangled(machines.key_holder.open, request)
    opening = machines.key_holder.open(request)
    refuses_whatever_is_mangled(machines.key_holder.open, request)
    assert machines.key_holder.open(request) == opening
    machines.server.release(opening)


def test_a_mangled_opening_releases_nothing(build):
    machines = build()
    machines.collected(0)
    opening = machines.key_holder.open(machines.server.close())
    head = machines.transcript.head
    refuses_whatever_is_mangled(machines.server.release, opening)
    assert machines.transcript.head == head
    assert len(machines.ledger.pending()) == 1
    machines.server.release(opening)


def test_anybody_refuses_every_message_that_is_not_for_them(build):
    machines = build()
    announcement = machines.server.announce(machines.request(), machines.names, 0)
    round_key = machines.key_holder.issue_key(announcement)
    invitation = machines.server.invite(round_key)
    uploads = {name: machines.clients[name].respond(invitation) for name in machines.names}
    messages = {"announcement": announcement, "round key": round_key, "invitation": invitation}
    messages["upload"] = uploads["client-0"]

    def refused_by(call, *but):
        for kind, message in messages.items():
            if kind not in but:
                with pytest.raises(SecureFUError):
                    call(message)

    refused_by(machines.server.receive, "upload")
    refused_by(machines.clients["client-1"].respond)  # the true invitation is answered already
    refused_by(machines.key_holder.open)
    for upload in uploads.values():
        machines.server.receive(upload)
    messages["opening request"] = machines.server.close()
    messages["roll"] = encode(decode(OpeningRequest, messages["opening request"]).roll)
    refused_by(machines.server.release)
    refused_by(machines.key_holder.issue_key)
    messages["opening"] = machines.key_holder.open(messages["opening request"])
    refused_by(machines.server.release, "opening")
    refused_by(machines.key_holder.open, "opening request")
    machines.server.release(messages["opening"])
