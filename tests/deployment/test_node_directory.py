"""The directory of a node, and its data file: what is refused, and what is left of wiped records."""

from __future__ import annotations

import logging
import os
import shutil

import numpy as np
import pytest
import tomli_w
from node_cast import CLIENTS, KEEPER, MODEL, OTHER_RUN, SERVER, ServerSide, ask, make_cast, save_records
from small_federations import silos

from secure_fu.crypto import Role
from secure_fu.crypto.identity_file import make_identities
from secure_fu.crypto.wire import decode, encode
from secure_fu.deletion import DeletionRequest
from secure_fu.deployment.exchange.messages import Kind, NodeReply, NodeRequest, Outcome
from secure_fu.deployment.node import Node, NodeDirectory
from secure_fu.deployment.node.data import DataFile
from secure_fu.errors import ConfigError, CryptoError, DataError, RecordError
from secure_fu.learning import mlp

CLIENT = CLIENTS[0]
CSV = "age,label,who,weight\n1.25,0,ann,3\n2.5,1,bob,4.75\n\n-3,2,ann,1e-3\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_cast(tmp_path_factory.mktemp("nodes") / "n")


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made.folder(CLIENT), tmp_path / CLIENT)
    return tmp_path / CLIENT


def rewrite(folder, **tables):
    whole = {"parties": {"names": [CLIENT]}, "data": {"file": "records.npz"}, "model": MODEL} | tables
    (folder / "node.toml").write_text(tomli_w.dumps({name: table for name, table in whole.items() if table}))


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"parties": {"names": [CLIENT, KEEPER]}}, "parties.names"),
        ({"parties": {"names": []}}, "parties.names"),
        ({"parties": {"names": [CLIENT], "more": 1}}, "parties.names"),
        ({"data": {"file": "../records.npz"}}, "data.file"),
        ({"data": {"file": "/etc/passwd"}}, "data.file"),
        ({"data": {"file": ".hidden"}}, "data.file"),
        ({"data": {"file": "records.npz", "group": "x"}}, "data.group"),
        ({"data": {"file": "records.npz", "keep_history": 1}}, "keep_history"),
        ({"data": {"silo-9": {"file": "records.npz"}}}, "data"),
        ({"model": {**MODEL, "kind": "resnet"}}, "model.kind"),
        ({"model": {**MODEL, "layers": 3}}, "model.layers"),
        ({"model": {**MODEL, "seed": 1}}, "model"),  # not the public start
        ({"model": {"factory": "os:getcwd"}}, "model.factory"),
        ({"model": {}}, "model.kind"),
        ({"modell": {"kind": "mlp"}}, "modell"),
    ],
)
def test_a_node_file_with_a_fault_is_refused_by_name(folder, tables, named):
    rewrite(folder, **tables)
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        Node.create(folder)
    rewrite(folder)
    # Nothing was made yet.
    Node.create(folder).close()


