"""How a round's vectors lie in ciphertexts of scheme `kahe`: read from the header, the same for everybody."""

from __future__ import annotations

from functools import lru_cache

from secure_fu.crypto.kahe import PARAMETER_SETS, Layout
from secure_fu.errors import ArgumentError, CapacityError, PolicyRefusal
from secure_fu.protocol.header import Header, grid_of, largest_sum_of

__all__ = ["kahe_parameter_sets", "layout_of"]


def kahe_parameter_sets() -> frozenset[str]:
    """Names of all parameter sets of scheme `kahe`, for a policy that allows them all."""
    return frozenset(PARAMETER_SETS)


@lru_cache(maxsize=8)
def layout_of(header: Header) -> Layout:
    """The layout of a header's round.

    Raises:
        PolicyRefusal: the header names no parameter set of scheme `kahe`, or one that its vectors do not fit.
        CapacityError: the digits do not hold an honest sum of the whole cohort.
    """
    if header.parameter_set not in PARAMETER_SETS:
        raise PolicyRefusal(
            f"header field parameter_set is {header.parameter_set!r}; expected one of {sorted(PARAMETER_SETS)}"
        )
    try:
        layout = Layout(
            parameter_set=PARAMETER_SETS[header.parameter_set],
            length=grid_of(header).encoded_dimension,
            digit_bits=header.digit_bits,
            clients=len(header.cohort),
        )
    except ArgumentError as error:
        raise PolicyRefusal(f"header field digit_bits is {header.digit_bits}: {error}") from None
    largest = largest_sum_of(header, len(header.cohort))
    if largest > layout.largest_digit:
        raise CapacityError(
            f"a sum of {len(header.cohort)} uploads can reach {largest}; digits of {header.digit_bits} bits hold at "
            f"most {layout.largest_digit}"
        )
    return layout
