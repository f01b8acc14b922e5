"""Federated training, written against the secure sum: recipe, client tasks and the loop of rounds."""

from __future__ import annotations

from secure_fu.training.algorithm import TRAIN, OnRound, no_observer, train
from secure_fu.training.checkpoints import CheckpointStore, Lineage
from secure_fu.training.history import ClientHistory, HistoryEntry
from secure_fu.training.local_updates import StackedUpdates, single_update
from secure_fu.training.lost_history import LostHistory
from secure_fu.training.model_archive import ModelArchive
from secure_fu.training.recipe import Recipe, TrainingState
from secure_fu.training.silo import Silo, check_size, check_whole_units
from secure_fu.training.tasks import TrainingTask, clipped_gradients, sample_units, training_task

__all__ = [
    "TRAIN",
    "CheckpointStore",
    "ClientHistory",
    "HistoryEntry",
    "Lineage",
    "LostHistory",
    "ModelArchive",
    "OnRound",
    "Recipe",
    "Silo",
    "StackedUpdates",
    "TrainingState",
    "TrainingTask",
    "check_size",
    "check_whole_units",
    "clipped_gradients",
    "no_observer",
    "sample_units",
    "single_update",
    "train",
    "training_task",
]
