"""The ids of runs commit to epoch, branch and order."""

from __future__ import annotations

import hashlib

import pytest

from secure_fu.errors import ArgumentError
from secure_fu.protocol.run_id import RUN_ID_BYTES, run_id_of

KEY, ORDER = bytes(range(32)), b"d" * 32


def test_a_run_id_is_the_hash_that_is_documented():
    assert run_id_of(KEY, "original") == hashlib.sha256(KEY + b"original").digest()[:16]
    said = KEY + b"unlearn/retrain" + b"\0order\0" + ORDER
    assert run_id_of(KEY, "unlearn/retrain", ORDER) == hashlib.sha256(said).digest()[:16]


def test_another_epoch_branch_or_order_has_another_run_id():
    ids = {
        run_id_of(KEY, "a"),
        run_id_of(KEY, "b"),
        run_id_of(bytes(32), "a"),
        run_id_of(KEY, "a", ORDER),
        run_id_of(KEY, "a", b"e" * 32),
    }
    assert len(ids) == 5
    assert {len(one) for one in ids} == {RUN_ID_BYTES}


def test_no_branch_passes_for_a_branch_with_an_order():
    """Its name would have to have the byte that parts the two."""
    disguised = "a\0order\0" + ORDER.decode()
    assert hashlib.sha256(KEY + disguised.encode()).digest()[:16] == run_id_of(KEY, "a", ORDER)
    with pytest.raises(ArgumentError, match="branch"):
        run_id_of(KEY, disguised)
