"""What a federation of one process is asked for, and what a server of other machines is: no more than it can do."""

from __future__ import annotations

import inspect

import pytest
from small_federations import REQUESTS, federation

from secure_fu.deployment.server import FederationServer
from secure_fu.federation import Coordinator, Federation
from secure_fu.privacy import Unit
from secure_fu.unlearning import FineTune

REQUEST = REQUESTS[Unit.RECORD]


def test_whether_a_request_was_chosen_late_is_always_said():
    """The stronger claim is no default."""
    for member in (
        Federation.unlearn,
        Federation.delete,
        Federation.cost,
        Federation.deletion,
        FederationServer.delete,
    ):
        parameter = inspect.signature(member).parameters["adaptive"]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is inspect.Parameter.empty
    with federation() as made:
        made.train()
        for attempt in (made.unlearn, made.delete, made.cost):
            with pytest.raises(TypeError, match="adaptive"):
                attempt(REQUEST, FineTune(length=1))
        with pytest.raises(TypeError, match="adaptive"):
            made.deletion(REQUEST)


def test_a_server_tries_nothing_out_and_says_what_is_durable_of_a_deletion():
    assert not hasattr(FederationServer, "unlearn")
    for name in ("unlearn", "delete"):
        assert not hasattr(Coordinator, name), "each front door has its own"
    returned = {kind: inspect.signature(kind.delete).return_annotation for kind in (Federation, FederationServer)}
    assert returned == {Federation: "Unlearned", FederationServer: "Execution"}
