"""One process for all nodes of a folder, each of which answers at a socket of its own."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("flwr")

from clinics import CLINICS
from waiting import wait_until

from secure_fu.crypto.wire import decode, encode
from secure_fu.deployment.exchange import ask, socket_path
from secure_fu.deployment.exchange.messages import PROTOCOL, Hello, Kind, NodeReply, NodeRequest
from secure_fu.deployment.node import Node
from secure_fu.errors import ArgumentError, RecordError
from secure_fu.flower.node_host import serve_all


def test_all_nodes_of_a_folder_answer_from_one_process_each_at_its_own_socket(federation):
    folders = [federation / "nodes" / name for name in CLINICS]
    stop = threading.Event()
    host = threading.Thread(target=serve_all, args=(folders,), kwargs={"stop": stop})
    host.start()
    try:
        hello = Hello(nonce=bytes(32), roster_digest=bytes(32), protocol=PROTOCOL, software="any")
        request = encode(NodeRequest(kind=Kind.HELLO, parties=(), bodies=(encode(hello),)))
        for folder in folders:
            path = socket_path(folder)
            wait_until(lambda path=path: path.exists() or not host.is_alive(), f"{folder.name} listens")
            assert host.is_alive()
            answers = decode(NodeReply, ask(path, request, 30.0)).answers
            assert tuple(answer.party for answer in answers) == CLINICS[folder.name]
    finally:
        stop.set()
        host.join()
    assert not any(socket_path(folder).exists() for folder in folders)


def test_a_node_that_cannot_be_opened_ends_the_host(federation):
    folders = [federation / "nodes" / name for name in CLINICS]
    with Node.open(folders[1]), pytest.raises(RecordError):
        serve_all(folders, stop=threading.Event())
    with pytest.raises(ArgumentError, match="folders"):
        serve_all([], stop=threading.Event())
