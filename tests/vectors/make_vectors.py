"""Make the known-answer files of scheme kahe and its protocol, which lie beside this file.

They pin this implementation, whose parts are tested against slow versions elsewhere, for whoever writes a second one:
all inputs are in the files or given by a formula there, and running this again makes the same bytes. Keys are counting
bytes, and nobody's. Sealed boxes cannot be made again, for ML-KEM's encapsulation draws fresh randomness: those in
recorded_boxes.json were made once, by ``--record``, and are inputs here.

    python tests/vectors/make_vectors.py [folder]
    python tests/vectors/make_vectors.py --record
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

import protocol_cases
import round_parts
from protocol_cases import error_of

from secure_fu.crypto import CommitteeTerms
from secure_fu.crypto.kahe import PARAMETER_SETS, CiphertextSum, ClientKey, Layout, cipher, open_sum
from secure_fu.crypto.kahe._expansion import expand
from secure_fu.crypto.kahe._planes import from_wire, to_wire
from secure_fu.crypto.sharing import FIELD_PRIME, decode_share, encode_share, recover_key, share_key
from secure_fu.errors import OpeningError

FOLDER = Path(__file__).parent
SEED = hashlib.sha256(b"secure-fu vectors").digest()
KEY = "(7 i^2 + 3 i + c) mod 27 - 13"
ERRORS = "(5 i^2 + i + c) mod 23 - 11"
VALUES = "(40503 i + 7 c) mod (2 M + 1) - M, with M = largest_digit // clients"

Integers = NDArray[np.int64]


def key_of(degree: int, c: int) -> Integers:
    """The key of client c."""
    i = np.arange(degree, dtype=np.int64)
    return (7 * i * i + 3 * i + c) % 27 - 13


def errors_of(count: int, c: int) -> Integers:
    """The errors of client c."""
    i = np.arange(count, dtype=np.int64)
    return (5 * i * i + i + c) % 23 - 11


def values_of(layout: Layout, c: int) -> Integers:
    """The vector of client c."""
    most = layout.largest_digit // layout.clients
    i = np.arange(layout.length, dtype=np.int64)
    return (40503 * i + 7 * c) % (2 * most + 1) - most


def encrypted(layout: Layout, values: Integers, *, key: Integers, errors: Integers) -> bytes:
    """The ciphertext that an honest client makes of these."""
    with mock.patch.object(cipher, "sample_discrete_gaussian", return_value=errors):
        return ClientKey(layout, key.copy()).encrypt(values, seed=SEED)


def layout_fields(layout: Layout) -> dict[str, Any]:
    """What names a layout."""
    return {
        "parameter_set": layout.parameter_set.name,
        "length": layout.length,
        "digit_bits": layout.digit_bits,
        "clients": layout.clients,
    }


def layout_from(fields: Mapping[str, Any]) -> Layout:
    """The layout that those fields name."""
    return Layout(
        parameter_set=PARAMETER_SETS[fields["parameter_set"]],
        length=fields["length"],
        digit_bits=fields["digit_bits"],
        clients=fields["clients"],
    )


def sha256(data: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest()


SMALLEST = Layout(parameter_set=PARAMETER_SETS["kahe-1024-25"], length=100, digit_bits=10, clients=3)
LAYOUTS = [
    SMALLEST,
    Layout(parameter_set=PARAMETER_SETS["kahe-1024-25"], length=1200, digit_bits=8, clients=10),
    Layout(parameter_set=PARAMETER_SETS["kahe-2048-48"], length=1, digit_bits=2, clients=1),
    Layout(parameter_set=PARAMETER_SETS["kahe-2048-48"], length=5000, digit_bits=16, clients=30),
    Layout(parameter_set=PARAMETER_SETS["kahe-4096-96"], length=21_000, digit_bits=40, clients=100),
    Layout(parameter_set=PARAMETER_SETS["kahe-4096-96"], length=100, digit_bits=16, clients=1000),
    Layout(parameter_set=PARAMETER_SETS["kahe-8192-196"], length=8, digit_bits=62, clients=3),
    Layout(parameter_set=PARAMETER_SETS["kahe-8192-196"], length=100_000, digit_bits=16, clients=10_000),
]
BAD_LAYOUTS = [
    ("a digit of one bit", ("kahe-1024-25", 10, 1, 3)),
    ("a digit of 63 bits", ("kahe-8192-196", 10, 63, 3)),
    ("no coordinate", ("kahe-1024-25", 0, 10, 3)),
    ("no client", ("kahe-1024-25", 10, 10, 0)),
    ("a digit too wide for the modulus", ("kahe-1024-25", 10, 18, 3)),
    ("so many keys that their sum can leave the field", ("kahe-8192-196", 10, 16, 200_000)),
]


def kahe() -> dict[str, Any]:
    """Parameter sets, public ring elements, layouts, planes, encryption, sums."""
    return {
        "comment": "made by secure_fu from formulas; tests/test_vectors.py has a second opinion on the smallest",
        "seed": {"comment": "SHA-256 of 'secure-fu vectors', in place of a header's digest", "hex": SEED.hex()},
        "formulas": {
            "comment": "of coordinate, coefficient or error i >= 0, for client c; all in integers",
            "key": KEY,
            "errors": ERRORS,
            "values": VALUES,
        },
        "parameter_sets": [
            {"name": p.name, "degree": p.degree, "residue_bits": p.residue_bits, "primes": list(p.primes)}
            for p in PARAMETER_SETS.values()
        ],
        "expansion": [_expansion(name, block) for name in PARAMETER_SETS for block in (0, 1)],
        "layouts": [_layout(layout) for layout in LAYOUTS],
        "bad_layouts": [_bad_layout(comment, arguments) for comment, arguments in BAD_LAYOUTS],
        "planes": [_planes(name) for name in PARAMETER_SETS],
        "encryption": [_encryption(layout) for layout in LAYOUTS],
        "bad_ciphertexts": _bad_ciphertexts(),
        "bad_openings": _bad_openings(),
    }


def _expansion(name: str, block: int) -> dict[str, Any]:
    index = len(PARAMETER_SETS[name].primes) - 1
    residues = expand(PARAMETER_SETS[name], SEED, block + 1)[block, index]
    return {
        "comment": "the transform of a; sha256 is of all N residues as little-endian 32-bit words",
        "parameter_set": name,
        "block": block,
        "prime_index": index,
        "first": residues[:8].tolist(),
        "sha256": sha256(residues.astype("<u4").tobytes()),
    }


def _layout(layout: Layout) -> dict[str, Any]:
    return layout_fields(layout) | {
        "digits": layout.digits,
        "coefficients": layout.coefficients,
        "blocks": layout.blocks,
        "ciphertext_bytes": layout.ciphertext_bytes,
        "scale_bits": layout.scale.bit_length() - 1,
        "largest_digit": layout.largest_digit,
        "error_bound_of_one": layout.error_bound(1),
        "error_bound_of_all": layout.error_bound(layout.clients),
        "key_bound_of_one": layout.key_bound(1),
        "key_bound_of_all": layout.key_bound(layout.clients),
    }


def _bad_layout(comment: str, arguments: tuple[str, int, int, int]) -> dict[str, Any]:
    fields = dict(zip(("parameter_set", "length", "digit_bits", "clients"), arguments, strict=True))
    return {"comment": comment} | fields | {"error": error_of(lambda: layout_from(fields))}


def _planes(name: str) -> dict[str, Any]:
    layout = Layout(parameter_set=PARAMETER_SETS[name], length=1, digit_bits=4, clients=1)
    primes = layout.parameter_set.primes
    rows = [
        [(104729 * j + 15485863 * row + 3 * j**5) % p for j in range(layout.coefficients)]
        for row, p in enumerate(primes)
    ]
    rows[0][0], rows[-1][-1] = primes[0] - 1, 0
    return layout_fields(layout) | {
        "comment": "one block; residues prime by prime; the first is the largest that there is",
        "residues": rows,
        "hex": to_wire(layout, np.array(rows, dtype=np.uint32).reshape(-1)).hex(),
    }


def _coefficients(layout: Layout, values: Integers, errors: Integers) -> list[int]:
    padded = [int(v) for v in values] + [0] * (layout.digits * layout.coefficients - layout.length)
    return [
        layout.scale * int(errors[j])
        + sum(padded[k * layout.coefficients + j] << (k * layout.digit_bits) for k in range(layout.digits))
        for j in range(layout.coefficients)
    ]


def _encryption(layout: Layout) -> dict[str, Any]:
    total, clients = CiphertextSum(layout), min(layout.clients, 3)
    degree = layout.parameter_set.degree
    uploads = []
    for c in range(clients):
        values, errors = values_of(layout, c), errors_of(layout.coefficients, c)
        ciphertext = encrypted(layout, values, key=key_of(degree, c), errors=errors)
        total.add(ciphertext)
        packed = _coefficients(layout, values, errors)
        uploads.append(
            {
                "client": c,
                "first_values": values[:4].tolist(),
                "last_value": int(values[-1]),
                "first_coefficients": [str(v) for v in packed[:2]],
                "coefficients_sha256": sha256(",".join(map(str, packed)).encode()),
                "ciphertext_start": ciphertext[:32].hex(),
                "ciphertext_sha256": sha256(ciphertext),
            }
        )
        if layout == SMALLEST:
            uploads[-1]["ciphertext"] = ciphertext.hex()
    key = np.sum([key_of(degree, c) for c in range(clients)], axis=0)
    opened = open_sum(layout, total.total(), key, seed=SEED, uploads=clients)
    if not np.array_equal(opened, np.sum([values_of(layout, c) for c in range(clients)], axis=0)):
        raise ValueError("the sum does not open to the sum")
    return layout_fields(layout) | {
        "comment": "inputs by formula; coefficients are T e + m, in decimal, joined by commas for their sha256",
        "uploads": uploads,
        "total_sha256": sha256(total.total()),
        "opened_first": opened[:4].tolist(),
        "opened_sha256": sha256(opened.astype("<i8").tobytes()),
    }


def _bad_ciphertexts() -> list[dict[str, Any]]:
    good = encrypted(SMALLEST, values_of(SMALLEST, 0), key=key_of(1024, 0), errors=errors_of(SMALLEST.coefficients, 0))
    p = SMALLEST.parameter_set.primes[0]

    def with_residue(position: int, value: int) -> bytes:
        residues = from_wire(SMALLEST, good).copy()
        residues[position] = value
        return to_wire(SMALLEST, residues)

    cases = [
        ("the first residue is the prime", with_residue(0, p)),
        ("the last residue is the prime", with_residue(SMALLEST.coefficients - 1, p)),
        ("a residue of all ones", with_residue(40, (1 << 25) - 1)),
        ("one byte short", good[:-1]),
        ("a trailing byte", good + b"\0"),
        ("empty", b""),
        ("the ciphertext of a longer vector", good + good),
    ]
    return [
        layout_fields(SMALLEST)
        | {"comment": comment, "hex": data.hex(), "error": error_of(lambda d=data: CiphertextSum(SMALLEST).add(d))}
        for comment, data in cases
    ]


def _bad_openings() -> list[dict[str, Any]]:
    """Totals that decode and that no key or not this key opens: a padding digit that is not zero, errors too large."""
    errors = errors_of(SMALLEST.coefficients, 0)
    bound = SMALLEST.error_bound(1)
    wide = Layout(parameter_set=SMALLEST.parameter_set, length=SMALLEST.coefficients, digit_bits=10, clients=3)
    if (wide.digits, wide.coefficients) != (SMALLEST.digits, SMALLEST.coefficients):
        raise ValueError("the longer vector is to fill the same coefficients")
    padding = np.zeros(wide.length, dtype=np.int64)
    padding[SMALLEST.length] = 1
    beyond, lowest, most = errors.copy(), errors.copy(), errors.copy()
    beyond[5], lowest[5], most[5] = bound + 1, -bound - 1, bound
    key, values = key_of(1024, 0), values_of(SMALLEST, 0)
    other = key.copy()
    other[1023] += 1
    half = values.copy()
    half[0] = -512  # -2^(b - 1): a digit that no sum within the bounds has
    with mock.patch.object(Layout, "largest_digit", 512):
        outside = encrypted(SMALLEST, half, key=key, errors=errors)
    cases = [
        ("the first padding digit is 1", encrypted(wide, padding, key=key, errors=errors), key),
        ("an error one above the bound of one upload", encrypted(SMALLEST, values, key=key, errors=beyond), key),
        ("an error one below its negative", encrypted(SMALLEST, values, key=key, errors=lowest), key),
        ("the last coefficient of the key is one more", encrypted(SMALLEST, values, key=key, errors=errors), other),
        ("another client's key", encrypted(SMALLEST, values, key=key, errors=errors), key_of(1024, 1)),
        ("a digit of -2^(b - 1)", outside, key),
    ]
    open_sum(SMALLEST, encrypted(SMALLEST, values, key=key, errors=most), key, seed=SEED, uploads=1)  # the bound passes

    def tried(total: bytes, with_key: Integers) -> str:
        return error_of(lambda: open_sum(SMALLEST, total, with_key, seed=SEED, uploads=1))

    return [
        layout_fields(SMALLEST)
        | {"comment": comment, "hex": total.hex(), "key": found.tolist(), "uploads": 1, "error": tried(total, found)}
        for comment, total, found in cases
    ]


# Sharing.

TERMS = [(1, 1, 1, 0), (4, 3, 3, 1), (5, 5, 4, 2), (10, 7, 7, 3)]
LENGTH = 11


class GivenValues:
    """A stream of which each 16-bit part is a value below p, in the order given."""

    def __init__(self, values: Sequence[int]) -> None:
        self._values = list(values)

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next words, filled up with zeros."""
        taken, self._values = self._values[: 4 * count], self._values[4 * count :]
        return np.array(taken + [0] * (4 * count - len(taken)), dtype="<u2").view("<u8").astype(np.uint64)


