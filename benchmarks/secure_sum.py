"""Secure sums with scheme `kahe` and a committee of ten: bytes, client, opening, a thousand clients, and peers.

Committee of 10 with f = 3, quorum 7, threshold 7. Everything but the thousand clients runs on one core. All sums are
checked against the plain ones. Repetitions alternate, ratios are taken pair by pair. The thousand uploads take 2.3 GB
of temporary space (TMPDIR).

Flower does not install beside the pinned command line; for its figures run this from an environment with
`pip install secure-fu[flower]`.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from harness import arguments, on_one_core, report, spread, timed
from numpy.typing import NDArray
from secure_sum_cohort import cohort
from secure_sum_parties import PURPOSE, TERMS, Federation, header_in, warm_up
from secure_sum_peers import bfv, ckks, secaggplus

from secure_fu.crypto import OsRandomness, SecureStream, decode, encode, seal
from secure_fu.crypto.kahe import CiphertextSum, ClientKey, open_sum

# The one private import: a server decodes and folds in one call, and the fold has a target of its own.
from secure_fu.crypto.kahe._planes import fold, from_wire
from secure_fu.crypto.sharing import decode_share, encode_share, recover_key, share_key
from secure_fu.protocol import Client, ClientRecord, CommitteeEncryption, CommitteeServer, Header
from secure_fu.protocol.committee.layout import layout_of
from secure_fu.protocol.committee.messages import Answer, ShareBinding
from secure_fu.protocol.header import grid_of, noise_share_of
from secure_fu.protocol.messages import Invitation, Upload, digest
from secure_fu.protocol.sums import RandomStream, RoundTerms

CLIENTS = 10
_KEY_WORK = "key work: generate, share, seal ten boxes"
UPLOADS = 4
BYTES = {(16, 100_000): 3.5, (16, 1_000_000): 2.5, (16, 10_000_000): 2.27, (28, 1_000_000): 4.6}


def main() -> None:
    options = arguments(__doc__)
    repetitions = 3 if options.quick else 15
    length = 1_000_000
    sizes, minimum = ((10, 50), 10) if options.quick else ((50, 200, 1000), 50)
    warm_up()
    rows = Rows()
    with on_one_core(), tempfile.TemporaryDirectory(prefix="secure-sum-") as name:
        federation = Federation(CLIENTS, minimum=UPLOADS)
        figures: dict[str, object] = {
            "upload bytes a parameter": _bytes(federation, Path(name), rows),
            "one client": _client(federation, Path(name), length, repetitions, rows),
            "opening": _opening(federation, Path(name), length, repetitions, rows),
            "peers": _peers(federation, Path(name), length, repetitions, rows),
        }
    thousand = cohort(sizes, length=length, minimum=minimum)
    figures["cohort"] = thousand
    _judge_cohort(thousand, sizes, rows)
    rows.show()
    figures["targets"] = rows.as_figures()
    figures["seeds"] = "vectors: numpy's default_rng of the client's number; keys, errors and noise: fresh"
    report(options, figures, packages=("flwr",) if find_spec("flwr") else ())


class Rows:
    """What the table at the end says: a figure, and what it has to be where there is a target."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, float, str, float | None, bool]] = []

    def most(self, what: str, value: float, unit: str, target: float) -> None:
        """A figure that must not exceed its target."""
        self._rows.append((what, value, unit, target, value <= target))

    def least(self, what: str, value: float, unit: str, target: float) -> None:
        """A figure that must reach its target."""
        self._rows.append((what, value, unit, target, value >= target))

    def note(self, what: str, value: float, unit: str) -> None:
        """A figure without a target."""
        self._rows.append((what, value, unit, None, True))

    def show(self) -> None:
        width = max(len(what) for what, *_ in self._rows)
        for what, value, unit, target, met in self._rows:
            against = "" if target is None else f"target {target:<7g} {'met' if met else 'MISSED'}"
            print(f"{what:<{width}}  {value:>10.4g} {unit:<6} {against}".rstrip())

    def as_figures(self) -> dict[str, dict[str, object]]:
        return {
            what: {"value": value, "unit": unit, "target": target, "met": met}
            for what, value, unit, target, met in self._rows
            if target is not None
        }


