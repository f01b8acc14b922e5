"""What an operator asks for at the node's own machine is checked there, as far as it can be told there."""

from __future__ import annotations

import io
import json
import logging

import numpy as np
import pytest
from operations_cast import Operated
from small_federations import silos

from secure_fu.cli.node import node
from secure_fu.cli.request import request
from secure_fu.crypto.identity_file import read_identities
from secure_fu.deletion import DeletionRequest, sign_request
from secure_fu.deployment.logs import log_to
from secure_fu.deployment.node.orders import mark_order
from secure_fu.deployment.node.state import records_noted
from secure_fu.errors import ArgumentError
from secure_fu.privacy import Unit


@pytest.fixture
def operated(tmp_path):
    made = Operated(tmp_path)
    yield made
    made.stop()


def leave(operated, what):
    node(operated.root / "silo-1", socket=None, group=None, new=False, forget=what, client=None)
    return len(list((operated.root / "silo-1" / "requests").glob("*.request")))


def test_what_no_window_serves_is_refused_at_once(operated):
    assert leave(operated, "records:1,2") == 1
    with pytest.raises(ArgumentError, match=r"which is 2 in deletion\.toml, and this has 3 units") as raised:
        leave(operated, "records:1,2,3")
    assert "1,2,3" not in str(raised.value)
    path = operated.root / "silo-1" / "deletion.toml"
    path.write_text(
        path.read_text().replace("hidden_units = 2", "hidden_units = 0").replace("cover = true", "cover = false")
    )
    for what in ("records:1", "client", "class:1"):
        with pytest.raises(ArgumentError, match=r"hidden_units, which is 0 in deletion\.toml"):
            leave(operated, what)
    assert len(list((operated.root / "silo-1" / "requests").iterdir())) == 1


def sign(operated, records):
    folder = operated.root / "silo-1"
    request(
        [],
        identity=folder / "keys.bin",
        as_=None,
        roster=folder / "roster.bin",
        client=False,
        records=records,
        person=None,
        class_=None,
        at=None,
        units=None,
        deadline="2999-12-31" if records is None else None,
        disclose=False,
        out=operated.root / "request.bin",
        json_=False,
    )


def test_positions_that_the_client_has_not_are_refused(operated):
    folder = operated.root / "silo-1"
    assert records_noted(folder, "silo-1") is None, "no node was made yet"
    operated.start(new=True)
    count = len(silos()["silo-1"])
    assert records_noted(folder, "silo-1") == count
    with pytest.raises(ArgumentError, match="--deadline"):  # the positions will do
        sign(operated, f"0,{count - 1}")
    with pytest.raises(ArgumentError, match=rf"--records is {count}; expected positions from 0 to {count - 1}"):
        sign(operated, f"0,{count}")
    with pytest.raises(ArgumentError, match="--forget") as raised:
        leave(operated, f"records:{count}")
    assert f"0 to {count - 1}" in str(raised.value)


def test_the_log_says_which_request_is_left_undone_and_why_in_words(operated):
    identity = read_identities(operated.root / "silo-1" / "keys.bin")["silo-1"]
    brought = silos()["silo-1"]

    def signed(wanted, units):
        return sign_request(
            identity, wanted, roster=operated.roster, units=units, submitted=1_700_000_000, deadline=1_800_000_000
        )

    beyond = signed(DeletionRequest.some_records("silo-1", (0, 98765)), 2)
    many = signed(DeletionRequest.some_records("silo-1", (0, 1)), 1)
    logger, stream = logging.getLogger("secure_fu"), io.StringIO()
    before, handler = (logger.level, logger.propagate), log_to(stream, strict=True)
    try:
        marked = mark_order(
            [beyond, many],
            identity,
            private=(),
            hidden_units=0,
            brought=brought,
            gone=np.zeros(len(brought), dtype=np.bool_),
            unit=Unit.RECORD,
        )
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
    assert marked.undone == (beyond.request_id, many.request_id)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["client"], line["request"], line["reason"]) for line in lines] == [
        (
            "request-left-undone",
            "silo-1",
            beyond.request_id.hex(),
            "it names a record that this client has not; tell who asked",
        ),
        (
            "request-left-undone",
            "silo-1",
            many.request_id.hex(),
            "it covers more units than it declares; tell who asked",
        ),
    ]
    assert "98765" not in stream.getvalue()
