"""Deletion requests: what is to be forgotten, identified by each client on its own records."""

from __future__ import annotations

from secure_fu.deletion.request import DeletionBatch, DeletionRequest, Scope

__all__ = ["DeletionBatch", "DeletionRequest", "Scope"]
