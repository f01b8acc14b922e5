"""Models as flat vectors, data, and local training on records or whole clients.

Knows nothing of encryption, noise or accounting: what leaves this package are bounded contributions, float64 vectors.
"""

from __future__ import annotations

from secure_fu.learning.backdoor import Trigger
from secure_fu.learning.curvature import CurvatureSums, symmetric_of, triangle_length, triangle_of
from secure_fu.learning.evaluate import accuracy, logits, mean_loss, module_accuracy, predictions, record_losses
from secure_fu.learning.flat import FlatModel, Layer
from secure_fu.learning.heads import LinearHead
from secure_fu.learning.idx import idx_folder
from secure_fu.learning.losses import Loss, cross_entropy
from secure_fu.learning.magnitudes import magnitude_sum
from secure_fu.learning.models import cnn, logistic, mlp
from secure_fu.learning.partition import by_column, by_label, dirichlet, iid
from secure_fu.learning.per_client import LocalTraining, client_update, stacked_client_updates
from secure_fu.learning.per_record import PerRecordGradients
from secure_fu.learning.records import Dataset, Records, split_records
from secure_fu.learning.sampling import RandomStream, poisson_sample, poisson_sample_groups
from secure_fu.learning.sources import breast_cancer, digits, torch_dataset
from secure_fu.learning.stacked import StackedTraining, stacked_logits, train_stacked
from secure_fu.learning.tables import csv_file, npz_file
from secure_fu.learning.threads import limit_threads, one_thread

__all__ = [
    "CurvatureSums",
    "Dataset",
    "FlatModel",
    "Layer",
    "LinearHead",
    "LocalTraining",
    "Loss",
    "PerRecordGradients",
    "RandomStream",
    "Records",
    "StackedTraining",
    "Trigger",
    "accuracy",
    "breast_cancer",
    "by_column",
    "by_label",
    "client_update",
    "cnn",
    "cross_entropy",
    "csv_file",
    "digits",
    "dirichlet",
    "idx_folder",
    "iid",
    "limit_threads",
    "logistic",
    "logits",
    "magnitude_sum",
    "mean_loss",
    "mlp",
    "module_accuracy",
    "npz_file",
    "one_thread",
    "poisson_sample",
    "poisson_sample_groups",
    "predictions",
    "record_losses",
    "split_records",
    "stacked_client_updates",
    "stacked_logits",
    "symmetric_of",
    "torch_dataset",
    "train_stacked",
    "triangle_length",
    "triangle_of",
]
