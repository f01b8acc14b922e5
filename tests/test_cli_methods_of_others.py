"""A method that another distribution brings, in every command that takes one; nothing in the package is edited."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from command import COMMAND, SMALL, environment
from small_federations import silos
from third_party import DECAY_SETTINGS, install
from waiting import wait_until

TRAIN = """
import sys
from pathlib import Path
from secure_fu.deployment import FederationServer, SocketExchange
from secure_fu.deployment.server import read_node_sockets

with FederationServer.open(Path(sys.argv[1]), SocketExchange(read_node_sockets(Path(sys.argv[1])))) as server:
    server.train(rounds=1)
"""
TERMS = """
[model]
kind = "logistic"
inputs = 5
classes = 3
seed = 0

[plan]
unit = "record"
nominal_units = 30
minimum_cohort = 3
rounds = 2
sampling_rate = 0.5
checkpoint_every = 1
deletion_reserve = 0.75

[scheme]
name = "plain"

[methods.decay]
length = 2

[deletion]
window_start = 1764547200
window_seconds = 86400
hidden_units = 1
cover = true
method = "decay"
settings = { length = 2 }
"""
CLIENTS = ("silo-0", "silo-1", "silo-2")
METHOD = ("--set", 'unlearning.methods=["decay"]')


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return install(tmp_path_factory.mktemp("installed") / "site")


def run(*arguments: object, site: Path | None, cwd: Path, program: tuple[str, ...] = (COMMAND,)):
    return subprocess.run(
        [*program, *map(str, arguments)],
        cwd=cwd,
        env=with_site(site),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def with_site(site: Path | None) -> dict[str, str]:
    return environment() | ({} if site is None else {"PYTHONPATH": str(site)})


def done(outcome) -> str:
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    return outcome.stdout


def is_refused(outcome, *words: str) -> None:
    assert outcome.returncode == 2, (outcome.returncode, outcome.stderr[-3000:])
    assert "Traceback" not in outcome.stderr
    for word in words:
        assert word in outcome.stderr, outcome.stderr


def test_simulate(site, tmp_path):
    settings = ("--set", "unlearning.settings.decay.length=2", "--set", "unlearning.settings.decay.towards=zero")
    done(run("simulate", *SMALL, *METHOD, *settings, "--out", "run", site=site, cwd=tmp_path))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (row,) = [row for row in result["rows"] if row["name"] == "decay"]
    assert row["title"] == "Weight decay"
    refused = run("simulate", *SMALL, *METHOD, "--out", "other", site=None, cwd=tmp_path)
    is_refused(refused, "unlearning.methods is 'decay'", "has to be installed on this machine")


def test_audit_with_worker_processes(site, tmp_path):
    options = ("--only", "deletion", "--quick", "--runs", "8", "--processes", "2", "--out", "audit")
    done(run("audit", *SMALL, *METHOD, *options, site=site, cwd=tmp_path))
    audit = json.loads((tmp_path / "audit" / "audit.json").read_text())
    (row,) = [row for row in audit["deletion"]["rows"] if row["name"] == "decay"]
    assert (row["title"], row["baseline"]) == ("Weight decay", False)
    # It is judged, and not passed over as a stranger.
    assert any("Weight decay" in sentence for sentence in sentences_of(audit))


def sentences_of(audit: object) -> Iterator[str]:
    if isinstance(audit, dict):
        yield from (text for key, value in audit.items() if key != "rows" for text in sentences_of(value))
    elif isinstance(audit, list):
        yield from (text for value in audit for text in sentences_of(value))
    elif isinstance(audit, str):
        yield audit


# A whole deployment


@dataclass
class Field:
    root: Path
    site: Path
    socket: Path

    def command(self, *arguments: object, site: bool = True):
        return run(*arguments, site=self.site if site else None, cwd=self.root)


def digest_in(output: str) -> str:
    return " ".join(re.findall(r"^ +[1-4]  ((?:[0-9a-f]{4} ?){4})$", output, re.MULTILINE)[-4:])


@pytest.fixture(scope="module")
def field(site, tmp_path_factory) -> Iterator[Field]:
    """A federation set up by commands; one machine has all nodes' parties."""
    sockets = Path(tempfile.mkdtemp(prefix="sfu-"))  # paths of sockets have to be short
    made = Field(tmp_path_factory.mktemp("field"), site, sockets / "node")
    parties = [word for name in CLIENTS for word in ("--party", f"{name}:client")]
    done(made.command("keys", "new", "node", *parties, "--party", "keeper:key-holder"))
    done(made.command("keys", "new", "server", "--party", "server:server"))
    files = [f"node/{name}.party" for name in (*CLIENTS, "keeper")]
    done(made.command("roster", "make", *files, "server/server.party", "--out", "roster.bin"))
    (made.root / "federation.toml").write_text(TERMS)
    yield made
    shutil.rmtree(sockets)


def test_a_deployment_from_founding_to_the_certificate(field):
    root = field.root
    founded = done(field.command("found", "federation.toml", "--out", "server"))
    deletion = tomllib.loads((root / "server" / "deletion.toml").read_text())
    assert deletion["settings"] == {**DECAY_SETTINGS, "length": 2}

    pin = ("roster", "pin", "node", "server/bundle", "--digest", digest_in(founded))
    done(field.command(*pin))
    for name in CLIENTS:
        records = silos()[name]
        np.savez(root / "node" / f"{name}.npz", features=records.features, labels=records.labels)
    start = ("node", "node", "--new", "--socket", field.socket)
    is_refused(field.command(*start, site=False), "policy.toml: purposes is 'unlearn/decay'", "brings 'decay'")
    (root / "server" / "nodes.toml").write_text(tomli_w.dumps({"sockets": [str(field.socket)]}))

    with (root / "node.log").open("w") as log:
        node = subprocess.Popen([COMMAND, *map(str, start)], cwd=root, env=with_site(field.site), stderr=log)
    try:
        wait_until(lambda: field.socket.exists() or node.poll() is not None, "the node listens", seconds=100.0)
        assert node.poll() is None, (root / "node.log").read_text()
        done(run("-c", TRAIN, root / "server", site=field.site, cwd=root, program=(sys.executable,)))
        done(field.command("unlearn", "server"))
        done(field.command("unlearn", "server", "--now"))
    finally:
        node.send_signal(signal.SIGTERM)
        node.wait(timeout=60)

    due, at_once = sorted((root / "server" / "deletion" / "certificates").glob("*.json"))
    body = json.loads(due.read_text())["certificate"]
    assert (body["method"]["name"], body["method"]["settings"]) == ("decay", {**DECAY_SETTINGS, "length": 2})
    # Who verifies needs no method, and finds every setting that is not that of the deletion policy.
    shutil.copy(root / "server" / "deletion.toml", root / "agreed.toml")
    verify = ("verify", due, "--roster", "roster.bin", "--deletion-policy")
    done(field.command(*verify, "agreed.toml", site=False))
    changed = {**deletion, "settings": {**deletion["settings"], "decay": 99.0}}
    (root / "other.toml").write_text(tomli_w.dumps(changed))
    outcome = field.command(*verify, "other.toml", site=False)
    assert outcome.returncode == 1
    assert "its method is 'decay'" in outcome.stderr
    # A window out of turn is none of the policy's, as the documentation says.
    outcome = field.command("verify", at_once, "--roster", "roster.bin", "--deletion-policy", "agreed.toml")
    assert outcome.returncode == 1
    assert "no window of the deletion policy was due at" in outcome.stderr
