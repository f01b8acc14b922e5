"""What has to hold when a story has ended, checked from files and from what went over the sockets.

The parties' own files are read with SQL and JSON, and costs are worked out from headers here, so that a mistake of the
library does not hide itself. Signatures and the transcript's chain are checked by the library's own verification.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from field.facts import Charge, Facts, RoundSeen, charge_of, rows
from field.founding import Ask, Field
from secure_fu.deletion.certificates import Certificate, Evidence, check_certificate, read_certificates
from secure_fu.errors import SecureFUError
from secure_fu.privacy import GaussianSumEvent, Phase, PrivacyLedger, Subject
from secure_fu.protocol import read_policy, verify_against_ledger, verify_transcript

__all__ = ["CHECKS", "violations"]

Check = Callable[[Facts, Mapping[str, Ask]], Iterator[str]]


def violations(field: Field, requests: Mapping[str, Ask], private: Mapping[str, Ask]) -> list[str]:
    """What does not hold, by check; empty where all is well.

    Args:
        requests: all that were handed in, by id.
        private: those that clients left at their own nodes.
    """
    facts = Facts(field)
    found = []
    for name, check in CHECKS.items():
        try:
            asked = {**requests, **private} if check is _clients else requests
            found += [f"{name}: {said}" for said in check(facts, asked)]
        except Exception as error:
            found.append(f"{name}: cannot be checked, {type(error).__name__}: {error}")
    return found


def _main_line(facts: Facts) -> list[dict[str, Any]]:
    """The deletions that were executed, as the server's file has them."""
    path = facts.field.server / "main_line.json"
    return list(json.loads(path.read_text())["line"]["executed"]) if path.exists() else []


def _certificates(facts: Facts) -> list[Certificate]:
    folder = facts.field.server / "deletion" / "certificates"
    return read_certificates(folder) if folder.exists() else []


def _requests(facts: Facts, requests: Mapping[str, Ask]) -> Iterator[str]:
    """Every request was executed once and certified; none was lost, none is there twice."""
    field = facts.field
    state = {one.hex(): said for one, said in rows(field.queue, "SELECT id, state FROM requests")}
    history = Counter((one.hex(), said) for one, said in rows(field.queue, "SELECT id, state FROM history"))
    line = _main_line(facts)
    executed = Counter(one["request_id"] for entry in line for one in entry["request"]["value"]["requests"])
    certified = Counter(
        asked["requester"]["commitment"]
        for certificate in _certificates(facts)
        for asked in certificate.body["asked"]["requests"]
    )
    commitments = {
        path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in field.root.glob("outbox-*/*.request")
    }
    for one in sorted(set(requests) | set(state)):
        if one not in state:
            yield f"request {one} was taken and is not in the queue"
            continue
        if state[one] != "certified":
            yield f"request {one} is {state[one]}"
        for said in ("executed", "certified"):
            if history[one, said] != 1:
                yield f"request {one} was {said} {history[one, said]} times, by the queue's history"
        if executed[one] != 1:
            yield f"request {one} is {executed[one]} times on the main line"
        if certified[commitments[one]] != 1:
            yield f"request {one} is in {certified[commitments[one]]} certificates"
    yield from (f"the main line has an unknown request {one}" for one in executed if one not in requests)


def _windows(facts: Facts, requests: Mapping[str, Ask]) -> Iterator[str]:
    """Queue, main line, certificates and clients know the same windows, each executed in one run."""
    field = facts.field
    queue = sorted(one.hex() for (one,) in rows(field.queue, "SELECT id FROM windows WHERE state = 'certified'"))
    left = rows(field.queue, "SELECT id, state FROM windows WHERE state NOT IN ('certified', 'refused')")
    yield from (f"window {one.hex()} is {state}" for one, state in left)
    line = _main_line(facts)
    on_line = [entry["request"]["value"]["window_id"] for entry in line]
    certified = [certificate.body["window"] for certificate in _certificates(facts)]
    for name, windows in (("the main line", on_line), ("the certificates", certified)):
        if sorted(windows) != queue:
            yield f"{name} has windows {sorted(windows)}, the queue {queue}"
    for window in queue:
        runs = facts.settled.get(bytes.fromhex(window), set())
        if len(runs) != 1:
            yield f"window {window} was settled under {len(runs)} runs"
        elif facts.runs[next(iter(runs))] != line[on_line.index(window)]["branch"]:
            yield f"window {window} was settled under another run than the main line's"


