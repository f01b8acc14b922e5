"""Records and data sets: the only form in which data reaches the rest of this package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from secure_fu.errors import ArgumentError, DataError

__all__ = ["Dataset", "Records", "split_records"]


@dataclass(frozen=True, eq=False, repr=False)
class Records:
    """Labelled records, checked when made. Its ``repr`` shows counts and shapes only.

    Attributes:
        features: float32, shape (n, ...), finite, on the CPU.
        labels: int64, shape (n,), at least 0.
        groups: who each record belongs to, an array of n strings, or None when nobody says. All records of a group are
            one unit for the group unit.

    Raises:
        DataError: shapes or dtypes do not fit, a feature is NaN or infinite, or a label is negative. n = 0 is
        allowed: a
            Poisson sample can be empty.
    """

    features: Tensor
    labels: Tensor
    groups: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        if self.features.dtype != torch.float32 or self.features.dim() < 2:
            raise DataError(
                f"features are {self.features.dtype} of shape {tuple(self.features.shape)}; "
                "expected float32 of shape (records, ...)"
            )
        count = self.features.shape[0]
        if self.labels.dtype != torch.int64 or tuple(self.labels.shape) != (count,):
            raise DataError(
                f"labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}; "
                f"expected int64 of shape ({count},)"
            )
        if self.groups is not None and (self.groups.dtype.kind != "U" or self.groups.shape != (count,)):
            raise DataError(
                f"groups are {self.groups.dtype} of shape {self.groups.shape}; expected strings of shape ({count},)"
            )
        broken = int((~torch.isfinite(self.features)).reshape(count, -1).any(dim=1).sum()) if count else 0
        if broken:
            raise DataError(f"{broken} of {count} records have a feature that is NaN or infinite; expected finite ones")
        if count and int(self.labels.min()) < 0:
            raise DataError("a label is negative; expected class numbers from 0")

    @classmethod
    def from_arrays(
        cls, features: Tensor | ArrayLike, labels: Tensor | ArrayLike, groups: Sequence[str] | None = None
    ) -> Records:
        """Convert arrays of any numeric dtype, with the checks of the class.

        Raises:
            DataError: also when a value cannot be converted, or a label is not a whole number.
        """
        try:
            float_features = torch.as_tensor(_plain(features)).to(torch.float32).contiguous()
            raw_labels = torch.as_tensor(_plain(labels))
        except (TypeError, ValueError, RuntimeError, OverflowError):
            # from None: numpy's message would quote a value.
            raise DataError("features or labels are no rectangular arrays of numbers; expected such arrays") from None
        int_labels = raw_labels.real.to(torch.int64)
        if bool((int_labels != raw_labels).any()):
            raise DataError("a label is not a whole number; expected class numbers from 0")
        names = None if groups is None else np.array([str(group) for group in groups], dtype=np.str_)
        return cls(float_features, int_labels, names)

    def __len__(self) -> int:
        return self.features.shape[0]

    def __repr__(self) -> str:
        grouped = "" if self.groups is None else f", groups={len(np.unique(self.groups))}"
        return f"Records({len(self)}, shape={self.shape}{grouped})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one record's features."""
        return tuple(self.features.shape[1:])

    @property
    def width(self) -> int:
        """Number of features of one record."""
        return math.prod(self.shape)

    def subset(self, indices: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Records:
        """The records at these indices, in this order, or where a mask of n bools is true. Copies.

        Raises:
            ArgumentError: an index outside [0, n), or a mask of another length.
        """
        chosen = np.arange(len(self), dtype=np.int64)
        try:
            chosen = chosen[indices]
        except IndexError as error:
            raise ArgumentError("indices", f"{type(indices).__name__}", f"indices into {len(self)} records") from error
        if chosen.ndim != 1:
            raise ArgumentError("indices", f"of shape {np.shape(chosen)}", "a one-dimensional array")
        index = torch.from_numpy(chosen)
        # What is checked stays checked: a subset is taken each round, and must not pay for the checks again.
        records = object.__new__(Records)
        object.__setattr__(records, "features", self.features.index_select(0, index))
        object.__setattr__(records, "labels", self.labels.index_select(0, index))
        object.__setattr__(records, "groups", None if self.groups is None else self.groups[chosen])
        return records


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Training and test records of one task.

    Attributes:
        train, test: not empty, of one feature shape.
        classes: number of classes; every label is below it. It is public, as are the shapes.
        name: short, in lower case.
        description: a sentence for reports: where the data come from and how features were scaled.

    Raises:
        DataError: an attribute does not fit.
    """

    train: Records
    test: Records
    classes: int
    name: str
    description: str

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise DataError(f"{self.name}: {self.classes} classes; expected at least 2")
        if self.train.shape != self.test.shape:
            raise DataError(
                f"{self.name}: features of shape {self.train.shape} in train and {self.test.shape} in test; "
                "expected the same"
            )
        for part, records in (("train", self.train), ("test", self.test)):
            if len(records) == 0:
                raise DataError(f"{self.name}: no {part} records; expected at least one")
            if int(records.labels.max()) >= self.classes:
                raise DataError(
                    f"{self.name}: a {part} label is {int(records.labels.max())}; expected labels below {self.classes}"
                )


def split_records(records: Records, *, test_fraction: float, seed: int) -> tuple[Records, Records]:
    """Split into training and test records at random, groups kept whole.

    Args:
        test_fraction: in (0, 1). The test part gets the least number of records that is not below this fraction.
        seed: of the split only; any integer >= 0.

    Returns:
        (train, test), each in the original order.

    Raises:
        ArgumentError: the fraction or the seed is out of range.
        DataError: there are too few records or groups for two parts that are not empty.
    """
    if not 0.0 < test_fraction < 1.0:
        raise ArgumentError("test_fraction", test_fraction, "a number in (0, 1)")
    if seed < 0:
        raise ArgumentError("seed", seed, "an integer >= 0")
    generator = np.random.default_rng(seed)
    if records.groups is None:
        unit_of = np.arange(len(records))
        units = len(records)
    else:
        names, unit_of = np.unique(records.groups, return_inverse=True)
        units = len(names)
    order = generator.permutation(units)
    sizes = np.bincount(unit_of, minlength=units)[order]
    wanted = math.ceil(test_fraction * len(records))
    taken = int(np.searchsorted(np.cumsum(sizes), wanted)) + 1
    if not 0 < taken < units:
        raise DataError(
            f"{len(records)} records in {units} units cannot give a test part of {test_fraction:g} and leave some "
            "to train; expected more records or groups"
        )
    in_test = np.zeros(units, dtype=np.bool_)
    in_test[order[:taken]] = True
    mask = in_test[unit_of]
    return records.subset(~mask), records.subset(mask)


def _plain(values: Tensor | ArrayLike) -> Tensor | NDArray[np.generic]:
    """What torch can take over: writable, of native byte order, without the unsigned types that torch half knows."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    array = np.asarray(values)
    if array.dtype.kind == "u":
        return array.astype(np.int64)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native if native.flags.writeable else native.copy()
