"""What a round costs server, members and clients, for any number of clients: measured small, fitted, checked larger.

    python benchmarks/deployment_costs.py [--quick] [--json FILE]

Real messages of scheme `kahe` at 10 000 coordinates, sums of 16 bits, a committee of ten. Every cost is fitted as
a + b n by least squares over the numbers of clients in FITTED, then compared with what CHECKED clients cost. Bytes are
exact; processor time is `time.process_time` on one core, the median of REPEATS rounds. A client's noise and training
come on top. The table for 10^3, 10^5 and 10^7 clients follows from the fits and, for the time of a round, from the
network that NETWORK states. A header names its whole cohort, at most 10^6 clients: beyond that a round is a tree of
groups, whose costs are those of groups of GROUP clients. Whether scheme `kahe` has parameters for so many uploads in
one sum, and what an upload takes then, is asked of its layouts and not extrapolated.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from deletion_queue import signed_requests
from harness import arguments, report
from secure_sum_parties import PURPOSE, TERMS, Federation, header_in, warm_up

from secure_fu.crypto import decode
from secure_fu.crypto.kahe import choose_layout
from secure_fu.deletion import DeletionPolicy
from secure_fu.deletion.queue import RequestQueue
from secure_fu.errors import CapacityError
from secure_fu.privacy import Budget, GaussianSumEvent, Phase, PrivacyLedger, Subject, Unit
from secure_fu.protocol import kahe_parameter_sets
from secure_fu.protocol.header import MAX_COHORT
from secure_fu.protocol.messages import Invitation

_T = TypeVar("_T")
LENGTH: Final = 10_000
SUM_BITS: Final = 16
FITTED: Final = (50, 100, 200)
CHECKED: Final = 800
REPEATS: Final = 3
GROUP: Final = 1000
NETWORK: Final = {"client megabits per second": 10.0, "server megabits per second": 1000.0}
SIZES: Final = (10**3, 10**5, 10**7)


class Clock:
    """Processor time by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, name: str, call: Callable[[], _T]) -> _T:
        started = time.process_time()
        value = call()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started
        return value


