"""What other systems' clients do for the same sum: CKKS as NVFLARE sets it up, Flower's SecAgg+, this project's `bfv`.

Each peer is a function that does one client's whole work on one vector and says how long it took and how many bytes the
client sent. What a client gets from others is prepared outside the time. Making one checks that its sums are right.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal as ts
from harness import spread, timed
from numpy.typing import NDArray

from secure_fu.crypto import scheme

__all__ = ["Peer", "bfv", "ckks", "secaggplus"]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One system.

    Attributes:
        name: for the table.
        upload: one client's work: seconds, and bytes sent.
        others: further figures, measured when the peer was made.
    """

    name: str
    upload: Callable[[], tuple[float, int]]
    others: dict[str, object]


def ckks(length: int, repetitions: int) -> Peer:
    """TenSEAL CKKS as NVFLARE's provisioning sets it up: N = 8192, [60, 40, 40], scale 2^40, symmetric encryption."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        poly_modulus_degree=8192,
        coeff_mod_bit_sizes=[60, 40, 40],
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
        n_threads=1,
    )
    context.global_scale = 2**40
    values = np.random.default_rng(0).normal(size=length)
    blocks = [values[start : start + 4096] for start in range(0, length, 4096)]

    def encrypt() -> list[bytes]:
        return [ts.ckks_vector(context, block).serialize() for block in blocks]

    def upload() -> tuple[float, int]:
        taken, sent = timed(encrypt)
        return taken, sum(len(part) for part in sent)

    def add(total: list[Any], upload: list[bytes]) -> None:
        for at, part in enumerate(upload):
            total[at] += ts.ckks_vector_from(context, part)

    def decrypted(total: list[Any]) -> NDArray[np.float64]:
        return np.concatenate([part.decrypt() for part in total])

    first, second = encrypt(), encrypt()
    adding, decrypting = [], []
    for _ in range(repetitions):
        total = [ts.ckks_vector_from(context, part) for part in first]
        taken, _ = timed(add, total, second)
        adding.append(taken)
        taken, opened = timed(decrypted, total)
        decrypting.append(taken)
        _check("ckks", np.allclose(opened, 2 * values, atol=1e-5))
    return Peer(
        name="TenSEAL CKKS 8192 [60, 40, 40]",
        upload=upload,
        others={
            "decode and add one client, ms": spread(adding, scale=1e3),
            "decrypt the sum, ms": spread(decrypting, scale=1e3),
        },
    )


def bfv(length: int, repetitions: int) -> Peer:
    """This project's other scheme; the client's encryption alone, without the box to the server and the signature."""
    own = scheme("bfv")
    public = own.load_public_key(own.generate_key().public_bytes)
    values = np.random.default_rng(0).integers(-1000, 1000, length)

    def upload() -> tuple[float, int]:
        taken, sent = timed(own.encrypt, public, values)
        return taken, len(sent)

    adding, opening = [], []
    for _ in range(repetitions):
        fresh = own.generate_key()  # opens once
        encrypting = own.load_public_key(fresh.public_bytes)
        accumulator = own.accumulator(encrypting, length)
        sent = own.encrypt(encrypting, values)
        adding += [timed(accumulator.add, sent)[0] for _ in range(2)]
        taken, opened = timed(
            lambda key=fresh, total=accumulator: own.open(key, total.total(), length=length, bound=2000)
        )
        opening.append(taken)
        _check("bfv", np.array_equal(opened, 2 * values))
    return Peer(
        name="secure_fu bfv 4096 [54, 36]",
        upload=upload,
        others={
            "decode and add one client, ms": spread(adding, scale=1e3),
            "open the sum, ms": spread(opening, scale=1e3),
        },
    )


def secaggplus(length: int, clients: int, repetitions: int) -> Peer:
    """Flower's SecAgg+ on a complete graph, threshold 7 of 10: its own client functions of all four stages.

    Quantisation and modulus are its defaults, 2^22 and 2^32.
    """
    _check_secaggplus()
    vector = np.random.default_rng(0).normal(size=length).astype(np.float32)
    neighbours = [_FlowerClient(number, clients) for number in range(1, clients)]
    for neighbour in neighbours:
        neighbour.set_up()

    def work() -> _FlowerClient:
        client = _FlowerClient(0, clients)
        client.set_up()
        client.share_keys({neighbour.number: neighbour.public_keys for neighbour in [client, *neighbours]})
        client.mask(vector, {neighbour.number: neighbour.box_to(client) for neighbour in neighbours})
        client.unmask(list(range(clients)))
        return client

    def upload() -> tuple[float, int]:
        client = work()
        return sum(client.seconds), client.sent

    done = [work() for _ in range(repetitions)]
    stages = ("set up", "share keys", "mask", "unmask")
    return Peer(
        name=f"Flower SecAgg+, {clients} clients",
        upload=upload,
        others={
            f"{stage}, ms": spread([client.seconds[at] for client in done], scale=1e3)
            for at, stage in enumerate(stages)
        },
    )


class _FlowerClient:
    """One client's four stages, timed together."""

    def __init__(self, number: int, clients: int) -> None:
        # The package has a function of the module's name.
        self._mod: Any = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
        self._constants: Any = importlib.import_module("flwr.common.secure_aggregation.secaggplus_constants")
        self._utils: Any = importlib.import_module("flwr.common.secure_aggregation.secaggplus_utils")
        self._common: Any = importlib.import_module("flwr.common")
        self._state: Any = self._mod.SecAggPlusState()
        self._state.nid = number
        self._clients = clients
        self.number = number
        self.seconds: list[float] = []
        self.sent = 0

    @property
    def public_keys(self) -> list[bytes]:
        return [self._state.pk1, self._state.pk2]

    def set_up(self) -> None:
        key = self._constants.Key
        configs = {
            key.SAMPLE_NUMBER: self._clients,
            key.SHARE_NUMBER: self._clients,
            key.THRESHOLD: self._clients * 7 // 10,
            key.CLIPPING_RANGE: 8.0,
            key.TARGET_RANGE: 1 << 22,
            key.MOD_RANGE: 1 << 32,
            key.MAX_WEIGHT: 1000.0,
        }
        self._stage(self._mod._setup, configs)

    def share_keys(self, public_keys: dict[int, list[bytes]]) -> dict[str, Any]:
        return self._stage(self._mod._share_keys, {str(number): keys for number, keys in public_keys.items()})

    def mask(self, vector: NDArray[np.float32], boxes: dict[int, bytes]) -> list[bytes]:
        key = self._constants.Key
        configs = {key.SOURCE_LIST: list(boxes), key.CIPHERTEXT_LIST: list(boxes.values())}
        parameters = self._common.ndarrays_to_parameters([vector])
        # A weight of max_weight: nothing is scaled.
        masked: list[bytes] = self._stage(self._mod._collect_masked_vectors, configs, 1000, parameters)[
            key.MASKED_PARAMETERS
        ]
        return masked

    def unmask(self, active: list[int]) -> dict[str, Any]:
        key = self._constants.Key
        return self._stage(self._mod._unmask, {key.ACTIVE_NODE_ID_LIST: active, key.DEAD_NODE_ID_LIST: []})

    def box_to(self, other: _FlowerClient) -> bytes:
        """A box as this client would send it to another; what is in it only has the right length."""
        shared = self._mod.generate_shared_key(
            self._mod.bytes_to_private_key(self._state.sk2), self._mod.bytes_to_public_key(other._state.pk2)
        )
        theirs = other._state.rd_seed_share_dict[other.number], other._state.sk1_share_dict[other.number]
        box: bytes = self._mod.encrypt(
            shared, self._utils.share_keys_plaintext_concat(self.number, other.number, *theirs)
        )
        return box

    def private_mask(self, shapes: list[tuple[int, ...]]) -> list[NDArray[np.int64]]:
        masks: list[NDArray[np.int64]] = self._utils.pseudo_rand_gen(self._state.rd_seed, 1 << 32, shapes)
        return masks

    def _stage(self, stage: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
        started = time.perf_counter()
        answer = stage(self._state, *arguments)
        self.seconds.append(time.perf_counter() - started)
        self.sent += sum(_size(value) for value in answer.values())
        return answer


def _check_secaggplus() -> None:
    """Four clients add up, masks and all."""
    clients = [_FlowerClient(number, 4) for number in range(4)]
    vectors = np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32)
    for client in clients:
        client.set_up()
    keys = {client.number: client.public_keys for client in clients}
    key = importlib.import_module("flwr.common.secure_aggregation.secaggplus_constants").Key
    boxes: dict[int, dict[int, bytes]] = {client.number: {} for client in clients}
    for client in clients:
        answer = client.share_keys(keys)
        for to, box in zip(answer[key.DESTINATION_LIST], answer[key.CIPHERTEXT_LIST], strict=True):
            boxes[to][client.number] = box
    from_bytes = importlib.import_module("flwr.common").bytes_to_ndarray
    total = np.zeros(1000, dtype=np.int64)
    for client, vector in zip(clients, vectors, strict=True):
        masked = [from_bytes(part) for part in client.mask(vector, boxes[client.number])]
        total += masked[1] - client.private_mask([part.shape for part in masked])[1]
    # Its quantisation takes a vector in [-8, 8] to integers from 0 to 2^22.
    opened = (total % (1 << 32)) * (16 / (1 << 22)) - 4 * 8
    _check("secaggplus", np.allclose(opened, vectors.sum(axis=0), atol=1e-4))


def _size(value: Any) -> int:
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, list):
        return sum(_size(part) for part in value)
    return 8


def _check(what: str, right: bool) -> None:
    if not right:
        raise SystemExit(f"{what}: the opened sum is wrong")
