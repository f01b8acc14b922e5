"""Scheme `bfv` through the project's own API against bare TenSEAL calls on the same vectors, and bytes a parameter.

The bare calls do the least that gives a serialised ciphertext of the same parameters: `bfv_vector` and `serialize`,
from arrays and from lists. Repetitions alternate, and ratios are taken pair by pair.
"""

from __future__ import annotations

import statistics

import numpy as np
import tenseal as ts
from harness import arguments, report, timed

from secure_fu.crypto import scheme

SLOTS = 4096
PLAIN_MODULUS = 1_073_692_673


def main() -> None:
    options = arguments(__doc__)
    length, repetitions = (50_000, 3) if options.quick else (1_000_000, 9)
    bfv = scheme("bfv")
    key = bfv.generate_key()
    public = bfv.load_public_key(key.public_bytes)
    bare = ts.context(
        ts.SCHEME_TYPE.BFV,
        poly_modulus_degree=SLOTS,
        plain_modulus=PLAIN_MODULUS,
        coeff_mod_bit_sizes=[54, 36],
        n_threads=1,
    )
    values = np.random.default_rng(0).integers(-(10**6), 10**6, length)
    arrays = [values[start : start + SLOTS] for start in range(0, length, SLOTS)]
    lists = [block.tolist() for block in arrays]
    work = {
        "bare, from arrays": lambda: [ts.bfv_vector(bare, block).serialize() for block in arrays],
        "bare, from lists": lambda: [ts.bfv_vector(bare, block).serialize() for block in lists],
        "secure_fu": lambda: bfv.encrypt(public, values),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repetitions):
        for name, call in work.items():
            seconds[name].append(timed(call)[0])
    upload = bfv.encrypt(public, values)
    accumulator = bfv.accumulator(public, length)
    clients = 10
    adds = [timed(lambda: accumulator.add(upload))[0] for _ in range(clients)]
    opening, opened = timed(lambda: bfv.open(key, accumulator.total(), length=length, bound=clients * 10**6))
    if not np.array_equal(opened, clients * values):
        raise SystemExit("the opened sum is wrong")
    report(
        options,
        {
            "parameters": length,
            "million parameters a second": {
                name: length / statistics.median(taken) / 1e6 for name, taken in seconds.items()
            },
            "rate of secure_fu over bare": {
                name: statistics.median(
                    other / own for other, own in zip(seconds[name], seconds["secure_fu"], strict=True)
                )
                for name in ("bare, from arrays", "bare, from lists")
            },
            "ciphertext bytes a parameter": len(upload) / length,
            "public key bytes": len(key.public_bytes),
            "add one client, ms": 1e3 * statistics.median(adds),
            "open the sum, ms": 1e3 * opening,
            "most clients": bfv.max_clients,
        },
    )


if __name__ == "__main__":
    main()
