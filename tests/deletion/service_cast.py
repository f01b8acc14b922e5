"""A deletion service in a folder: queue, executor, certificates, and a clock."""

from __future__ import annotations

import json
from pathlib import Path

from queue_cast import HOUR, NOW, RecordingExecutor, policy, roster

from secure_fu.deletion import DeletionService, RequestQueue

DUE = NOW  # the policy's windows are due every day at this second
LATER = NOW + HOUR
WHOLE_LIFE = ["received", "accepted", "scheduled", "executing", "executed", "certified"]


class Clock:
    def __init__(self, now=NOW):
        self.now = now

    def __call__(self):
        return self.now


class Certifier:
    """Makes one file a window, as whoever makes certificates has to."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.calls = 0

    def __call__(self, batch, done):
        self.calls += 1
        path = self.folder / f"{batch.window_id.hex()}.json"
        if not path.exists():
            path.write_text(json.dumps(list(done.missing)))
        return path.name


class World:
    """A queue, an executor and a certifier in a folder, opened anew in each life."""

    def __init__(self, folder: Path, **settings):
        self.folder, self.settings = folder, settings
        self.clock = Clock()
        self.executor = RecordingExecutor(folder)
        self.certifier: Certifier | None = Certifier(folder)
        self.roster = roster()
        self.path = folder / "queue.sqlite"
        RequestQueue.create(self.path).close()

    @property
    def policy(self):
        return policy(**self.settings)

    def ask(self, *requests, at=NOW - HOUR):
        with RequestQueue(self.path) as queue:
            queue.submit_all(requests, roster=self.roster, policy=self.policy, now=at)

    def run(self, at=None, **options):
        self.clock.now = LATER if at is None else at
        with RequestQueue(self.path) as queue, self.service(queue) as service:
            return service.run_due(**options)

    def service(self, queue):
        return DeletionService(
            queue, self.executor, self.policy, roster=self.roster, clock=self.clock, certify=self.certifier
        )

    def look(self):
        with RequestQueue(self.path, read_only=True) as queue:
            return {entry.request_id: entry for entry in queue.entries()}, queue.windows()

    def history(self, request):
        with RequestQueue(self.path, read_only=True) as queue:
            return [change.state.value for change in queue.history(request.request_id)]