def terms_from(fields: Mapping[str, int]) -> CommitteeTerms:
    """The terms that these fields name."""
    return CommitteeTerms(**fields)


def shared(fields: Mapping[str, int]) -> tuple[Integers, list[list[int]], NDArray[np.uint16]]:
    """Key, random values (one row for each of x = 1 .. f), shares."""
    terms = terms_from(fields)
    key = key_of(LENGTH, 5) * 40
    random = [[(31337 * r + 4111 * i + 65520) % FIELD_PRIME for i in range(terms.share_length(LENGTH))]
              for r in range(terms.corrupt)]  # fmt: skip
    stream = GivenValues([value for row in random for value in row])
    return key, random, share_key(key, terms, stream=stream)


def sharing() -> dict[str, Any]:
    """Packed Shamir over GF(65521): shares of given random values, and what comes back when some are wrong."""
    names = ("members", "threshold", "quorum", "corrupt")
    fields = [dict(zip(names, numbers, strict=True)) for numbers in TERMS]
    ten = fields[-1]
    bad_shares = [
        ("an element that is p", encode_share(np.zeros(3, dtype=np.uint16))[:-2] + FIELD_PRIME.to_bytes(2, "little")),
        ("an element of all ones", b"\xff\xff" + bytes(4)),
        ("one element too few", bytes(4)),
        ("half an element", bytes(5)),
        ("a trailing byte", bytes(7)),
        ("empty", b""),
    ]
    bad_terms = [(4, 1, 3, 1), (4, 5, 3, 1), (4, 3, 2, 1), (4, 3, 5, 1), (4, 4, 4, 4), (0, 1, 1, 0), (1025, 3, 1024, 1)]
    bad = [dict(zip(names, numbers, strict=True)) for numbers in bad_terms]
    return {
        "comment": "made by secure_fu; random values (at x = 1 .. f, a row each) and keys are in the file",
        "field_prime": FIELD_PRIME,
        "sharings": [_sharing(each) for each in fields],
        "recoveries": [
            _recovery(ten, "all ten answer", range(10), {}),
            _recovery(ten, "seven answer", (0, 2, 3, 5, 6, 8, 9), {}),
            _recovery(ten, "one of eight is wrong", range(8), {3: 1}),
            _recovery(ten, "one of ten is wrong, in one element", range(10), {9: 1}),
            _recovery(ten, "three of ten are wrong", range(10), {0: 7, 4: 8, 7: 9}),
            _recovery(ten, "six answer", range(6), {}),
            _recovery(ten, "one of seven is wrong", range(7), {6: 1}),
            _recovery(ten, "four of ten are wrong", range(10), {0: 7, 4: 8, 7: 9, 8: 1}),
        ],
        "bad_shares": [
            {"comment": comment, "terms": ten, "length": 12, "hex": data.hex(),
             "error": error_of(lambda d=data: decode_share(d, terms=terms_from(ten), degree=12))}
            for comment, data in bad_shares
        ],
        "bad_terms": [{"terms": each, "error": error_of(lambda f=each: terms_from(f))} for each in bad],
    }  # fmt: skip


