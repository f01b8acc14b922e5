"""A trained federation whose budget holds few deletion windows, in one process, with its queue."""

from __future__ import annotations

from deployment_cast import IMPATIENT
from operations_cast import TERMS, Operated

from secure_fu.crypto.identity_file import read_identities
from secure_fu.deletion import DeletionRequest, RequestQueue, read_deletion_policy, sign_request
from secure_fu.deployment.exchange.exchange import InProcessExchange
from secure_fu.deployment.server import deletion_service
from secure_fu.file_names import QUEUE
from secure_fu.privacy import PrivacyLedger

START = 1764547200
HOUR = 3600
# Seventeen rounds in all: four of training, one for cover at four and a deletion with what it may lose left, and two
# deletions at four each.
SMALL = TERMS.replace("deletion_reserve = 0.9", "deletion_reserve = 0.7")


class Field:
    """A trained federation in one process, whose windows are due every hour."""

    def __init__(self, root, terms) -> None:
        self.operated = Operated(root, terms)
        self.operated.start(new=True)
        with self.operated.opened() as server:
            server.train()
        path = self.operated.server / QUEUE
        path.parent.mkdir(exist_ok=True)
        self.queue = RequestQueue.create(path)
        self.policy = read_deletion_policy(self.operated.server / "deletion.toml")

    def ask(self, position, *, at):
        identity = read_identities(self.operated.root / "silo-1" / "keys.bin")["silo-1"]
        wanted = DeletionRequest.some_records("silo-1", (position,))
        times = {"submitted": at - 1, "deadline": at + 300 * HOUR}
        one = sign_request(identity, wanted, roster=self.operated.roster, units=1, **times)
        self.queue.submit(one, roster=self.operated.roster, policy=self.policy, now=at)
        return one.request_id

    def run(self, at, *, exchange=None, **options):
        exchange = InProcessExchange(self.operated.nodes) if exchange is None else exchange
        service = deletion_service(self.operated.server, self.queue, exchange, clock=lambda: at, patience=IMPATIENT)
        with service as opened:
            return opened.run_due(**options)

    def charged(self):
        with PrivacyLedger.open(self.operated.server / "ledger.sqlite", read_only=True) as ledger:
            return [(event.branch, event.round_number) for event in ledger.events()]

    def states(self):
        return [entry.state for entry in self.queue.entries()]

    def close(self):
        self.queue.close()
        self.operated.stop()