class _Announcer:
    """Opens one round after another on one server; rounds that are not finished are aborted."""

    def __init__(self, federation: Federation, folder: Path, *, sum_bits: int, length: int) -> None:
        folder.mkdir()
        self.server: CommitteeServer = federation.server(folder, sum_bits=sum_bits)
        self._federation = federation
        self._length = length
        self._number = 0
        self.encoded = b""

    def next(self) -> tuple[Invitation, Header]:
        """A fresh header: nothing that depends on its hash has been computed in this process."""
        self.server.give_up("benchmark")
        self._number += 1
        self.encoded = self._federation.invitation(self.server, length=self._length, number=self._number)
        invitation = decode(Invitation, self.encoded)
        return invitation, header_in(invitation)


def _values(header: Header, number: int) -> NDArray[np.int64]:
    largest = layout_of(header).largest_digit // CLIENTS
    return np.random.default_rng(number).integers(-largest, largest, header.length, endpoint=True)


def _plain_sum(header: Header) -> NDArray[np.int64]:
    total = np.zeros(header.length, dtype=np.int64)
    for number in range(UPLOADS):
        total += _values(header, number)
    return total


def _bytes(federation: Federation, folder: Path, rows: Rows) -> dict[str, object]:
    """Whole rounds, whose sums are checked, and what one encoded upload of each weighs."""
    figures: dict[str, object] = {}
    for (bits, length), target in BYTES.items():
        announcer = _Announcer(federation, folder / f"bytes-{bits}-{length}", sum_bits=bits, length=length)
        invitation, header = announcer.next()
        uploads = _uploads(federation, invitation, header)
        released = _released(federation, announcer.server, uploads)
        expected = grid_of(header).decode(_plain_sum(header), seed=invitation.announcement.header_digest)
        if not np.array_equal(released, expected):
            raise SystemExit("the released sum is wrong")
        layout, upload = layout_of(header), decode(Upload, uploads[0])
        figures[f"{bits}-bit sums, {length} parameters"] = {
            "bytes a parameter": len(uploads[0]) / length,
            "ciphertext alone": len(upload.body) / length,
            "shares, bytes": sum(len(share) for share in upload.shares),
            "parameter set": layout.parameter_set.name,
            "digits a coefficient": layout.digits,
        }
        rows.most(f"upload, {bits}-bit sums, {length:.0e} parameters", len(uploads[0]) / length, "B/par", target)
        if length == max(most for _, most in BYTES):
            rows.most(f"fold one decoded client, {length:.0e}", _fold(header, upload, figures), "ms", 8.0)
    return figures


def _uploads(federation: Federation, invitation: Invitation, header: Header) -> list[bytes]:
    return [
        federation.upload(federation.clients[number], invitation, header, _values(header, number))
        for number in range(UPLOADS)
    ]


def _answers(federation: Federation, server: CommitteeServer, uploads: list[bytes]) -> list[bytes]:
    """From the uploads to what all members answer, which the server has received."""
    for upload in uploads:
        server.receive(upload)
    server.close()
    members = federation.committee()
    for member in members:
        server.receive_vote(member.vote(server.ballot(member.name)))
    quorum = server.quorum()
    answers = [member.answer(quorum) for member in members]
    for answer in answers:
        server.receive_answer(answer)
    return answers


def _released(federation: Federation, server: CommitteeServer, uploads: list[bytes]) -> NDArray[np.float64]:
    _answers(federation, server, uploads)
    return server.release().values


def _fold(header: Header, upload: Upload, figures: dict[str, object]) -> float:
    layout = layout_of(header)
    decoded = from_wire(layout, upload.body)
    total = decoded.copy()
    seconds = [timed(fold, layout, total, decoded)[0] for _ in range(15)]
    decoding = [timed(from_wire, layout, upload.body)[0] for _ in range(5)]
    figures[f"fold one decoded client, {header.length} parameters, ms"] = spread(seconds, scale=1e3)
    figures[f"decode one ciphertext, {header.length} parameters, ms"] = spread(decoding, scale=1e3)
    return 1e3 * statistics.median(seconds)


