"""`secure-fu request` and `pending`, and what `unlearn` says before it asks anybody; with bad input of every kind."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from secure_fu.cli import app as application
from secure_fu.cli import main, pending, request, unlearn
from secure_fu.cli.deletions import read_time, show_time
from secure_fu.crypto import Role, Roster, encode
from secure_fu.crypto.identity_file import make_identities
from secure_fu.deletion import DeletionPolicy, DeletionRequest, read_request, sign_request, write_deletion_policy
from secure_fu.deletion.queue import ServiceLock
from secure_fu.deployment import open_queue
from secure_fu.errors import ArgumentError

DAY = 24 * 3600


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The three commands, whether or not the command line has them already."""
    known = {command.name or command.callback.__name__ for command in application.registered_commands}
    for command in (request.request, pending.pending, unlearn.unlearn):
        if command.__name__ not in known:
            application.command()(command)


class Place:
    """A server's directory and clients' keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = folder / "server"
        self.server.mkdir()
        self.identities = make_identities(folder / "alder.bin", {"alder": Role.CLIENT})
        self.identities |= make_identities(folder / "birch.bin", {"birch": Role.CLIENT})
        self.identities |= make_identities(folder / "hub.bin", {"hub": Role.SERVER, "officer": Role.KEY_HOLDER})
        self.roster = Roster.of(identity.party for identity in self.identities.values())
        (self.server / "roster.bin").write_bytes(self.roster.encode())
        self.policy = DeletionPolicy(
            window_start=(int(time.time()) + DAY // 2) % DAY,  # half a day off, whenever the tests run
            window_seconds=DAY,
            minimum_batch=2,
            class_signers=("officer",),
        )
        write_deletion_policy(self.policy, self.server / "deletion.toml")

    def signed(self, **changes):
        settings = {"units": 2, "submitted": int(read_time("x", "2026-01-01")), "deadline": self.soon(), **changes}
        wanted = DeletionRequest.some_records("alder", (1, 2))
        return sign_request(self.identities["alder"], wanted, roster=self.roster, **settings)

    def soon(self):
        return int(time.time()) + 40 * DAY

    def file(self, signed, name="request"):
        (self.folder / name).write_bytes(encode(signed))
        return self.folder / name


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line: exit code, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["secure-fu", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def later(days=40):
    return show_time(int(time.time()) + days * DAY)


def sign(run, place, *more, who="alder", deadline=None):
    keys = place.folder / f"{who}.bin"
    roster = place.server / "roster.bin"
    return run("request", "--identity", keys, "--roster", roster, "--deadline", deadline or later(), *more)


def test_sign_hand_in_look(run, place):
    code, out, err = sign(run, place, "--records", "1,5-7", "--out", "mine.bin", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    (mine,) = said["requests"]
    assert said["schema"] == "secure-fu/request/1"
    assert {key: mine[key] for key in ("signer", "scope", "client", "units", "disclose", "file")} == {
        **{"signer": "alder", "scope": "records", "client": "alder", "units": 4},
        **{"disclose": False, "file": "mine.bin"},
    }
    assert read_request(Path("mine.bin")).request_id.hex() == mine["request_id"]
    assert Path("mine.bin").stat().st_mode & 0o777 == 0o600

    code, out, _ = run("request", place.server, "mine.bin", "--json")
    (handed,) = json.loads(out)["requests"]
    assert (code, handed["state"], handed["new"]) == (0, "accepted", True)
    code, out, _ = run("request", place.server, "mine.bin")
    assert code == 0
    assert "it was there already" in out
    assert "0 of 1 requests are new" in out

    code, out, err = run("pending", place.server, "--json")
    said = json.loads(out)
    assert (code, err) == (0, "")
    assert set(said) == {
        *("schema", "now", "next_due", "clock_held", "minimum_batch", "states", "requests", "risks", "windows"),
        "skipped",
    }
    assert (said["states"], said["minimum_batch"]) == ({"accepted": 1}, 2)
    (entry,) = said["requests"]
    assert set(entry) == {
        *("request_id", "signer", "scope", "client", "units", "submitted", "deadline", "disclose", "state"),
        *("received", "flag", "window"),
    }
    assert entry["request_id"] == mine["request_id"]
    assert "1 more requests are needed" in said["risks"][0]["why"]


def test_sign_and_hand_in_at_once(run, place):
    keys = place.folder / "alder.bin"
    code, out, _ = run("request", place.server, "--identity", keys, "--records", "3", "--deadline", later())
    assert (code, "handed in" in out) == (0, True)
    assert not list(place.folder.glob("request-*"))
    code, out, _ = run("pending", place.server)
    assert (code, "alder" in out, "1 accepted" in out) == (0, True, True)


@pytest.mark.parametrize(
    ("options", "scope"),
    [
        (("--client", "--units", "10"), "client"),
        (("--person", "ann", "--person", "bob", "--units", "9"), "group"),
        (("--class", "3", "--units", "9", "--disclose"), "class"),
    ],
)
def test_scopes(run, place, options, scope):
    code, out, _ = sign(run, place, *options, "--out", "mine.bin", "--json")
    assert (code, json.loads(out)["requests"][0]["scope"]) == (0, scope)
    assert run("request", place.server, "mine.bin")[0] == 0


def test_a_class_signer_asks_everywhere(run, place):
    arguments = ("--as", "officer", "--class", "3", "--at", "everywhere", "--units", "9", "--json")
    code, out, _ = sign(run, place, *arguments, who="hub")
    (mine,) = json.loads(out)["requests"]
    assert (code, mine["client"]) == (0, None)
    assert [box.client for box in read_request(Path(mine["file"])).boxes] == ["alder", "birch"]
    assert run("request", place.server, mine["file"])[0] == 0


def test_the_only_client_of_a_node_asks_and_of_several_one_has_to_be_named(run, place):
    make_identities(place.folder / "node.bin", {"elder": Role.CLIENT, "m-1": Role.MEMBER, "m-2": Role.MEMBER})
    _, _, err = sign(run, place, "--records", "1", who="node")
    assert "'elder' is not in the roster" in err  # it was found, and is a stranger
    make_identities(place.folder / "two.bin", {"elder": Role.CLIENT, "elm": Role.CLIENT, "m-1": Role.MEMBER})
    code, _, err = sign(run, place, "--records", "1", who="two")
    assert (code, "--as is None; expected one of elder, elm" in err) == (2, True)
    assert "several clients" in err
    code, _, err = sign(run, place, "--records", "1", who="hub")
    assert (code, "--as is None; expected one of the parties" in err) == (2, True)


def test_a_deadline_that_the_pinned_policy_refuses_is_refused_before_signing(run, place):
    code, out, err = sign(run, place, "--records", "1", deadline="2099-12-31")
    assert (code, out) == (2, "")
    assert "--deadline is '2099-12-31'; expected 2" in err
    assert "largest_wait_seconds = 31622400, 366 days" in err
    assert not list(place.folder.glob("request-*"))
    Path("roster.bin").write_bytes(place.roster.encode())  # with no policy beside it the server alone can tell
    assert sign(run, place, "--records", "1", "--roster", "roster.bin", deadline="2099-12-31")[0] == 0
    Path("deletion.toml").write_text("window_start = 0")
    code, _, err = sign(run, place, "--records", "1", "--roster", "roster.bin")
    assert (code, "--roster is '.'; expected one with a deletion policy" in err) == (2, True)


def test_the_server_refuses_a_deadline_in_dates(run, place):
    expired = place.signed(submitted=read_time("x", "2020-01-01"), deadline=read_time("x", "2020-12-31"))
    _, _, err = run("request", place.server, place.file(expired))
    assert "its deadline, 2020-12-31T23:59:59Z, has passed; it is 20" in err
    _, _, err = run("request", place.server, place.file(place.signed(deadline=read_time("x", "2099-12-31"))))
    assert "its deadline, 2099-12-31T23:59:59Z, is over 31622400 s off" in err


def test_the_table_fits_eighty_columns_and_says_what_is_late(run, place, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    soon = int(time.time()) + 3600
    client, officer = place.identities["alder"], place.identities["officer"]
    for identity, wanted in (
        (client, DeletionRequest.some_records("alder", (1,))),
        (officer, DeletionRequest.whole_class(1, "birch")),
    ):
        signed = sign_request(identity, wanted, roster=place.roster, units=1, submitted=soon - 7200, deadline=soon)
        run("request", place.server, place.file(signed))
        with open_queue(place.server) as queue:
            ids = [entry.request_id for entry in queue.entries()]
            queue.flag([(one, "overdue", "no window meets it") for one in ids], int(time.time()))
        _, out, _ = run("pending", place.server)
        lines = out.splitlines()
        rows = [line for line in lines if "will miss" in line]
        assert len(rows) == len(ids)
        assert all(identity.name in line for line in rows[-1:])
        assert max(map(len, lines[: len(ids) + 2])) <= 80
        assert f"WILL BE MISSED: {ids[0].hex()[:8]}" in out
        assert "OVERDUE" not in out
    monkeypatch.setattr(time, "time", lambda: soon + 10.0)
    _, out, _ = run("pending", place.server)
    assert out.count("OVERDUE: ") == 2
    assert "will miss" not in out


def test_history_of_one(run, place):
    signed = place.signed()
    run("request", place.server, place.file(signed))
    code, out, _ = run("pending", place.server, "--request", signed.request_id.hex()[:6], "--json")
    said = json.loads(out)
    assert (code, [change["state"] for change in said["history"]]) == (0, ["received", "accepted"])
    code, out, _ = run("pending", place.server, "--request", signed.request_id.hex()[:6])
    assert re.search(r"accepted +signature, authority and times hold", out)
    assert run("pending", place.server, "--request", "ffff")[0] == 2


def test_a_pipe_gets_no_colours_and_a_long_list_is_cut(run, place):
    files = [place.file(place.signed(), f"r{number}") for number in range(5)]
    run("request", place.server, *files)
    code, out, err = run("pending", place.server, "--limit", "2")
    assert (code, err, "\x1b" in out) == (0, "", False)
    assert "3 more with later deadlines" in out
    assert len(json.loads(run("pending", place.server, "--limit", "2", "--json")[1])["requests"]) == 5


BAD_SIGNING = [
    ((), "one of --client, --records, --person, --class"),
    (("--client", "--class", "1"), "--class is 'beside --client'; expected one of --client, --records"),
    (("--client",), "--units is None"),
    (("--class", "-1", "--units", "1"), "--class is -1"),
    (("--records", "1,x"), "--records is 'x'"),
    (("--records", "7-3"), "--records is '7-3'"),
    (("--records", "0-9999999"), "10000000 positions and more'; expected at most 1000000"),
    (("--records", "1,1"), "secure-fu: --records is '2 values, 1 of them distinct'; expected no repeats"),
    (("--records", "a"), "secure-fu: --records is 'a'"),
    (("--records", "@nowhere"), "No such file"),
    (("--records", "1", "--at", "elm"), "--at is 'elm'; expected a client of the roster"),
    (("--records", "1", "--at", "everywhere"), "a client, for --client and --records"),
    (("--records", "1", "--as", "birch"), "--as is 'birch'; expected one of the parties"),
    (("--records", "1", "--deadline", "soon"), "--deadline is 'soon'"),
    (("--records", "1", "--deadline", "2020-01-01"), "--deadline is '2020-01-01'; expected later than now, 2"),
    (("--records", "1", "--deadline", "2026-12-31T10:00"), "a time with its zone"),
    (("--records", "1", "--out", "nowhere/x"), "No such file"),
    (("--records", "1", "--out", "alder.bin"), "a new file"),
    (("--records", "1", "--roster", "alder.bin"), "--roster is 'alder.bin'"),
    (("--records", "1", "--roster", "nowhere"), "can be read"),
    (("--records", "1", "--identity", "nowhere"), "--identity is 'nowhere'"),
    (("--records", "1", "--identity", "server/roster.bin"), "--identity is"),
]


@pytest.mark.parametrize(("options", "match"), BAD_SIGNING)
def test_bad_input_to_signing(run, place, options, match):
    (place.server / "roster.bin").chmod(0o600)
    before = sorted(place.folder.iterdir())
    code, out, err = sign(run, place, *options)
    assert code == 2, (out, err)
    assert match in err
    assert "Traceback" not in err
    assert out == ""
    assert sorted(place.folder.iterdir()) == before


def test_a_huge_list_of_records(run, place):
    with Path("list").open("wb") as file:
        file.truncate(3 << 30)
    code, _, err = sign(run, place, "--records", "@list")
    assert (code, "at most 16777216 bytes" in err) == (2, True)
    Path("list").write_text("1\n2, 3\n5-6\n")
    code, out, _ = sign(run, place, "--records", "@list", "--json")
    assert (code, json.loads(out)["requests"][0]["units"]) == (0, 5)


def bad_files(place):
    good = place.signed()
    now = place.soon() - 40 * DAY
    yield "expired", place.file(place.signed(submitted=now - 9 * DAY, deadline=now - DAY), "1"), "has passed"
    yield "from the future", place.file(place.signed(submitted=now + DAY), "2"), "off by more than"
    yield "forged", place.file(replace(good, units=9), "3"), "not what 'alder' signed"
    yield "another's", place.file(replace(good, signer="birch"), "4"), "not what 'birch' signed"
    yield "unknown", place.file(replace(good, signer="elm"), "5"), "'elm' is not in the roster"
    yield "garbage", place.folder / "alder.bin", "not a signed deletion request"
    yield "missing", place.folder / "nowhere", "a file with a signed deletion request"
    yield "folder", place.folder, "a file with a signed deletion request"
    with (place.folder / "6").open("wb") as file:
        file.truncate(6 << 30)
    yield "huge", place.folder / "6", "6442450944 bytes; a request has at most"


def test_bad_files_are_named_and_nothing_is_handed_in(run, place):
    good = place.file(place.signed(), "good")
    for what, path, match in bad_files(place):
        code, out, err = run("request", place.server, good, path)
        assert (code, out) == (2, ""), what
        assert match in err, what
        assert str(path) in err, what
        assert "Traceback" not in err
    assert run("pending", place.server)[0] in (0, 2)
    run("request", place.server, good)
    assert len(json.loads(run("pending", place.server, "--json")[1])["requests"]) == 1


@pytest.mark.parametrize("command", ["pending", "unlearn", "request"])
def test_wrong_directories(run, place, command):
    file = [place.file(place.signed())] if command == "request" else []
    for wrong in (place.folder / "nowhere", place.folder, place.folder / "alder.bin"):
        code, out, err = run(command, wrong, *file)
        assert (code, out) == (2, ""), (wrong, err)
        assert "a server's directory" in err
        assert str(wrong) in err


def test_a_queue_that_is_missing_or_no_queue(run, place):
    """A server that nobody has asked yet has an empty queue; one whose windows were begun has lost its own."""
    code, out, _ = run("pending", place.server, "--json")
    said = json.loads(out)
    assert (code, said["requests"], said["states"], said["windows"], said["skipped"]) == (0, [], {}, [], None)
    assert said["next_due"]
    code, out, _ = run("pending", place.server)
    assert (code, "Queue: no requests" in out) == (0, True)
    code, _, err = run("pending", place.server, "--request", "abcd")
    assert (code, "the first request makes it" in err) == (2, True)
    assert not (place.server / "deletion" / "queue.sqlite").exists(), "looking makes nothing"
    file = place.file(place.signed())
    (place.server / "deletion" / "certificates").mkdir(parents=True)
    (place.server / "deletion" / "certificates" / "one").touch()
    for command in (("request", place.server, file), ("pending", place.server), ("pending", place.server, "--json")):
        code, _, err = run(*command)
        assert (code, "restore it from a backup" in err) == (2, True)
    (place.server / "deletion" / "queue.sqlite").write_bytes(b"no queue" * 1000)
    for command in (("pending", place.server), ("request", place.server, file)):
        code, _, err = run(*command)
        assert (code, "one with a queue that can be used" in err) == (2, True)


def test_a_broken_deletion_policy(run, place):
    file = place.file(place.signed())
    run("request", place.server, file)
    (place.server / "deletion.toml").write_text("window_start = 'soon'")
    for command in (("pending", place.server), ("request", place.server, file)):
        code, _, err = run(*command)
        assert (code, "window_seconds is None" in err) == (2, True), err


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_no_permission(run, place):
    """Root may read everything, so it becomes nobody for a while; others lose the right to their own folder."""
    root = os.geteuid() == 0
    place.server.chmod(0 if not root else 0o700)
    try:
        if root:
            os.seteuid(65534)
        code, _, err = run("pending", place.server)
    finally:
        if root:
            os.seteuid(0)
        place.server.chmod(0o700)
    assert (code, "Traceback" in err, str(place.server) in err) == (2, False, True)


def test_options_without_keys(run, place):
    code, _, err = run("request", place.server, "--client")
    assert (code, "to sign a request with --client" in err) == (2, True)
    code, _, err = run("request", place.server)
    assert (code, "signed requests" in err) == (2, True)
    code, _, err = run("request", "--identity", place.folder / "alder.bin", "--client")
    assert (code, "--roster is None" in err) == (2, True)


def test_unlearn_names_what_is_missing(run, place):
    run("request", place.server, place.file(place.signed()))
    code, _, err = run("unlearn", place.server)
    assert (code, "nodes.toml" in err) == (2, True)
    for text, match in (("sockets = []", "at least one"), ("nodes = 1", "no key but sockets"), ("sockets = ", "TOML")):
        (place.server / "nodes.toml").write_text(text)
        code, _, err = run("unlearn", place.server)
        assert (code, match in err) == (2, True), err


def test_the_queue_can_be_used_while_it_is_served(run, place):
    file = place.file(place.signed())
    run("request", place.server, file)
    with ServiceLock(place.server / "deletion" / "queue.sqlite"):
        assert run("request", place.server, place.file(place.signed(), "second"))[0] == 0
        assert len(json.loads(run("pending", place.server, "--json")[1])["requests"]) == 2


def test_times():
    assert show_time(read_time("x", "2026-12-31")) == "2026-12-31T23:59:59Z"
    assert show_time(read_time("x", "2026-12-31T12:00:00+02:00")) == "2026-12-31T10:00:00Z"
    for wrong in ("", "31.12.2026", "2026-13-01", "9999-12-31T23:59:59", "1e9"):
        with pytest.raises(ArgumentError):
            read_time("--deadline", wrong)


def test_commands_have_help(run):
    for name in ("request", "pending", "unlearn"):
        code, out, _ = run(name, "--help")
        assert (code, "--json" in out) == (0, True)
