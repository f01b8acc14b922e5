"""The figures in docs/kahe.md are those of the code."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from kahe_oracle import layout_of

from secure_fu.crypto.kahe import PARAMETER_SETS
from secure_fu.errors import CapacityError

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "kahe.md").read_text("utf-8")
ROWS = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:6] == "| `kah"]
MILLION = 1_000_000


def digits(name: str, digit_bits: int, clients: int) -> int:
    try:
        return layout_of(name, length=MILLION, digit_bits=digit_bits, clients=clients).digits
    except CapacityError:
        return 0


FITS = [row for row in ROWS if len(row) == 5 and row[1].isdigit() and int(row[1]) < 63]


def test_the_page_has_its_tables() -> None:
    assert len(FITS) == 28
    assert {(row[0], row[1]) for row in FITS} == {(s, str(b)) for s in PARAMETER_SETS for b in (12, 16, 20, 24, 28)}


@pytest.mark.parametrize("row", FITS, ids=lambda row: "-".join(row[:3]))
def test_what_fits(row: list[str]) -> None:
    name, digit_bits = row[0], int(row[1])
    if row[2] == "none":
        assert digits(name, digit_bits, 1) == 0
        return
    largest = int(row[3].replace(",", ""))
    assert digits(name, digit_bits, largest) == int(row[2])
    assert digits(name, digit_bits, largest + 1) < int(row[2])
    layout = layout_of(name, length=MILLION, digit_bits=digit_bits, clients=largest)
    assert f"{layout.ciphertext_bytes / MILLION:.2f}" == row[4]


def test_moduli_and_the_figures_in_the_text() -> None:
    for row in ROWS:
        if re.fullmatch(r"\d+\.\d\d", row[1]):
            assert row[1] == f"{math.log2(PARAMETER_SETS[row[0]].modulus):.2f}"
    for name, found in PARAMETER_SETS.items():
        assert re.search(rf"`{name}` \| {found.degree} \| .* \| {math.log2(found.modulus):.2f} \|", PAGE)
    layout = layout_of(length=MILLION, digit_bits=16, clients=100)
    factor = math.log2((2 * layout.error_bound(100) + 1) * layout.scale / layout.parameter_set.modulus)
    text = " ".join(PAGE.split())
    assert f"the factor is 2^{factor:.1f} and K is {layout.coefficients:,}" in text
    alone = layout_of("kahe-1024-25", length=MILLION, digit_bits=16, clients=1)
    assert alone.coefficients == MILLION
    assert f"{alone.error_bound(1)} for one upload and a million coefficients" in text