def _clients(facts: Facts, requests: Mapping[str, Ask]) -> Iterator[str]:
    """Each client has settled each window once, and what was asked for is gone, no more and no less."""
    field = facts.field
    windows = sorted(one.hex() for (one,) in rows(field.queue, "SELECT id FROM windows WHERE state = 'certified'"))
    statements: dict[tuple[str, bytes], set[bytes]] = {}
    for one in facts.said:
        if one.kind.value == "wipe" and one.answered is not None:
            statements.setdefault((one.party, one.asked), set()).add(one.answered)
    yield from (f"{name} signed {len(said)} statements" for (name, _), said in statements.items() if len(said) > 1)
    for client in field.clients:
        folder = field.node(field.node_of(client))
        state = json.loads((folder / f"state-{client}.json").read_text())["values"]
        if sorted(one["window"] for one in state["settled"]) != windows:
            yield f"{client} has settled {[one['window'] for one in state['settled']]}, and there were {windows}"
        if state["order"] is not None or state["pending"] is not None:
            yield f"{client} still has an order or a wiping under way"
        covered = sorted(frozenset().union(*(ask.covered for ask in requests.values() if ask.client == client)))
        if state["gone"] != covered:
            yield f"{client} has forgotten {state['gone']}; asked for were {covered}"
        now, before = np.load(folder / f"{client}.npz"), np.load(field.root / f"{client}.before.npz")
        gone = np.isin(np.arange(len(before["labels"])), covered)
        if now["features"][gone].any() or now["labels"][gone].any():
            yield f"{client} still has records that are to be gone"
        if not np.array_equal(now["features"][~gone], before["features"][~gone]):
            yield f"{client} has lost or changed records that nobody asked to forget"


def _epsilon(facts: Facts, requests: Mapping[str, Ask]) -> Iterator[str]:
    """The ledger charges what the transcript's headers cost, and rounds that were lost, and nothing else."""
    ledger = {(row.branch, row.round_number): row for row in facts.ledger}
    released = set()
    for branch, header, release in facts.releases:
        place = (branch, header.round_number)
        released.add(place)
        row = ledger.get(place)
        if row is None or row.status != "committed":
            yield f"round {place} was released, and the ledger says {None if row is None else row.status}"
            continue
        if row.participants != release.roll.participants:
            yield f"round {place} is charged to {row.participants}, and {release.roll.participants} took part"
        for subject, rate in (("retained", header.retained_rate), ("forgotten", header.forgotten_rate)):
            wanted, charged = charge_of(header, rate), row.charges.get(subject)
            if (wanted is None) != (charged is None) or (wanted and charged and not wanted.is_close(charged)):
                yield f"round {place} costs {subject} units {wanted}, and the ledger charges {charged}"
    lost = {(facts.runs[run], number): seen for (run, number), seen in facts.seen.items()}
    for place, row in ledger.items():
        # A round that its server gave up after its roll had left is charged to those on the roll.
        if row.status == "committed" and place not in released:
            seen_now = lost.get(place)
            if seen_now is None or not (seen_now.rolls or _went_to_nobody(facts, seen_now, row.participants or ())):
                yield f"the ledger has round {place} as released, the transcript does not, and no roll of it had left"
    for (run, number), seen in facts.seen.items():
        row = ledger.get((facts.runs[run], number))
        if row is None:
            yield f"round {number} of {facts.runs[run]} was announced and is not in the ledger"
        elif row.status == "void" and seen.rolls:
            yield f"round {number} of {facts.runs[run]} was given back, and its roll had left"
    yield from _sums(facts)


def _went_to_nobody(facts: Facts, seen: RoundSeen, participants: Collection[str]) -> bool:
    """Whether a roll can have been made and have met none of its openers: all of them were killed in the round.

    The server cannot know that nobody read what it sent, and charges those on the roll.
    """
    killed = [any(at > seen.first for at in facts.starts[facts.field.node_of(one)]) for one in seen.header.committee]
    uploaded = set(participants) <= set(seen.uploads) and len(participants) >= seen.header.minimum_cohort
    return all(killed) and uploaded


def _sums(facts: Facts) -> Iterator[str]:
    """The library's own account of each client equals the count that is taken here."""
    with PrivacyLedger.open(facts.field.server / "ledger.sqlite", read_only=True) as ledger:
        kinds = itertools.product(facts.parents, facts.field.clients, Subject, (Phase.TRAINING, Phase.UNLEARNING))
        for branch, client, subject, phase in kinds:
            line = facts.line_of(branch)
            wanted: Counter[Charge] = Counter()
            for row in facts.ledger:
                # A round that was lost counts for all who were invited.
                who = row.cohort if row.participants is None else row.participants
                # What a branch forgets was retained in those that it comes from.
                charge = row.charges.get(subject.value if row.branch == branch else Subject.RETAINED.value)
                counts = row.branch in line and row.status != "void" and row.phase == phase.value and client in who
                if counts and charge is not None:
                    wanted[charge] += 1
            charged = ledger.event_counts(branch, client, subject, phase)
            if {_plain(event): times for event, times in charged.items()} != dict(wanted):
                yield f"{client}, {subject.value}, {phase.value} on {branch}: the ledger counts {charged}, not {wanted}"


