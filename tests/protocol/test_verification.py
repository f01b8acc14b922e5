"""An honest transcript holds, and one that was touched anywhere does not; the error names the line."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from committee_machines import CommitteeMachines, identity_of, make_committee_machines
from machines import SERVER, Machines, make_machines

from secure_fu.crypto import Role, Roster
from secure_fu.crypto.wire import decode, encode
from secure_fu.errors import TranscriptError
from secure_fu.privacy import Phase, PrivacyLedger
from secure_fu.protocol import Header, Policy, Transcript, verify_transcript
from secure_fu.protocol.committee.messages import VoteStatement
from secure_fu.protocol.messages import Approval, Domain, Release, digest
from secure_fu.protocol.transcript import transcript_line
from secure_fu.protocol.verification import verify_against_ledger

AnyMachines = CommitteeMachines | Machines


def go_on(machines: AnyMachines, branch: str, parent: str | None, start: bytes) -> None:
    """Make the server go on with another run, as a simulation's branches do."""
    machines.ledger.branch(branch, parent=parent)
    run = machines.server._run
    transcript = Transcript(start=start, path=run.transcript._path, branch=branch)
    machines.server._run = replace(run, run_id=os.urandom(16), branch=branch, transcript=transcript)


@dataclass(frozen=True)
class Case:
    """A transcript with what it is checked with."""

    machines: AnyMachines
    lines: tuple[str, ...]

    @property
    def roster(self) -> Roster:
        return self.machines.roster

    @property
    def policy(self) -> Policy:
        return self.machines.policy

    def verify(self, path: Path, **changes: Any) -> Any:
        return verify_transcript(path, **({"roster": self.roster, "policy": self.policy} | changes))

    def refuse(self, folder: Path, lines: list[str] | tuple[str, ...], line: int | None = None) -> str:
        """The reason for which these lines are refused, whose first fault is in the given one (counted from 1)."""
        path = folder / "touched.jsonl"
        path.write_bytes("".join(lines).encode())
        with pytest.raises(TranscriptError) as caught:
            self.verify(path)
        reason = str(caught.value)
        assert reason.startswith(f"{path}, line {line}: " if line else f"{path}"), reason
        return reason

    def release(self, index: int) -> tuple[Release, Header, str]:
        fields = json.loads(self.lines[index])
        release = decode(Release, base64.b64decode(fields["release"]))
        return release, decode(Header, release.announcement.header), fields["branch"]

    def resigned(self, index: int, change: Callable[[Release], Release], *, signer: str = SERVER) -> list[str]:
        """The lines with another release at `index`, which a server signs that means it."""
        release, header, branch = self.release(index)
        changed = change(release)
        signature = self.machines.identities[signer].sign(Domain.RELEASE, changed.statement)
        return self.replaced(index, replace(changed, signature=signature), header, branch)

    def replaced(self, index: int, release: Release, header: Header, branch: str) -> list[str]:
        lines = list(self.lines)
        lines[index] = json.dumps(transcript_line(branch, header, release)) + "\n"
        return lines


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    """For each scheme two rounds of `original`, and two branches that go on from its first round."""
    found = {}
    for name in ("kahe", "bfv"):
        folder = tmp_path_factory.mktemp(name)
        machines: AnyMachines = make_committee_machines(folder) if name == "kahe" else make_machines(folder)
        go_on(machines, "first", None, bytes(32))
        machines.collected(0)
        machines.finish()
        fork = machines.server._run.transcript.head
        machines.collected(1, machines.names[:3])
        machines.finish()
        for branch in ("unlearn/one", "unlearn/two"):
            go_on(machines, branch, "first", fork)
            for number in (2, 5):
                machines.collected(number)
                machines.finish()
        lines = (folder / "transcript.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        found[name] = Case(machines=machines, lines=tuple(lines))
    yield found
    for case in found.values():
        case.machines.close()


@pytest.fixture(params=["kahe", "bfv"])
def case(cases: dict[str, Case], request: pytest.FixtureRequest) -> Case:
    return cases[request.param]


# What holds


def test_an_honest_transcript_holds_with_its_branches(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "transcript.jsonl"
    path.write_text("".join(case.lines))
    branches = case.verify(path)
    assert [branch.name for branch in branches] == ["first", "unlearn/one", "unlearn/two"]
    assert [[release.round_number for release in branch.releases] for branch in branches] == [[0, 1], [2, 5], [2, 5]]
    assert branches[0].releases[1].participants == case.machines.names[:3]
    assert branches[2].head == case.machines.server._run.transcript.head
    assert {branch.openers for branch in branches} == {
        "committee of 4, quorum 3, at most 1 corrupt" if len(case.policy.committee) > 1 else "key-holder keeper"
    }
    assert case.verify(path, policy=None) == branches
    assert verify_against_ledger(branches, case.machines.ledger) == 0


def test_what_is_cut_off_at_the_end_cannot_be_missed_but_the_ledger_misses_it(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "transcript.jsonl"
    for kept in range(len(case.lines)):
        path.write_text("".join(case.lines[:kept]).removesuffix("\n"))
        branches = case.verify(path)
        assert sum(len(branch.releases) for branch in branches) == kept
        assert verify_against_ledger(branches, case.machines.ledger) == len(case.lines) - kept


def test_branches_may_be_interleaved(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "transcript.jsonl"
    path.write_text("".join(case.lines[index] for index in (0, 2, 4, 5, 1, 3)))
    assert [len(branch.releases) for branch in case.verify(path)] == [2, 2, 2]


# Lines


@pytest.mark.parametrize(
    ("order", "line"),
    [
        ((1, 2, 3, 4, 5), 1),
        ((0, 1, 3, 4, 5), 3),
        ((1, 0, 2, 3, 4, 5), 1),
        ((0, 1, 3, 2, 4, 5), 3),
        ((0, 0, 1, 2, 3, 4, 5), 2),
        ((0, 1, 2, 3, 4, 5, 5), 7),
        ((0, 1, 2, 3, 4, 5, 0), 7),
        ((2, 0, 1), 1),
    ],
)
def test_lines_that_are_missing_swapped_or_repeated_are_noticed(
    case: Case, tmp_path: Path, order: tuple[int, ...], line: int
) -> None:
    assert "follow" in case.refuse(tmp_path, [case.lines[index] for index in order], line)


@pytest.mark.parametrize("place", [0, 1, 5])
@pytest.mark.parametrize(
    "junk",
    [
        "\n",
        "null\n",
        "[]\n",
        "7\n",
        '"line"\n',
        "{}\n",
        '{"release": 5, "branch": "original"}\n',
        '{"release": "", "branch": "original"}\n',
        '{"release": "AAAA", "branch": "original"}\n',
        '{"branch": "original"}\n',
        "[" * 200_000 + "\n",
        "9" * 10_000 + "\n",
        "no JSON\n",
        '{"release": "' + "A" * (1 << 24) + '", "branch": "original"}\n',
    ],
    ids=lambda junk: junk[:12].strip(),
)
def test_junk_is_refused(cases: dict[str, Case], tmp_path: Path, junk: str, place: int) -> None:
    lines = list(cases["kahe"].lines)
    cases["kahe"].refuse(tmp_path, [*lines[:place], junk, *lines[place:]], place + 1)


def test_bytes_that_are_no_text_are_refused(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "touched.jsonl"
    for content in (b"\xff\xfe", os.urandom(4000), "".join(case.lines).encode() + b"\xff"):
        path.write_bytes(content)
        with pytest.raises(TranscriptError, match=r"touched\.jsonl"):
            case.verify(path)
    for absent in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(TranscriptError, match=f"{absent.name} cannot be read"):
            case.verify(absent)


def test_a_file_cut_anywhere_within_a_line_is_refused(case: Case, tmp_path: Path) -> None:
    last = case.lines[-1]
    for kept in (1, 2, 20, len(last) // 2, len(last) - 3, len(last) - 2):
        case.refuse(tmp_path, [*case.lines[:-1], last[:kept]], len(case.lines))


# Fields


def field_names() -> list[str]:
    return [
        *("branch", "round", "purpose", "phase", "run_id", "model", "parameter_set", "noise_multiplier", "clip_norm"),
        *("retained_rate", "forgotten_rate", "minimum_cohort", "participants", "approvals", "sum", "previous", "hash"),
    ]


def test_these_are_all_the_fields(case: Case) -> None:
    assert [*json.loads(case.lines[0])] == [*field_names(), "release"]


@pytest.mark.parametrize("name", field_names())
def test_a_readers_field_that_was_changed_or_left_out_is_noticed(case: Case, tmp_path: Path, name: str) -> None:
    fields = json.loads(case.lines[1])
    given = fields[name]
    others: list[Any] = [None, [], "other", 0.25, given * 2 if isinstance(given, str | list) else given + 1]
    for value in others:
        touched = json.dumps({**fields, name: value}) + "\n"
        case.refuse(tmp_path, [case.lines[0], touched, *case.lines[2:]], 2)
    del fields[name]
    case.refuse(tmp_path, [case.lines[0], json.dumps(fields) + "\n", *case.lines[2:]], 2)


def test_a_line_has_one_text(case: Case, tmp_path: Path) -> None:
    """What two readers could understand differently, or a program could take for the same, is not the line."""
    line = case.lines[0]
    fields = json.loads(line)
    touched = [
        line.replace("{", '{"purpose": "unlearn/all", ', 1),  # twice the same key: some take the first, some the last
        line.replace('"round": 0', '"round": 0.0'),
        line.replace('"round": 0', '"round": false'),
        line.replace('"round": 0', '"round": -0'),
        line.replace('"clip_norm": 1.0', '"clip_norm": 1'),
        line.replace('"clip_norm": 1.0', '"clip_norm": true'),
        json.dumps({**fields, "note": "all is well"}) + "\n",
        json.dumps(fields, indent=1).replace("\n", "") + "\n",
        json.dumps(dict(reversed(fields.items()))) + "\n",
        line.replace("\n", " \n"),
    ]
    assert len({line, *touched}) == len(touched) + 1
    for text in touched:
        case.refuse(tmp_path, [text, *case.lines[1:]], 1)


@pytest.mark.parametrize("name", [5, None, True, "", "a\nb", "\x1b[31mred", "\ud800"])
def test_a_branchs_name_is_printable_text(case: Case, tmp_path: Path, name: object) -> None:
    fields = json.loads(case.lines[0])
    path = tmp_path / "touched.jsonl"
    path.write_text(json.dumps({**fields, "branch": name}) + "\n")
    if name == "":
        assert case.verify(path)[0].name == ""  # nobody signs it: a run without branches need not name itself
    else:
        with pytest.raises(TranscriptError, match=r"line 1: .* printable name"):
            case.verify(path)


def test_a_run_cannot_change_its_branch_nor_a_branch_its_run(case: Case, tmp_path: Path) -> None:
    def renamed(index: int, name: str) -> str:
        return json.dumps({**json.loads(case.lines[index]), "branch": name}) + "\n"

    assert "another branch's name" in case.refuse(tmp_path, [case.lines[0], renamed(1, "second")], 2)
    assert "of another run" in case.refuse(tmp_path, [case.lines[0], renamed(2, "first")], 2)


# Signatures


def test_another_roster_is_noticed(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "transcript.jsonl"
    path.write_text("".join(case.lines))
    parties = {party.name: party for party in case.roster.parties}
    more = Roster.of([*parties.values(), identity_of("client-99", Role.CLIENT).party])
    fewer = Roster.of([party for name, party in parties.items() if name != "client-3"])
    other_server = Roster.of([*(parties | {SERVER: identity_of("another", Role.SERVER).party}).values()])
    no_server = Roster.of([party for name, party in parties.items() if name != SERVER])
    two = Roster.of([*parties.values(), identity_of("another", Role.SERVER).party])
    for roster in (more, fewer, other_server, no_server, two):
        for policy in (case.policy, None):
            with pytest.raises(TranscriptError, match=r"transcript\.jsonl, line 1: "):
                case.verify(path, roster=roster, policy=policy)


def test_a_header_outside_the_policy_is_noticed(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "transcript.jsonl"
    path.write_text("".join(case.lines))
    for field, value in (("noise_multiplier", 2.5), ("minimum_cohort", 4), ("clip_norm", 0.5), ("sampling_rate", 0.1)):
        policy = replace(case.policy, **{field: value})
        with pytest.raises(TranscriptError, match=r"line 1: header field .* this party's policy allows"):
            case.verify(path, policy=policy)
    with pytest.raises(TranscriptError, match="line 1: header field purpose"):
        case.verify(path, policy=replace(case.policy, purposes=frozenset({"train"})))


@pytest.mark.parametrize("signer", ["client-0", "opener"])
def test_a_release_that_somebody_else_signed_is_noticed(case: Case, tmp_path: Path, signer: str) -> None:
    name = case.policy.committee[0] if signer == "opener" else signer
    assert "does not verify" in case.refuse(tmp_path, case.resigned(1, lambda release: release, signer=name), 2)


def test_other_values_than_the_server_signed_are_noticed(case: Case, tmp_path: Path) -> None:
    release, header, branch = case.release(1)
    changed = replace(release, values_digest=digest(b"other values"))
    assert "does not verify" in case.refuse(tmp_path, case.replaced(1, changed, header, branch), 2)


def with_roll(case: Case, release: Release, **changes: Any) -> Release:
    roll = replace(release.roll, **changes)
    signature = case.machines.identities[SERVER].sign(Domain.ROLL, roll.statement)
    return replace(release, roll=replace(roll, signature=signature))


def test_a_participant_that_did_not_sign_is_noticed_whatever_the_server_signs(case: Case, tmp_path: Path) -> None:
    def forged(release: Release) -> Release:
        entry = replace(release.roll.entries[0], client="client-3")
        return with_roll(case, release, entries=(*release.roll.entries, entry))

    assert "'client-3'" in case.refuse(tmp_path, case.resigned(1, forged), 2)


def test_participants_of_another_round_are_noticed(case: Case, tmp_path: Path) -> None:
    others = case.release(2)[0].roll.entries

    def replayed(release: Release) -> Release:
        return with_roll(case, release, entries=others)

    assert "does not verify" in case.refuse(tmp_path, case.resigned(1, replayed), 2)


def test_a_roll_below_the_minimum_cohort_is_noticed(case: Case, tmp_path: Path) -> None:
    def thinned(release: Release) -> Release:
        return with_roll(case, release, entries=release.roll.entries[:2])

    assert "2 clients; this round opens with at least 3" in case.refuse(tmp_path, case.resigned(1, thinned), 2)


def test_votes_below_the_quorum_are_noticed(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["kahe"]
    for kept in range(3):
        lines = case.resigned(1, lambda release, kept=kept: replace(release, approvals=release.approvals[:kept]))
        assert f"{kept} members voted for this roll; a quorum is 3" in case.refuse(tmp_path, lines, 2)
    twice = case.resigned(1, lambda release: replace(release, approvals=(release.approvals[0],) * 3))
    assert "counted twice" in case.refuse(tmp_path, twice, 2)


def test_a_vote_for_another_roll_is_noticed(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["kahe"]
    release, header, _ = case.release(1)
    identity = case.machines.identities[release.approvals[0].name]
    statement = VoteStatement.of(header, release.announcement.header_digest, digest(b"another roll"))
    vote = Approval(name=identity.name, signature=identity.sign(Domain.VOTE, encode(statement)))
    lines = case.resigned(1, lambda release: replace(release, approvals=(vote, *release.approvals[1:])))
    assert "does not verify" in case.refuse(tmp_path, lines, 2)
    stranger = replace(vote, name="client-0")
    lines = case.resigned(1, lambda release: replace(release, approvals=(*release.approvals, stranger)))
    assert "'client-0' voted and is not in the committee" in case.refuse(tmp_path, lines, 2)


def test_without_the_key_holders_word_for_these_values_nothing_holds(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["bfv"]
    none = case.resigned(1, lambda release: replace(release, approvals=()))
    assert "not approved by the header's key-holder" in case.refuse(tmp_path, none, 2)
    other = case.release(2)[0].approvals
    lines = case.resigned(1, lambda release: replace(release, approvals=other))
    assert "does not verify" in case.refuse(tmp_path, lines, 2)
    values = case.resigned(1, lambda release: replace(release, values_digest=digest(b"other values")))
    assert "does not verify" in case.refuse(tmp_path, values, 2)


# Bits


def test_no_bit_of_a_line_can_be_flipped(case: Case, tmp_path: Path) -> None:
    """A few places of every field, each bit, and every byte of the fields that readers see, one bit each."""
    line = case.lines[1].encode()
    head = line.index(b'"release"')
    draw = np.random.default_rng(7)
    spread = [*range(head, len(line) - 1, max(1, (len(line) - head) // 60)), len(line) - 2, len(line) - 1]
    flips = [(place, int(draw.integers(8))) for place in range(head)]
    flips += [(place, bit) for place in spread for bit in range(8)]
    path = tmp_path / "touched.jsonl"
    for place, bit in flips:
        touched = bytearray(line)
        touched[place] ^= 1 << bit
        path.write_bytes(case.lines[0].encode() + bytes(touched))
        with pytest.raises(TranscriptError, match=r"touched\.jsonl"):
            case.verify(path)


# The ledger


def test_a_ledger_that_tells_something_else_is_noticed(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "transcript.jsonl"
    path.write_text("".join(case.lines))
    branches = case.verify(path)
    machines = case.machines
    honest = list(machines.ledger.events())

    def told(index: int, **changes: Any) -> None:
        ledger = PrivacyLedger.create(tmp_path / f"ledger-{os.urandom(4).hex()}.sqlite", budget=machines.ledger.budget)
        for name, parent in machines.ledger.branches.items():
            ledger.branch(name, parent=parent)
        for place, event in enumerate(honest):
            told = {**vars(event), **(changes if place == index else {})}
            reservation = ledger.reserve(
                told["branch"],
                **{key: told[key] for key in ("round_number", "purpose", "phase", "charges", "cohort")},
            )
            if told["participants"] is not None:
                ledger.commit(reservation, told["participants"])
        with ledger:
            assert verify_against_ledger(branches, ledger) == 0

    told(-1)
    cheaper = {who: replace(event, noise_multiplier=9.0) for who, event in honest[1].charges.items() if event}
    for changes, words in (
        ({"participants": None}, "round 1 of branch 'first' was released, and the ledger does not say so"),
        ({"round_number": 7}, "round 1 of branch 'first' was released, and the ledger does not say so"),
        ({"participants": case.machines.names[:2]}, "round 1 of branch 'first' is charged to other clients"),
        ({"purpose": "train"}, "round 1 of branch 'first' is charged as something else"),
        ({"phase": Phase.UNLEARNING}, "round 1 of branch 'first' is charged as something else"),
        ({"charges": cheaper}, "round 1 of branch 'first' is charged as something else"),
    ):
        with pytest.raises(TranscriptError, match=words):
            told(1, **changes)
