"""Data sets that come with scikit-learn, and the way in for any torch ``Dataset``.

Features are scaled by public constants, written here, and never by statistics of the records at hand: a mean or a
maximum over private records would be a release that nobody accounted for.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch.utils.data import Dataset as TorchDataset

from secure_fu.errors import DataError
from secure_fu.learning.records import Dataset, Records, split_records

__all__ = ["breast_cancer", "digits", "torch_dataset"]

# Centre and scale of each feature, in scikit-learn's order, to two digits. They come from the published data set, so in
# this experiment they count as public; a real federation takes such constants from the literature of its field.
_BREAST_CANCER_CENTRE: Final = (
    *(14.0, 19.0, 92.0, 650.0, 0.096, 0.1, 0.089, 0.049, 0.18, 0.063),
    *(0.41, 1.2, 2.9, 40.0, 0.007, 0.025, 0.032, 0.012, 0.021, 0.0038),
    *(16.0, 26.0, 110.0, 880.0, 0.13, 0.25, 0.27, 0.11, 0.29, 0.084),
)
_BREAST_CANCER_SCALE: Final = (
    *(3.5, 4.3, 24.0, 350.0, 0.014, 0.053, 0.08, 0.039, 0.027, 0.0071),
    *(0.28, 0.55, 2.0, 45.0, 0.003, 0.018, 0.03, 0.0062, 0.0083, 0.0026),
    *(4.8, 6.1, 34.0, 570.0, 0.023, 0.16, 0.21, 0.066, 0.062, 0.018),
)


def digits(*, seed: int, test_fraction: float = 0.2) -> Dataset:
    """Handwritten digits, 1797 images of 8 x 8 pixels: features (n, 1, 8, 8) in [0, 1] (pixels / 16), ten classes.

    Source: UCI "Optical recognition of handwritten digits", test part, as shipped with scikit-learn.

    Args:
        seed: of the split into train and test.
        test_fraction: share of test records; 0.2 gives 1437 to train and 360 to test.

    Raises:
        ArgumentError: as :func:`split_records`.
    """
    bunch = load_digits()
    images = np.asarray(bunch.images, dtype=np.float32) / np.float32(16.0)
    records = Records.from_arrays(images[:, None, :, :], bunch.target)
    train, test = split_records(records, test_fraction=test_fraction, seed=seed)
    return Dataset(
        train=train,
        test=test,
        classes=10,
        name="digits",
        description="Handwritten digits of 8 x 8 pixels (UCI, as shipped with scikit-learn); pixels divided by 16.",
    )


def breast_cancer(*, seed: int, test_fraction: float = 0.2) -> Dataset:
    """Wisconsin diagnostic breast cancer, 569 records of 30 features, two classes (0 malignant, 1 benign).

    Features (n, 30) are centred and scaled by the constants of this file, rounded to two digits and taken as public.

    Args:
        seed: of the split into train and test.
        test_fraction: share of test records.

    Raises:
        ArgumentError: as :func:`split_records`.
    """
    bunch = load_breast_cancer()
    features = (np.asarray(bunch.data, dtype=np.float64) - _BREAST_CANCER_CENTRE) / _BREAST_CANCER_SCALE
    train, test = split_records(Records.from_arrays(features, bunch.target), test_fraction=test_fraction, seed=seed)
    return Dataset(
        train=train,
        test=test,
        classes=2,
        name="breast-cancer",
        description=(
            "Breast cancer, Wisconsin diagnostic (UCI, as shipped with scikit-learn); "
            "features centred and scaled by fixed constants taken as public."
        ),
    )


def torch_dataset(dataset: TorchDataset[object]) -> Records:
    """Read every item of a map-style torch ``Dataset`` of (features, label) pairs once, in order.

    Args:
        dataset: has ``len``; features are tensors or arrays of one shape (a scalar counts as one feature), labels whole
            numbers.

    Returns:
        Records with features (n, ...), in the values that the data set gives.

    Raises:
        DataError: it has no length, an item is not a pair, shapes differ between items, or a check of
            :class:`Records` fails.
    """
    try:
        count = len(dataset)  # type: ignore[arg-type]
    except TypeError as error:
        raise DataError(f"{type(dataset).__name__} has no length; expected a map-style torch Dataset") from error
    features: list[torch.Tensor] = []
    labels: list[int] = []
    for index in range(count):
        item = dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"item {index} of {type(dataset).__name__} is no pair; expected (features, label)")
        try:
            value = torch.as_tensor(item[0]).to(torch.float32)
            label = torch.as_tensor(item[1])
        except (TypeError, ValueError, RuntimeError):
            # from None: torch's message could quote a value.
            raise DataError(f"item {index} of {type(dataset).__name__} is not numeric; expected arrays") from None
        if label.numel() != 1 or int(label) != float(label):
            raise DataError(f"the label of item {index} of {type(dataset).__name__} is no whole number")
        if features and value.shape != features[0].shape:
            raise DataError(
                f"item {index} of {type(dataset).__name__} has features of shape {tuple(value.shape)}; "
                f"expected {tuple(features[0].shape)}, as the items before"
            )
        features.append(value)
        labels.append(int(label))
    if not features:
        raise DataError(f"{type(dataset).__name__} is empty; expected at least one item")
    stacked = torch.stack(features)
    return Records(stacked.reshape(count, -1) if stacked.dim() == 1 else stacked, torch.tensor(labels))