def one_round(clients: int) -> dict[str, float]:
    """What one round costs, by name: bytes, and seconds of processor time."""
    federation = Federation(clients, minimum=max(3, clients // 2))
    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = federation.server(folder, sum_bits=SUM_BITS)
        members = federation.committee()
        message = clock.run("server seconds", lambda: federation.invitation(server, length=LENGTH))
        invitation = decode(Invitation, message)
        header = header_in(invitation)
        values = np.arange(header.length) % 7 - 3
        upload_bytes = 0
        for client in federation.clients:
            upload = clock.run("clients' seconds", lambda c=client: federation.upload(c, invitation, header, values))
            clock.run("server seconds", lambda u=upload: server.receive(u))
            upload_bytes = max(upload_bytes, len(upload))
        clock.run("server seconds", server.close)
        ballots = [clock.run("server seconds", lambda m=member: server.ballot(m.name)) for member in members]
        votes = [
            clock.run("members' seconds", lambda m=member, b=ballot: m.vote(b))
            for member, ballot in zip(members, ballots, strict=True)
        ]
        for vote in votes:
            clock.run("server seconds", lambda v=vote: server.receive_vote(v))
        quorum = clock.run("server seconds", server.quorum)
        answers = [clock.run("members' seconds", lambda m=member: m.answer(quorum)) for member in members]
        for answer in answers:
            clock.run("server seconds", lambda a=answer: server.receive_answer(a))
        clock.run("server seconds", server.release)
        return {
            "invitation bytes": len(message),
            "upload bytes": upload_bytes,
            "ballot bytes": max(map(len, ballots)),
            "quorum bytes": len(quorum),
            "vote and answer bytes": max(map(len, votes)) + max(map(len, answers)),
            "transcript bytes": (folder / f"transcript-{SUM_BITS}.jsonl").stat().st_size,
            "ledger bytes": ledger_bytes(folder, federation.clients),
            "server seconds": clock.seconds["server seconds"],
            "member seconds": clock.seconds["members' seconds"] / len(members),
            "client seconds": clock.seconds["clients' seconds"] / clients,
        }


def ledger_bytes(folder: Path, clients: tuple[str, ...], rounds: int = 40) -> float:
    """What a round takes of the ledger's file; so many rounds that its pages of 4 KiB even out."""
    path = folder / "growing.sqlite"
    budget = Budget(epsilon=8.0, delta=1e-5, order=4.0, deletion_reserve=0.1, unit=Unit.CLIENT)
    charge = GaussianSumEvent(
        noise_multiplier=100.0, sampling_rate=1.0, grid_ratio=1e7, dimension=LENGTH, shares=len(clients) // 2
    )
    with PrivacyLedger.create(path, budget=budget) as ledger:
        ledger.branch("original")
    empty = path.stat().st_size
    with PrivacyLedger.open(path) as ledger:
        for number in range(rounds):
            reservation = ledger.reserve(
                "original",
                round_number=number,
                purpose=PURPOSE,
                phase=Phase.TRAINING,
                charges={Subject.RETAINED: charge, Subject.FORGOTTEN: charge},
                cohort=clients,
            )
            ledger.commit(reservation, clients)
    return (path.stat().st_size - empty) / rounds


def measured(clients: int, repeats: int) -> dict[str, float]:
    """The median of some rounds."""
    rounds = [one_round(clients) for _ in range(repeats)]
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def fitted(sizes: Sequence[int], costs: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """For each cost, a and b of a + b n."""
    design = np.stack([np.ones(len(sizes)), np.asarray(sizes, dtype=np.float64)], axis=1)
    found = {}
    for name in costs[0]:
        if name in ("upload bytes", "client seconds"):  # one client's own: no function of how many there are
            found[name] = (statistics.median(one[name] for one in costs), 0.0)
            continue
        (a, b), *_ = np.linalg.lstsq(design, np.array([one[name] for one in costs]), rcond=None)
        found[name] = (float(a), float(b))
    return found


def predicted(model: Mapping[str, tuple[float, float]], clients: int) -> dict[str, float]:
    """What the fits say of a number of clients."""
    return {name: a + b * clients for name, (a, b) in model.items()}


def whole_round(model: Mapping[str, tuple[float, float]], clients: int) -> dict[str, float]:
    """A round of one group, with everybody on machines of their own; seconds follow one another without overlap."""
    cost = predicted(model, clients)
    client_rate = NETWORK["client megabits per second"] * 1e6 / 8
    server_rate = NETWORK["server megabits per second"] * 1e6 / 8
    through_the_server = clients * (cost["invitation bytes"] + cost["upload bytes"])
    return {
        "a client receives, bytes": cost["invitation bytes"],
        "a client sends, bytes": cost["upload bytes"],
        "a member receives, bytes": cost["ballot bytes"] + cost["quorum bytes"],
        "through the server, bytes": through_the_server + 10 * (cost["ballot bytes"] + cost["quorum bytes"]),
        "server, seconds of one core": cost["server seconds"],
        "a member, seconds of one core": cost["member seconds"],
        "a client, seconds of one core": cost["client seconds"],
        "a round, seconds": (
            max(
                cost["client seconds"] + (cost["invitation bytes"] + cost["upload bytes"]) / client_rate,
                through_the_server / server_rate,
            )
            + cost["server seconds"]
            + cost["member seconds"]
            + 10 * (cost["ballot bytes"] + cost["quorum bytes"]) / server_rate
        ),
        "transcript, bytes": cost["transcript bytes"],
        "ledger, bytes": cost["ledger bytes"],
    }


def tree(model: Mapping[str, tuple[float, float]], clients: int) -> dict[str, float]:
    """The same in groups of GROUP, each a round of its own; on paper, see docs/deploy.md."""
    group = whole_round(model, GROUP)
    groups = -(-clients // GROUP)
    return {
        "groups": groups,
        **{f"in each group: {name}": value for name, value in group.items()},
        "at the top, bytes": groups * LENGTH * 8,
    }


def queue_bytes(requests: int) -> float:
    """What a waiting request takes of the queue's file."""
    roster, signed = signed_requests(requests)
    policy = DeletionPolicy(window_start=0, window_seconds=3600, class_signers=())
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "queue.sqlite"
        with RequestQueue.create(path) as queue:
            empty = path.stat().st_size
            queue.submit_all(signed, roster=roster, policy=policy, now=signed[0].submitted)
        return (path.stat().st_size - empty) / requests


def layouts() -> dict[str, Any]:
    """Parameter set and ciphertext for one sum of many uploads, as the server would choose them."""
    found: dict[str, Any] = {}
    for clients in (*SIZES[:-1], MAX_COHORT):
        try:
            layout = choose_layout(
                length=LENGTH,
                clients=clients,
                magnitude=1 << (SUM_BITS - 1),
                share_bytes=TERMS.share_bytes,
                allowed=sorted(kahe_parameter_sets()),
            )
            found[str(clients)] = {
                "parameter set": layout.parameter_set.name,
                "ciphertext bytes": layout.ciphertext_bytes,
                "share bytes": TERMS.share_bytes(layout.parameter_set.degree),
            }
        except CapacityError as error:
            found[str(clients)] = {"refused": str(error)}
    return found


def main() -> None:
    options = arguments(__doc__)
    warm_up()
    sizes, check, repeats = ((10, 20), 60, 1) if options.quick else (FITTED, CHECKED, REPEATS)
    one_round(sizes[0])  # loads what is loaded once
    costs = [measured(size, repeats) for size in sizes]
    model = fitted(sizes, costs)
    truth, guess = measured(check, repeats), predicted(model, check)
    figures: dict[str, Any] = {
        "coordinates": LENGTH,
        "fitted over clients": list(sizes),
        "fit, a + b n": {name: {"a": a, "b": b} for name, (a, b) in model.items()},
        "checked at clients": check,
        "check": {
            name: {"measured": truth[name], "predicted": guess[name], "error": guess[name] / truth[name] - 1.0}
            for name in truth
        },
        "a request in the queue, bytes": queue_bytes(100 if options.quick else 1000),
        "layouts by clients in one sum": layouts(),
        "network": NETWORK,
        "flat": {str(size): whole_round(model, size) for size in SIZES if size <= MAX_COHORT},
        "in groups": {str(size): tree(model, size) for size in SIZES if size > GROUP},
    }
    report(options, figures)


if __name__ == "__main__":
    main()
