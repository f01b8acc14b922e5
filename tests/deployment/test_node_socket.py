"""A node's socket: its mode, what is malformed, huge or cut short, stale sockets, and the command that serves it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from node_cast import CLIENTS, KEEPER, hello, make_cast
from waiting import wait_until

from secure_fu.crypto.wire import decode, encode
from secure_fu.deletion import DeletionPolicy, DeletionRequest
from secure_fu.deployment.exchange import ask, check_socket, node_socket, serve, socket_path
from secure_fu.deployment.exchange.messages import HelloAnswer, Kind, NodeReply, NodeRequest, Outcome
from secure_fu.deployment.logs import JsonLines
from secure_fu.deployment.node import Node
from secure_fu.errors import ArgumentError, ProtocolError, RecordError

CLIENT = CLIENTS[0]


class Echo:
    """Answers with what it was asked, backwards."""

    def __init__(self):
        self.asked = []

    def handle(self, request):
        self.asked.append(request)
        return request[::-1]


def ended():
    """What serves until then ends at once, where it should have refused."""
    stop = threading.Event()
    stop.set()
    return stop


@contextlib.contextmanager
def serving(path, handler, **arguments):
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(handler, path), kwargs={"stop": stop, **arguments})
    thread.start()
    try:
        wait_for(path)
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def wait_for(path, seconds=60.0):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens at {path}")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s"


@pytest.fixture
def handler():
    return Echo()


def test_requests_of_any_size_come_and_go(path, handler):
    with serving(path, handler):
        for request in (b"a", b"abc" * 5, os.urandom(3_000_001), b""):
            assert ask(path, request, 30.0) == request[::-1]
    assert len(handler.asked) == 4


def test_only_its_own_user_reaches_the_socket_and_it_goes_with_the_server(path, handler):
    before = os.umask(0)
    try:
        with serving(path, handler):
            mode = path.lstat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
            assert os.umask(0) == 0  # the process goes on with its own
    finally:
        os.umask(before)
    assert not path.exists()


def test_a_group_may_be_let_in(path, handler):
    with serving(path, handler, group=os.getgid()):
        found = path.lstat()
        assert stat.S_IMODE(found.st_mode) == 0o660
        assert found.st_gid == os.getgid()


@pytest.mark.parametrize("group", [None, os.getgid()])
def test_the_socket_is_private_from_its_first_moment(path, handler, monkeypatch, group):
    """Its mode comes with its name; without the mask there would be a moment for others, and it is refused."""
    seen = []
    real = os.umask

    def masked(mask):
        unready = path.with_name(f".{path.name}")
        if unready.exists():
            seen.append(stat.S_IMODE(unready.lstat().st_mode))
        return real(mask)

    mode = 0o600 if group is None else 0o660
    monkeypatch.setattr(node_socket.os, "umask", masked)
    monkeypatch.setattr(node_socket.Path, "chmod", lambda *_: pytest.fail("by name, which may lead elsewhere"))
    with serving(path, handler, group=group):
        assert stat.S_IMODE(path.lstat().st_mode) == mode
    assert seen == [mode]
    before = real(0)
    try:
        monkeypatch.setattr(node_socket, "_only", lambda _: contextlib.nullcontext())
        with pytest.raises(ArgumentError, match=f"a socket of mode {mode:o}"):
            serve(handler, path, stop=ended(), group=group)
    finally:
        real(before)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_a_folder_that_others_can_write_is_refused(tmp_path, handler, mode):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ArgumentError, match=rf"nobody else can write; it has mode {mode:o}"):
        serve(handler, folder / "s", stop=ended())
    assert list(folder.iterdir()) == []
    folder.chmod(0o750)
    with serving(folder / "s", handler):
        assert ask(folder / "s", b"ab", 20.0) == b"ba"


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives folders away")
def test_somebody_elses_folder_is_refused(tmp_path, handler):
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 65534, -1)
    with pytest.raises(ArgumentError, match="this user's or the superuser's"):
        serve(handler, folder / "s", stop=ended())


def test_a_link_in_the_sockets_place_is_not_followed(path, handler, monkeypatch):
    """Planted right after the socket was made: what it leads to keeps its mode and its group."""
    secret = path.with_name("secret")
    secret.write_bytes(b"x")
    secret.chmod(0o640)
    real, changed = os.chown, []

    def planted(where, *arguments, **named):
        where.unlink()
        where.symlink_to(secret)
        changed.append(named)
        real(where, *arguments, **named)

    monkeypatch.setattr(os, "chown", planted)
    with pytest.raises(ArgumentError, match="stays as it is made"):
        serve(handler, path, stop=ended(), group=os.getgid())
    assert changed == [{"follow_symlinks": False}]
    assert stat.S_IMODE(secret.stat().st_mode) == 0o640
    assert list(path.parent.iterdir()) == [secret]


def test_whoever_finds_the_path_can_ask(path, handler, monkeypatch):
    """It comes with the listening, not before: a node that is starting is no node that is silent."""
    real, found = os.chown, []

    def looked(where, *arguments, **named):
        found.append(path.exists())
        real(where, *arguments, **named)

    monkeypatch.setattr(os, "chown", looked)
    with serving(path, handler, group=os.getgid()):
        assert ask(path, b"ab", 20.0) == b"ba"
    assert found == [False]
    assert list(path.parent.iterdir()) == []


LINUX = pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the system does not say who asks")


@LINUX
def test_a_peer_that_may_read_the_keys_is_warned_of_once(path, handler, caplog):
    with caplog.at_level("WARNING", logger="secure_fu"), serving(path, handler):
        for _ in range(3):
            assert ask(path, b"ab", 20.0) == b"ba"
    (warning,) = caplog.records
    assert warning.secure_fu_event == "peer-may-read-the-keys"
    assert "--socket-group" in JsonLines(io.StringIO(), strict=True).format(warning)


ASKS = r"""
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(65534)
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(20)
peer.connect(sys.argv[1])
peer.sendall(b"\0\0\0\2ab")
peer.shutdown(socket.SHUT_WR)
assert peer.makefile("rb").read() == b"\0\0\0\2ba"
"""


@LINUX
@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser takes another user's place")
def test_another_user_of_the_group_gets_in_without_a_warning_and_one_of_no_group_does_not(handler, caplog):
    group, stranger = 65533, 65532
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="s-") as folder:  # pytest's own let nobody else in
        path = Path(folder) / "s"
        os.chown(folder, 0, group)
        path.parent.chmod(0o750)
        as_other = [sys.executable, "-I", "-S", "-c", ASKS, str(path)]
        with caplog.at_level("WARNING", logger="secure_fu"):
            stop = threading.Event()
            thread = threading.Thread(target=serve, args=(handler, path), kwargs={"stop": stop, "group": group})
            thread.start()
            try:
                wait_until(path.exists, "the node listens")
                let_in = subprocess.run([*as_other, str(group)], capture_output=True, text=True, check=False)
                path.parent.chmod(0o755)  # the socket's own mode keeps the stranger out
                kept_out = subprocess.run([*as_other, str(stranger)], capture_output=True, text=True, check=False)
            finally:
                stop.set()
                thread.join(20)
        assert let_in.returncode == 0, let_in.stderr
        assert "PermissionError" in kept_out.stderr
    assert handler.asked == [b"ab"]
    assert caplog.records == []


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00",
        b"\x00\x00\x01\x00" + b"x" * 255,
        b"\xff\xff\xff\xff" + b"x" * 100,
        (1025).to_bytes(4, "big") + b"x" * 1025,
    ],
    ids=["half a length", "cut short", "claims 4 GiB", "one byte too long"],
)
def test_what_is_no_message_gets_no_answer_and_the_next_one_does(path, handler, sent):
    with serving(path, handler, most_bytes=1024):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(20)
            peer.connect(str(path))
            with contextlib.suppress(OSError):  # the node may hang up in the middle
                peer.sendall(sent)
                peer.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                assert peer.recv(100) == b""
        assert handler.asked == []
        assert ask(path, b"x" * 1024, 20.0) == b"x" * 1024


def test_what_a_message_claims_is_not_allocated(path, handler):
    tracemalloc.start()
    try:
        with serving(path, handler), socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.sendall((1 << 30).to_bytes(4, "big") + b"x" * 1000)
            peer.shutdown(socket.SHUT_WR)
            peer.settimeout(20)
            assert peer.recv(1) == b""
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def test_a_peer_that_stalls_is_cut_off(path, handler):
    with serving(path, handler, patience=0.2), socket.socket(socket.AF_UNIX) as stalled:
        stalled.connect(str(path))
        stalled.sendall(b"\x00\x00")
        assert ask(path, b"ab", 60.0) == b"ba"
    assert handler.asked == [b"ab"]


def test_who_asks_is_told_that_nobody_answers(path, handler):
    with pytest.raises(ProtocolError, match="no node answers"):
        ask(path, b"", 1.0)
    with serving(path, handler, most_bytes=4), pytest.raises(ProtocolError, match=r"no node answers|without a reply"):
        ask(path, b"12345", 20.0)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(ProtocolError, match="no node answers"):
            ask(path, b"x", 0.1)


def test_stale_sockets_are_removed_and_other_files_are_not(path, handler):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with serving(path, handler):
        assert ask(path, b"ab", 20.0) == b"ba"
    hidden = path.with_name(f".{path.name}")
    hidden.write_text("something else")
    with pytest.raises(ArgumentError, match="nothing but a stale socket"):
        serve(handler, path, stop=ended())
    assert hidden.read_text() == "something else"
    hidden.unlink()
    path.write_text("something of somebody's")
    with pytest.raises(ArgumentError, match="nothing but a stale socket"):
        serve(handler, path, stop=ended())
    assert path.read_text() == "something of somebody's"
    with pytest.raises(ArgumentError, match="at most 97 bytes"):
        serve(handler, path.parent / ("x" * 100), stop=ended())
    with pytest.raises(ArgumentError, match="can be made"):
        serve(handler, path.parent / "no" / "such", stop=ended())


# The command


PROGRAM = [sys.executable, "-c", "import typer; from secure_fu.cli.node import node; typer.run(node)"]


def greeting(cast):
    return encode(NodeRequest(kind=Kind.HELLO, parties=(), bodies=(hello(cast),)))


def test_the_command_serves_until_it_is_told_to_end(tmp_path):
    cast = make_cast(tmp_path / "n", deletion=DeletionPolicy(window_start=0, window_seconds=60, hidden_units=2))
    folder = cast.folder(CLIENT)
    node = subprocess.Popen([*PROGRAM, str(folder), "--new"], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(socket_path(folder))
        reply = decode(NodeReply, ask(socket_path(folder), greeting(cast), 60.0))
        assert [answer.outcome for answer in reply.answers] == [Outcome.DONE]
        decode(HelloAnswer, reply.answers[0].body).check(cast.roster)
        left = subprocess.run([*PROGRAM, str(folder), "--forget", "records:2,5"], check=True, capture_output=True)
        assert b"Nobody else sees it" in left.stdout
        node.send_signal(signal.SIGTERM)
        _, said = node.communicate(timeout=60)
        assert node.returncode == 0, said
    finally:
        node.kill()
        node.wait()
    assert '"event": "node-serving"' in said
    assert not socket_path(folder).exists()
    with Node.open(folder) as again:
        (private,) = again.client(CLIENT).state.private
        assert private.request == DeletionRequest.some_records(CLIENT, (2, 5))


def test_a_node_that_cannot_listen_makes_no_records_and_can_be_made_after_that(tmp_path, capsys):
    from secure_fu.cli.node import node

    cast = make_cast(tmp_path / "n")
    folder = cast.folder(CLIENT)
    settings = {"group": None, "new": True, "forget": None, "client": None}
    with pytest.raises(ArgumentError, match=r"--socket is .*/nowhere/s'"):
        node(folder, socket=tmp_path / "nowhere" / "s", **settings)
    assert not list(folder.glob("*.sqlite"))
    assert "node-serving" not in capsys.readouterr().err
    Node.create(folder).close()
    with pytest.raises(ArgumentError, match=r"--new is .*the records are there already .*: start without --new"):
        node(folder, socket=None, **settings)
    (record,) = folder.glob("*.sqlite")
    record.unlink()
    with pytest.raises(RecordError, match="with --new"):
        Node.open(folder)


def test_trying_a_path_leaves_what_is_there(path, handler):
    check_socket(path)
    assert not list(path.parent.iterdir())
    with serving(path, handler):
        check_socket(path)  # somebody listens there: whether it may is for the records to say
        assert ask(path, b"abc", 30.0) == b"cba"
    path.write_text("mine")
    with pytest.raises(ArgumentError, match="nothing but a stale socket"):
        check_socket(path)
    assert path.read_text() == "mine"


def test_what_the_command_is_given_is_checked():
    from secure_fu.cli.node import _request

    assert _request("client", "a") == DeletionRequest.whole_client("a")
    assert _request("person:Ada Lovelace", "a") == DeletionRequest.person("Ada Lovelace", client="a")
    assert _request("class:3", "a") == DeletionRequest.whole_class(3, "a")
    for bad in ("", "records:", "records:1,x", "records:1,1", "person:", "class:-1", "group:x", "client:b"):
        with pytest.raises(ArgumentError, match="--forget") as raised:
            _request(bad, "a")
        assert "1,x" not in str(raised.value)


@pytest.mark.parametrize("inside", [None, "node.sock", "deeper/../node.sock"])
def test_a_group_is_not_led_into_the_directory_with_the_keys(tmp_path, inside):
    import grp

    from secure_fu.cli.node import node

    group = grp.getgrgid(os.getgid()).gr_name
    path = None if inside is None else tmp_path / inside
    with pytest.raises(ArgumentError, match="outside the node's directory"):
        node(tmp_path, socket=path, group=group, new=False, forget=None, client=None)
    with pytest.raises(ArgumentError, match="a group of this machine"):
        node(tmp_path, socket=tmp_path.parent / "s", group="no-such-group", new=False, forget=None, client=None)


def test_the_key_holder_has_a_socket_too(tmp_path):
    cast = make_cast(tmp_path / "n")
    path = tmp_path / "s"
    with Node.create(cast.folder(KEEPER)) as node:
        answers = decode(NodeReply, node.handle(greeting(cast))).answers
        assert [answer.party for answer in answers] == [KEEPER]
    assert not path.exists()