def _plain(event: GaussianSumEvent) -> Charge:
    return Charge(event.noise_multiplier, event.sampling_rate, event.grid_ratio, event.dimension, event.shares)


def _own_records(facts: Facts, requests: Mapping[str, Ask]) -> Iterator[str]:
    """Each client has charged itself at least for what it uploaded to, at the round's full cost."""
    for client in facts.field.clients:
        path = facts.field.node(facts.field.node_of(client)) / f"client-{client}.sqlite"
        charged = {
            (run, number): (header, json.loads(charge))
            for run, number, header, charge in rows(
                path, "SELECT run_id, round_number, header_digest, charge FROM round"
            )
        }
        for key, seen in facts.seen.items():
            if client not in seen.uploads:
                continue
            if len(seen.uploads[client]) > 1:
                yield f"{client} uploaded to round {key[1]} more than once"
            header, charge = charged.get(key, (b"", {}))
            if header not in seen.headers:
                yield f"{client} uploaded to round {key[1]} of {facts.runs[key[0]]}, and its record does not have it"
                continue
            wanted = charge_of(seen.header, max(seen.header.retained_rate, seen.header.forgotten_rate))
            if wanted is None or not wanted.is_close(Charge(**charge)):
                yield f"{client} charged {charge} for round {key[1]}; it costs {wanted}"


def _openings(facts: Facts, requests: Mapping[str, Ask]) -> Iterator[str]:
    """No round was opened twice, and what openers promised is in their records."""
    for (run, number), seen in facts.seen.items():
        place = f"round {number} of {facts.runs[run]}"
        if len(seen.headers) > 1:
            yield f"{place} was announced with {len(seen.headers)} headers"
        for name, rolls in seen.votes.items():
            if len(rolls) > 1:
                yield f"{name} voted for {len(rolls)} rolls of {place}"
        if len(frozenset().union(*seen.answers.values())) > 1:
            yield f"{place} was opened for more than one roll"
        for name, answers in seen.answer_bytes.items():
            if len(answers) > 1:
                yield f"{name} gave {len(answers)} answers in {place}"
            if facts.field.scheme == "kahe" and not seen.answers[name] <= seen.votes[name]:
                yield f"{name} opened a roll of {place} that it did not vote for"
    released = Counter((header.run_id, header.round_number) for _, header, _ in facts.releases)
    yield from (
        f"round {key[1]} of {facts.runs[key[0]]} was released {times} times"
        for key, times in released.items()
        if times > 1
    )
    for opener, run, number, roll in _promised(facts):
        newest = max((key[1] for key, seen in facts.seen.items() if key[0] == run and opener in seen.votes), default=-1)
        if newest > number:
            yield f"{opener} voted in round {newest} of {facts.runs[run]}, and its record ends at {number}"
        elif newest == number >= 0 and facts.seen[run, number].votes[opener] != {roll}:
            yield f"{opener} recorded another roll than it voted for, in round {number} of {facts.runs[run]}"


def _promised(facts: Facts) -> Iterator[tuple[str, bytes, int, bytes]]:
    """For each member and run: its newest round and roll, -1 where its record has none."""
    if facts.field.scheme != "kahe":
        return
    for node in facts.field.opener_nodes:
        for member in facts.field.hosted[node]:
            path = facts.field.node(node) / f"member-{member}.sqlite"
            known = {
                run: (number, roll)
                for run, number, roll in rows(path, "SELECT run_id, round_number, roll_digest FROM vote")
            }
            for run in facts.runs:
                number, roll = known.get(run, (-1, b""))
                yield member, run, number, roll


def _verifies(facts: Facts, requests: Mapping[str, Ask]) -> Iterator[str]:
    """Transcript and certificates verify, with the ledger and against each other."""
    server = facts.field.server
    roster, policy = facts.field.roster, read_policy(server / "policy.toml")
    with PrivacyLedger.open(server / "ledger.sqlite", read_only=True) as ledger:
        branches = verify_transcript(server / "transcript.jsonl", roster=roster, policy=policy)
        verify_against_ledger(branches, ledger)
        chain = _certificates(facts)
        for place, certificate in enumerate(chain):
            evidence = Evidence(
                policy=policy, transcript=server / "transcript.jsonl", ledger=ledger, earlier=tuple(chain[:place])
            )
            try:
                check_certificate(certificate, roster=roster, evidence=evidence)
            except SecureFUError as error:
                yield f"certificate {place + 1}: {error}"
            if certificate.body["unconfirmed"]:
                yield f"certificate {place + 1}: {certificate.body['unconfirmed']} have not confirmed"


CHECKS: Mapping[str, Check] = {
    "requests": _requests,
    "windows": _windows,
    "clients": _clients,
    "epsilon": _epsilon,
    "own records": _own_records,
    "openings": _openings,
    "verification": _verifies,
}
"""By name."""