def _client(federation: Federation, folder: Path, length: int, repetitions: int, rows: Rows) -> dict[str, object]:
    announcer = _Announcer(federation, folder / "client", sum_bits=16, length=length)
    done = [_client_once(federation, announcer) for _ in range(repetitions)]
    seconds = {what: [once[what] for once in done] for what in done[0]}
    medians = {what: statistics.median(taken) for what, taken in seconds.items()}
    for what, median in medians.items():
        if what == _KEY_WORK:
            rows.most(f"{what}, N = 8192", 1e3 * median, "ms", 10.0)
        else:
            rows.note(f"{what}, {length:.0e}", 1e3 * median, "ms")
    header = announcer.next()[1]
    if layout_of(header).parameter_set.degree != 8192:
        raise SystemExit("the key is not of 8192 coefficients")
    return {
        "parameters": length,
        "digits a coefficient": layout_of(header).digits,
        "variance of a noise share, steps squared": float(noise_share_of(header).sigma_squared),
        "ms": {what: spread(taken, scale=1e3) for what, taken in seconds.items()},
        "million parameters a second": {
            what: length / median / 1e6 for what, median in medians.items() if what != _KEY_WORK
        },
    }


def _client_once(federation: Federation, announcer: _Announcer) -> dict[str, float]:
    """Seconds for each kind of a client's work, under a fresh header."""
    invitation, header = announcer.next()
    seed, layout, values = invitation.announcement.header_digest, layout_of(header), _values(header, 0)
    first, second = ClientKey.generate(layout), ClientKey.generate(layout)
    work: dict[str, Callable[[], object]] = {
        "whole upload, a expanded": lambda: federation.upload("client-0000", invitation, header, values),
        "whole upload, a cached": lambda: federation.upload("client-0001", invitation, header, values),
        "encryption alone, a expanded": lambda: first.encrypt(values, seed=digest(seed)),
        "encryption alone, a cached": lambda: second.encrypt(values, seed=seed),
        _KEY_WORK: lambda: _key_work(federation, header, seed),
        "noise": lambda: noise_share_of(header).sample(header.length, stream=SecureStream()),
        "whole answer to an invitation: rotation, noise and upload": lambda: _respond(federation, announcer.encoded),
    }
    return {what: timed(call)[0] for what, call in work.items()}


def _key_work(federation: Federation, header: Header, header_digest: bytes) -> None:
    """What a client does besides encrypting: a key, its shares, and a box for each member."""
    key = ClientKey.generate(layout_of(header))
    shares = share_key(key.coefficients, TERMS, stream=SecureStream())
    for member, share in zip(header.committee, shares, strict=True):
        binding = ShareBinding(header_digest=header_digest, client="client-0000", member=member)
        sealing_key = federation.roster.party(member).sealing_key
        seal(sealing_key, encode_share(share), associated_data=encode(binding))


class _Zero:
    """A client's code that has nothing to say."""

    def contribution(self, model: NDArray[np.float32], terms: RoundTerms, stream: RandomStream) -> NDArray[np.float64]:
        return np.zeros(model.size)


def _respond(federation: Federation, invitation: bytes) -> bytes:
    client = Client(
        federation.identities["client-0000"],
        roster=federation.roster,
        policy=federation.policy,
        encryption=CommitteeEncryption(roster=federation.roster),
        tasks={PURPOSE: _Zero()},
        randomness=OsRandomness(),
        record=ClientRecord(None),
    )
    return client.respond(invitation)


