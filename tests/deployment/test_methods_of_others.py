"""Methods that other distributions bring: what is missing on a machine is refused there, before anything is asked."""

from __future__ import annotations

import importlib
import sys

import pytest
from deployed import HIDING, METHOD_LIST, NOW, RECORDS, events
from operations_cast import CLIENTS, MEMBERS, TERMS, Operated
from third_party import DECAY_SETTINGS, install

from secure_fu.crypto import Role
from secure_fu.deletion.policy import read_deletion_policy, write_deletion_policy
from secure_fu.deployment.exchange.messages import Order, method_of
from secure_fu.deployment.founding.bundle import bundle_digest, found, write_bundle
from secure_fu.deployment.founding.setup import make_keys, make_roster, read_party_file
from secure_fu.deployment.founding.terms import read_terms
from secure_fu.deployment.node import Node, NodeDirectory, client, orders
from secure_fu.deployment.node.orders import check_order
from secure_fu.deployment.upkeep import pin
from secure_fu.errors import ArgumentError, ConfigError, PolicyRefusal
from secure_fu.unlearning import METHODS, Retrain, Scrub, methods_text, settings_of


class Machine:
    """What is installed on it."""

    def __init__(self, site):
        self._site = str(site)

    def install(self):
        sys.path.insert(0, self._site)
        importlib.invalidate_caches()

    def uninstall(self):
        sys.path.remove(self._site)
        sys.modules.pop("methods_of_others", None)
        importlib.invalidate_caches()


@pytest.fixture
def machine(tmp_path):
    made = Machine(install(tmp_path / "site"))
    path = list(sys.path)
    made.install()
    yield made
    sys.path[:] = path
    sys.modules.pop("methods_of_others", None)
    importlib.invalidate_caches()


@pytest.fixture
def decay(machine):
    return method_of("decay", "{}")


def executed_with_decay(deploy, decay):
    made = deploy("plain", methods=(*METHOD_LIST, decay))
    made.server.train(rounds=1)
    batch = made.batch(made.request(RECORDS, "silo-1", units=3))
    return made, batch, made.server.delete(batch, decay, adaptive=True)


def test_a_window_is_executed_by_a_method_that_is_installed(deploy, decay):
    made, batch, execution = executed_with_decay(deploy, decay)
    assert (execution.method, dict(execution.settings)) == ("decay", DECAY_SETTINGS)
    assert execution.missing == ()
    assert made.reopen(methods=()).execution(batch.window_id) == execution


def test_a_directory_whose_method_is_missing_is_refused_before_anything_is_asked(deploy, decay, machine):
    made, batch, execution = executed_with_decay(deploy, decay)
    before, asked = events(made), len(made.accidents.asked)
    made.server.close()
    machine.uninstall()
    with pytest.raises(ArgumentError, match=r"methods is 'decay'.*install the package and version of then"):
        made.reopen(methods=())
    with pytest.raises(ArgumentError, match="methods that were declared"):
        made.reopen(methods=(decay, Scrub(length=7)))
    assert len(made.accidents.asked) == asked
    assert made.reopen(methods=(decay,)).execution(batch.window_id) == execution  # by whoever has the class
    assert events(made) == before
    machine.install()
    assert made.reopen(methods=()).execution(batch.window_id) == execution