def test_a_factory_makes_a_model(folder, monkeypatch, tmp_path):
    (tmp_path / "made_for_a_node.py").write_text(
        "from secure_fu.learning import mlp\ndef make():\n    return mlp(5, (), 3, 0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(folder, model={"factory": "made_for_a_node:make"})
    Node.create(folder).close()


def test_keys_belong_to_this_node_alone(made, folder, tmp_path):
    (folder / "keys.bin").unlink()
    shutil.copy(made.folder(SERVER) / "keys.bin", folder)
    rewrite(folder, parties={"names": [SERVER]}, data={})
    with pytest.raises(ConfigError, match="no server"):
        NodeDirectory.read(folder)
    (folder / "keys.bin").unlink()
    make_identities(folder / "keys.bin", {CLIENT: Role.CLIENT})
    rewrite(folder)
    with pytest.raises(CryptoError, match="has other keys for"):
        NodeDirectory.read(folder)
    shutil.copy(made.folder(CLIENT) / "keys.bin", folder)
    NodeDirectory.read(folder)
    (folder / "keys.bin").chmod(0o640)
    with pytest.raises(CryptoError, match="mode 640"):
        NodeDirectory.read(folder)


@pytest.mark.parametrize("name", ["roster.bin", "policy.toml", "federation.json"])
def test_public_files_of_another_federation_are_refused(folder, name, tmp_path):
    other = make_cast(tmp_path / "other")
    shutil.copy(other.folder(CLIENT) / name, folder)
    with pytest.raises((RecordError, CryptoError), match=r"different federations|has other keys for"):
        NodeDirectory.read(folder)
    (folder / name).unlink()
    with pytest.raises(RecordError):
        NodeDirectory.read(folder)


def test_data_that_do_not_fit_are_refused(folder):
    own = silos()[CLIENT]
    with pytest.raises(DataError, match="features of shape"):
        Node.create(folder, module=mlp(5, (), 3, 0), records={CLIENT: wider(own)})
    Node.create(folder).close()
    save_records(folder / "records.npz", own.subset(slice(0, 9)))
    with pytest.raises(DataError, match="9 records; expected 10"):
        Node.open(folder)
    (folder / "records.npz").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        Node.open(folder)
    rewrite(folder, data={})
    with pytest.raises(DataError, match="no records"):
        Node.open(folder)
    with pytest.raises(DataError, match="no records"):
        Node.open(folder, records={})


def wider(records):
    return type(records).from_arrays(np.ones((len(records), 6)), records.labels.numpy(), records.groups)


def test_one_node_may_host_several_parties(tmp_path):
    first, second = CLIENTS[:2]
    cast = make_cast(tmp_path / "n", together=(first, second, KEEPER))
    folder = cast.folder("together")
    side = ServerSide(cast, tmp_path / "server")
    with Node.create(folder) as node:
        assert node.parties == tuple(sorted((first, second, KEEPER)))
        both = NodeRequest(kind=Kind.BEGIN, parties=(first, second), bodies=(cast.begin(),))
        answers = decode(NodeReply, node.handle(encode(both))).answers
        assert [answer.outcome for answer in answers] == [Outcome.DONE] * 2
        announcement = side.announced(0)
        invitation = side.server.invite(ask(node, Kind.ISSUE_KEY, announcement, KEEPER).body)
        for name in (first, second):
            assert ask(node, Kind.INVITE, invitation, name).outcome is Outcome.DONE
        (model,) = node.client(first).models()
        assert len(list((folder / "models").glob("*.safetensors"))) == 1
        # What one of them no more refers to stays for the other, and goes with it.
        order = cast.order(cast.asks(DeletionRequest.whole_client(first), units=10))
        for name, left in ((first, 1), (second, 0)):
            ask(node, Kind.BEGIN, cast.begin(OTHER_RUN, order), name)
            assert ask(node, Kind.WIPE, cast.wipe(OTHER_RUN), name).outcome is Outcome.DONE
            assert len(list((folder / "models").glob("*.safetensors"))) == left
            assert model not in node.client(name).models()
        assert (len(node.client(first).silo.records), len(node.client(second).silo.records)) == (0, 10)
    side.close()


# Data files


def written(path, content=CSV):
    path.write_text(content, newline="")
    return DataFile(path=path, group_column="who")


def test_a_table_is_read_as_it_stands(tmp_path):
    records = written(tmp_path / "r.csv").read()
    np.testing.assert_array_equal(records.features.numpy(), np.float32([[1.25, 3], [2.5, 4.75], [-3, 1e-3]]))
    assert records.labels.tolist() == [0, 1, 2]
    assert records.groups.tolist() == ["ann", "bob", "ann"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "0 columns 'label'"),
        ("age,label,who\n", "no records"),
        ("age,who\n1,ann\n", "0 columns 'label'"),
        ("age,label,label,who\n1,2,3,ann\n", "2 columns 'label'"),
        ("age,label,who\n1,2\n", "line 2 has 2 fields"),
        ("age,label,who\nsecret,2,ann\n", "record 0 holds something that is no number"),
        ("age,label,who\n1,2.5,ann\n", "record 0 holds something that is no number"),
        ("age,label,who\nnan,2,ann\n", "NaN"),
        ("age,label,who\n1,-2,ann\n", "negative"),
    ],
)
def test_a_table_with_a_fault_is_refused_without_its_values(tmp_path, content, said):
    with pytest.raises(DataError, match=said) as raised:
        written(tmp_path / "r.csv", content).read()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": np.zeros(3)},
        {"features": np.zeros((3, 2)), "labels": np.zeros(2)},
        {"features": np.zeros(3), "labels": np.zeros(3)},
        {"features": np.zeros((3, 2)), "labels": np.zeros(3), "names": np.array(["a", "b", "c"])},
        {"features": np.array([[object()]]), "labels": np.zeros(1)},
    ],
)
def test_an_archive_with_a_fault_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "r.npz", **arrays)
    with pytest.raises(DataError):
        DataFile(path=tmp_path / "r.npz").read()
    (tmp_path / "r.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="no archive"):
        DataFile(path=tmp_path / "r.npz").read()


GONE = np.array([False, True, False])


def files_of(tmp_path):
    table = written(tmp_path / "r.csv")
    records = table.read()
    save_records(tmp_path / "r.npz", records)
    return table, DataFile(path=tmp_path / "r.npz")


@pytest.mark.parametrize("which", [0, 1])
def test_wiping_leaves_the_others_as_they_are(tmp_path, which):
    file = files_of(tmp_path)[which]
    before = file.read()
    old = file.path.open("rb")  # whoever still has the old file open finds no record in it
    file.wipe(GONE)
    assert not any(old.read())
    old.close()
    after = file.read()
    for name in ("features", "labels", "groups"):
        left = np.asarray(getattr(after, name))
        assert not left[1].any()
        np.testing.assert_array_equal(left[[0, 2]], np.asarray(getattr(before, name))[[0, 2]])
    assert file.path.stat().st_mode & 0o777 == 0o600
    content = file.path.read_bytes()
    file.wipe(GONE)  # nothing is left to do, and it is done all the same: its time does not tell
    assert file.path.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.csv", "r.npz"]
    with pytest.raises(DataError, match="expected 2"):
        file.wipe(GONE[:2])


class Died(BaseException):
    pass


def test_a_file_is_rewritten_in_one_form_whether_or_not_there_is_something_to_wipe(tmp_path):
    """Otherwise the length of what is written, and so the time, would tell."""
    sizes = set()
    for gone in (np.zeros(3, bool), GONE):
        for which in (0, 1):
            folder = tmp_path / f"{gone.sum()}-{which}"
            folder.mkdir()
            file = files_of(folder)[which]
            if which:
                with np.load(file.path) as archive:
                    np.savez_compressed(file.path, **{name: archive[name] for name in archive.files})
            before = file.read()
            file.wipe(gone)
            after = file.read()
            np.testing.assert_array_equal(np.asarray(after.features)[~gone], np.asarray(before.features)[~gone])
            np.testing.assert_array_equal(np.asarray(after.groups)[~gone], np.asarray(before.groups)[~gone])
            if which:
                sizes.add(file.path.stat().st_size)
    assert len(sizes) == 1


@pytest.mark.parametrize("which", [0, 1])
def test_a_kill_at_any_write_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch, which):
    """Every call that changes the folder is the last one once, before it and after it."""
    calls = ("os.fsync", "pathlib.Path.replace", "pathlib.Path.unlink", "os.open")
    seen = 0
    for after in (False, True):
        for last in range(1, 100):
            folder = tmp_path / f"{after}-{last}"
            folder.mkdir()
            file = files_of(folder)[which]
            before = file.read()
            left = [last]
            with monkeypatch.context() as patch:
                for call in calls:
                    patch.setattr(call, dying(call, left, after=after))
                try:
                    file.wipe(GONE)
                except Died:
                    seen += 1
                else:
                    break
            found = np.asarray(file.read().features)
            assert len(found) == 3
            np.testing.assert_array_equal(found[[0, 2]], np.asarray(before.features)[[0, 2]])
            file.wipe(GONE)
            assert not np.asarray(file.read().features)[1].any()
            assert sorted(path.name for path in folder.iterdir()) == ["r.csv", "r.npz"]
        assert left[0] > 0
    assert seen > 20


def dying(call, left, *, after):
    import pathlib

    owner = os if call.startswith("os.") else pathlib.Path
    real = getattr(owner, call.rsplit(".", 1)[1])

    def counted(*arguments, **named):
        left[0] -= 1
        last = left[0] == 0
        if last and not after:
            raise Died
        try:
            return real(*arguments, **named)
        finally:
            if last:
                raise Died

    return counted


def test_logs_of_a_node_do_not_quote_what_is_left_in_its_folder(made, folder, caplog):
    with Node.create(folder) as node, caplog.at_level(logging.DEBUG, "secure_fu"):
        (folder / "requests").mkdir()
        (folder / "requests" / "bad.request").write_text('{"person": "Ada Lovelace"}')
        assert ask(node, Kind.BEGIN, made.begin()).outcome is Outcome.DONE
    assert "bad.request" in caplog.text
    assert "Ada" not in caplog.text
