"""What a run does with a server's queue: it makes the first one, and never one in the place of one that is lost."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from operations_cast import Operated

from secure_fu.deletion.policy import write_deletion_policy
from secure_fu.deletion.queue import RequestQueue
from secure_fu.deployment import open_queue, run_job
from secure_fu.deployment.exchange.exchange import InProcessExchange
from secure_fu.errors import ArgumentError, RecordError
from secure_fu.file_names import CERTIFICATES, DELETION, QUEUE, WINDOWS

NOBODY = InProcessExchange({})


@pytest.fixture
def operated(tmp_path):
    made = Operated(tmp_path / "federation")
    # Without cover a window that nobody asks for needs no trained model.
    write_deletion_policy(replace(made.terms.deletion, cover=False), made.server / DELETION)
    return made


def lost(operated: Operated, of: str = WINDOWS) -> None:
    """What a server looks like that has executed a window, and whose queue is gone."""
    (operated.server / of / bytes(16).hex()).mkdir(parents=True)
    (operated.server / QUEUE).unlink(missing_ok=True)


def test_the_first_run_makes_the_queue_and_others_find_it(operated):
    done = run_job(operated.server, NOBODY, job="unlearn")
    assert (done["windows"], done["rounds"]) == ([], 0)
    made = (operated.server / QUEUE).stat().st_ino
    run_job(operated.server, NOBODY, job="unlearn")
    assert (operated.server / QUEUE).stat().st_ino == made


@pytest.mark.parametrize("of", [WINDOWS, CERTIFICATES])
def test_a_run_refuses_a_server_whose_queue_is_lost(operated, of):
    run_job(operated.server, NOBODY, job="unlearn")
    lost(operated, of)
    for _ in range(2):
        with pytest.raises(RecordError, match="is missing, and windows were begun"):
            run_job(operated.server, NOBODY, job="unlearn", at_once=True)
    assert not (operated.server / QUEUE).exists()
    shutil.rmtree(operated.server / of)  # without the check: another queue, which knows of nothing
    run_job(operated.server, NOBODY, job="unlearn")
    assert (operated.server / QUEUE).exists()


def test_a_queue_is_opened_in_a_servers_directory_alone(operated, tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path, operated.root / "silo-0" / "records.npz"):
        with pytest.raises(RecordError, match="no server's directory"):
            open_queue(folder, make=True)
    with pytest.raises(RecordError, match="the first request makes it"):
        open_queue(operated.server)
    assert not (operated.server / QUEUE).exists()
    open_queue(operated.server, make=True).close()
    with open_queue(operated.server, read_only=True) as queue:
        assert isinstance(queue, RequestQueue)
        with pytest.raises((ArgumentError, RecordError)):
            queue.confirm_clock(0, "why")
    (operated.server / QUEUE).write_bytes(b"no database")
    with pytest.raises(RecordError):
        open_queue(operated.server, make=True)