def test_what_a_server_has_the_class_of_is_executed_and_noted_though_it_is_not_installed(
    deploy, decay, machine, monkeypatch
):
    """Once it ran all rounds, had clients wipe, and could neither note that nor be opened again."""
    made = deploy("plain", methods=(*METHOD_LIST, decay))
    made.server.train(rounds=1)
    batch = made.batch(made.request(RECORDS, "silo-1", units=3))
    machine.uninstall()
    for where in (client, orders):  # the nodes' machines have it
        monkeypatch.setattr(where, "method_of", lambda name, text: decay if name == "decay" else method_of(name, text))
    with monkeypatch.context() as killed:
        killed.setattr(type(made.server), "_note_execution", lambda _self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made.server.delete(batch, decay, adaptive=True)
    execution = made.reopen(methods=(decay,)).execution(batch.window_id)
    assert (execution.method, dict(execution.settings)) == ("decay", DECAY_SETTINGS)
    assert execution.missing == ()


def test_a_window_by_a_method_that_is_missing_is_refused_before_a_round(deploy, decay, machine):
    made = deploy("plain")
    made.server.train(rounds=1)
    policy = {"window_start": 0, "window_seconds": 60, "method": "decay", "settings": settings_of(decay)}
    write_deletion_policy(type(HIDING)(**policy), made.server_directory / "deletion.toml")
    machine.uninstall()
    batch = made.batch(made.request(RECORDS, "silo-1", units=3))
    before, asked = events(made), len(made.accidents.asked)
    with pytest.raises(ConfigError, match="'decay'"):
        made.server.execute(batch)
    assert (events(made), len(made.accidents.asked)) == (before, asked)
    assert made.server.execution(batch.window_id) is None
    done = made.server.delete(batch, Retrain(), adaptive=True)
    assert done.missing == ()


def test_no_code_is_looked_for_under_a_name_that_the_policy_does_not_have(deploy, decay, machine):
    made = deploy("plain")
    asked = made.request(RECORDS, "silo-1", units=3)
    order = Order.of(
        window_id=bytes(16), opened=NOW + 100, method=decay, requests=[asked], hidden_units=0, continues_after=0
    )
    sys.modules.pop("methods_of_others")
    with pytest.raises(PolicyRefusal, match="the order's method is 'decay'"):
        check_order(order, NodeDirectory.read(made.directory / "silo-1"), NOW, settled=())
    assert "methods_of_others" not in sys.modules


def test_a_method_that_the_package_gains_later_keeps_no_directory_from_being_opened(deploy, decay, monkeypatch):
    made = deploy("plain")
    state = made.server.train(rounds=1)
    monkeypatch.setitem(METHODS, "decay", type(decay))
    assert made.reopen(methods=()).state.model.digest == state.model.digest
    with pytest.raises(ArgumentError, match="methods that were declared"):
        made.reopen(methods=(decay,))


# Founding, pinning, starting


@pytest.fixture
def founded(machine, tmp_path):
    """A federation that deletes by decay; nobody has pinned it."""
    root = tmp_path / "operated"
    files = [make_keys(root / "server", {"server": Role.SERVER})["server"]]
    for name in (*CLIENTS, *MEMBERS):
        files.append(make_keys(root / name, {name: Role.CLIENT if name in CLIENTS else Role.MEMBER})[name])
    terms = TERMS.replace("[methods.retrain]", "[methods.retrain]\n[methods.decay]\nlength = 2")
    terms += 'method = "decay"\nsettings = { length = 2 }\n'
    (root / "federation.toml").write_text(terms)
    found(read_terms(root / "federation.toml"), make_roster(map(read_party_file, files)), root / "server")
    write_bundle(root / "server", root / "bundle")
    return root


def test_what_is_founded_names_all_settings_of_every_method(founded, decay):
    policy = read_deletion_policy(founded / "server" / "deletion.toml")
    assert (policy.method, dict(policy.settings)) == ("decay", {**DECAY_SETTINGS, "length": 2})
    facts = (founded / "server" / "federation.json").read_text()
    declared = methods_text([Retrain(), type(decay)(length=2)])
    assert declared.replace('"', '\\"') in facts


def test_pinning_and_starting_need_every_method_where_a_client_lives(founded, machine):
    digest = bundle_digest(founded / "bundle")
    pin(founded / "silo-1", founded / "bundle", digest=digest)
    machine.uninstall()
    for name in ("silo-0", "silo-1"):
        with pytest.raises(ConfigError) as caught:
            pin(founded / name, founded / "bundle", digest=digest)
        assert str(caught.value).startswith(f"{founded / 'bundle' / 'policy.toml'}: purposes is 'unlearn/decay'")
        assert "install the package that brings 'decay'" in str(caught.value)
    assert not (founded / "silo-0" / "policy.toml").exists()
    with pytest.raises(ConfigError, match=r"silo-1/policy\.toml: purposes is 'unlearn/decay'.*that brings 'decay'"):
        Node.create(founded / "silo-1")
    pin(founded / "member-0", founded / "bundle", digest=digest)
    Node.create(founded / "member-0").close()  # it runs no method
    machine.install()
    pin(founded / "silo-0", founded / "bundle", digest=digest)


def test_settings_that_a_method_does_not_have_are_named_with_their_file(tmp_path):
    operated = Operated(tmp_path)
    path = operated.root / "silo-0" / "deletion.toml"
    path.write_text(path.read_text().replace("[settings]", "[settings]\nlength = 3"))
    with pytest.raises(ConfigError, match=r"silo-0/deletion\.toml: unlearning\.settings\.retrain\.length is 3"):
        Node.create(operated.root / "silo-0")