def _opening(federation: Federation, folder: Path, length: int, repetitions: int, rows: Rows) -> dict[str, object]:
    announcer = _Announcer(federation, folder / "opening", sum_bits=16, length=length)
    invitation, header = announcer.next()
    uploads = _uploads(federation, invitation, header)
    layout, seed = layout_of(header), invitation.announcement.header_digest
    answers = {
        position: decode_share(decode(Answer, answer).share, terms=TERMS, degree=layout.parameter_set.degree)
        for position, answer in enumerate(_answers(federation, announcer.server, uploads))
    }
    running = CiphertextSum(layout)
    for upload in uploads:
        running.add(decode(Upload, upload).body)
    total, plain = running.total(), _plain_sum(header)

    def opened() -> NDArray[np.int64]:
        return recover_key(
            answers,
            TERMS,
            length=layout.parameter_set.degree,
            bound=layout.key_bound(UPLOADS),
            accept=lambda key: open_sum(layout, total, key, seed=seed, uploads=UPLOADS),
        ).value

    cold: list[float] = []
    warm: list[float] = []
    for number in range(repetitions):
        for other in range(2):  # the expansions of two other seeds displace this one's
            key = ClientKey.generate(layout)
            key.encrypt(_values(header, 0), seed=digest(bytes([number, other])))
        for seconds in (cold, warm):
            taken, values = timed(opened)
            seconds.append(taken)
            if not np.array_equal(values, plain):
                raise SystemExit("the opened sum is wrong")
    rows.most(f"recover the key and open, a expanded, {length:.0e}", 1e3 * statistics.median(cold), "ms", 250.0)
    rows.note(f"recover the key and open, a cached, {length:.0e}", 1e3 * statistics.median(warm), "ms")
    return {"a expanded, ms": spread(cold, scale=1e3), "a cached, ms": spread(warm, scale=1e3)}


def _peers(federation: Federation, folder: Path, length: int, repetitions: int, rows: Rows) -> dict[str, object]:
    announcer = _Announcer(federation, folder / "peers", sum_bits=16, length=length)
    few = min(repetitions, 5)
    peers = [ckks(length, few), bfv(length, few)]
    if find_spec("flwr") is None:
        print("Flower's SecAgg+ is left out: install the extra flower")
    else:
        peers += [secaggplus(length, 10, few), secaggplus(length, 100, few)]
    name = "secure_fu kahe"
    ours: list[float] = []
    taken: dict[str, list[float]] = {peer.name: [] for peer in peers}
    sent: dict[str, int] = {}
    for _ in range(repetitions):
        seconds, sent[name] = _own_upload(federation, announcer)
        ours.append(seconds)
        for peer in peers:
            seconds, sent[peer.name] = peer.upload()
            taken[peer.name].append(seconds)
    figures: dict[str, object] = {
        name: {"one client, ms": spread(ours, scale=1e3), "bytes a parameter": sent[name] / length}
    }
    for peer in peers:
        theirs = taken[peer.name]
        ratio = spread([other / mine for other, mine in zip(theirs, ours, strict=True)])
        figures[peer.name] = {
            "one client, ms": spread(theirs, scale=1e3),
            "million parameters a second": length / statistics.median(theirs) / 1e6,
            "bytes a parameter": sent[peer.name] / length,
            "its time over that of kahe, a expanded, pairs": ratio,
            **peer.others,
        }
        rows.note(f"{peer.name}: one client", 1e3 * statistics.median(theirs), "ms")
        rows.note(f"{peer.name}: upload", sent[peer.name] / length, "B/par")
        if peer is peers[0]:
            rows.least("whole upload, a expanded: rate over CKKS", ratio["median"], "times", 3.0)
    return figures


def _own_upload(federation: Federation, announcer: _Announcer) -> tuple[float, int]:
    invitation, header = announcer.next()
    values = _values(header, 0)
    taken, upload = timed(federation.upload, "client-0000", invitation, header, values)
    return taken, len(upload)


def _judge_cohort(figures: dict[str, Any], sizes: tuple[int, ...], rows: Rows) -> None:
    for size in sizes:
        found = figures[f"{size} uploads"]
        whole = found["server: all but reading the files, s"]
        member = found["a member: vote and answer, s"]["median"]
        memory = found["server: peak memory above start at the end, MB"]
        if size == 1000:
            receiving = found["server: receive one upload (decode, verify, fold), ms"]["median"]
            rows.note("receive one upload: decode, verify, fold", receiving, "ms")
            rows.most("server, 1000 uploads received and opened", whole, "s", 6.0)
            rows.most("a member, 1000 uploads", member, "s", 0.3)
        rows.most(f"server's memory above start, {size} uploads", memory, "MB", 100.0)


if __name__ == "__main__":
    main()