def _sharing(fields: dict[str, int]) -> dict[str, Any]:
    key, random, shares = shared(fields)
    return {
        "terms": fields,
        "key": key.tolist(),
        "random": random,
        "shares": shares.tolist(),
        "encoded_last_share": encode_share(shares[-1]).hex(),
    }


def _recovery(fields: dict[str, int], comment: str, who: Sequence[int], wrong: Mapping[int, int]) -> dict[str, Any]:
    """Answers of these members, to the wrong ones of which something is added in every, or in the last, element."""
    key, _, shares = shared(fields)
    answers = {member: shares[member].astype(np.int64) for member in who}
    for member, spoil in wrong.items():
        where = slice(-1, None) if "one element" in comment else slice(None)
        answers[member][where] += spoil * (member + 1) * (1 + np.arange(answers[member].size)[where])
    given = {member: (answer % FIELD_PRIME).astype(np.uint16) for member, answer in answers.items()}
    case: dict[str, Any] = {
        "comment": f"{comment}; a candidate is accepted if it is the key",
        "terms": fields,
        "length": LENGTH,
        "bound": 600,
        "key": key.tolist(),
        "answers": {str(member): answer.tolist() for member, answer in given.items()},
    }

    def accept(found: Integers) -> bool:
        if not np.array_equal(found, key):
            raise OpeningError("not the key")
        return True

    try:
        case["misfits"] = list(recover_key(given, terms_from(fields), length=LENGTH, bound=600, accept=accept).misfits)
    except OpeningError as error:
        case["error"] = type(error).__name__
    return case


def files() -> dict[str, str]:
    """What every file holds, by name."""
    contents = {"kahe.json": kahe(), "sharing.json": sharing()} | protocol_cases.contents()
    return {name: _json(content) + "\n" for name, content in contents.items()}


def _json(content: Any, indent: str = "") -> str:
    """Objects over lines, lists of plain numbers and strings on one."""
    inner = indent + " "
    if isinstance(content, dict):
        items = [f"{inner}{json.dumps(key)}: {_json(value, inner)}" for key, value in content.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(content, list) and any(isinstance(item, (dict, list)) for item in content):
        return "[\n" + ",\n".join(inner + _json(item, inner) for item in content) + f"\n{indent}]"
    return json.dumps(content, ensure_ascii=False)


def main(arguments: Sequence[str]) -> None:
    """Write the files."""
    if list(arguments) == ["--record"]:
        (FOLDER / "recorded_boxes.json").write_text(_json(round_parts.recorded()) + "\n", encoding="utf-8")
    folder = Path(arguments[0]) if arguments and arguments[0] != "--record" else FOLDER
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
