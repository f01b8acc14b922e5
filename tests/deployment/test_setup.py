"""From nothing to directories: keys, public files, rosters, terms, the server's directory and the nodes' bundle."""

from __future__ import annotations

import functools
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from operations_cast import CLIENTS, MEMBERS, TERMS, Operated, secrets_in, write_records

from secure_fu.crypto import Identity, Role, Roster, encode
from secure_fu.crypto.identity_file import read_identities
from secure_fu.deletion.policy import read_deletion_policy
from secure_fu.deployment.founding.bundle import bundle_digest, facts_of, found, policy_for, write_bundle
from secure_fu.deployment.founding.setup import (
    Continuity,
    PartyFile,
    digest_lines,
    make_keys,
    make_roster,
    parse_digest,
    parse_party,
    read_party_file,
    rotate_keys,
    write_roster,
)
from secure_fu.deployment.founding.terms import model_of, read_terms
from secure_fu.deployment.node import Node
from secure_fu.errors import ArgumentError, ConfigError, CryptoError, RecordError, RosterError, SignatureError
from secure_fu.federation.founding import read_founding
from secure_fu.protocol import read_policy

EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"
KAHE = {"server": Role.SERVER, **dict.fromkeys(CLIENTS, Role.CLIENT), **dict.fromkeys(MEMBERS, Role.MEMBER)}


@functools.cache
def cast() -> Roster:
    return Roster.of(Identity.generate(name, role).party for name, role in KAHE.items())


def parties(tmp_path, roles=KAHE):
    return {name: read_party_file(path) for name, path in make_keys(tmp_path / "keys", roles).items()}


def test_keys_are_for_their_owner_alone_and_never_overwritten(tmp_path):
    files = make_keys(tmp_path / "machine", {"silo-0": Role.CLIENT, "member-0": Role.MEMBER})
    folder = tmp_path / "machine"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "keys.bin").stat().st_mode) == 0o600
    assert sorted(files) == ["member-0", "silo-0"]
    secrets = (folder / "keys.bin").read_bytes()
    parts = secrets_in(folder / "keys.bin")
    assert all(part in secrets for part in parts)
    for path in files.values():
        public = path.read_bytes()
        assert not any(part in public for part in parts)
    with pytest.raises(CryptoError, match="exists"):
        make_keys(folder, {"silo-0": Role.CLIENT})
    assert (folder / "keys.bin").read_bytes() == secrets


def test_a_public_file_proves_that_its_maker_has_the_signing_key(tmp_path):
    path = make_keys(tmp_path / "a", {"silo-0": Role.CLIENT})["silo-0"]
    assert read_party_file(path).party == read_identities(tmp_path / "a" / "keys.bin")["silo-0"].party
    thief = Identity.generate("silo-0", Role.CLIENT)
    stolen = read_party_file(path)
    # Somebody who hands in another's verification key, with a sealing key of its own, cannot sign for it.
    mixed = replace(stolen, party=replace(stolen.party, sealing_key=thief.party.sealing_key))
    path.write_bytes(encode(mixed))
    with pytest.raises(SignatureError, match="is not signed by its own key"):
        read_party_file(path)


@pytest.mark.parametrize("position", [10, 40, 200, -5])
def test_a_changed_public_file_is_refused(tmp_path, position):
    path = make_keys(tmp_path / "a", {"silo-0": Role.CLIENT})["silo-0"]
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises((SignatureError, ArgumentError)):
        read_party_file(path)


@pytest.mark.parametrize("text", ["silo-0", "silo-0:", ":client", "silo-0:boss", ""])
def test_a_party_is_written_as_name_and_role(text):
    with pytest.raises(ArgumentError, match="NAME:ROLE"):
        parse_party(text)


def test_new_keys_are_signed_by_the_old_ones(tmp_path):
    old = parties(tmp_path, {"silo-0": Role.CLIENT, "silo-1": Role.CLIENT})
    new = read_party_file(rotate_keys(tmp_path / "keys")["silo-0"])
    assert new.party != old["silo-0"].party
    new.check_follows(old["silo-0"].party)
    with pytest.raises(RosterError, match="cannot follow"):
        new.check_follows(old["silo-1"].party)
    stranger = Identity.generate("silo-0", Role.CLIENT)
    with pytest.raises(RosterError, match="not signed by those of before"):
        new.check_follows(stranger.party)
    forged = replace(
        new,
        before=(
            Continuity(
                verify_key=old["silo-0"].party.verify_key,
                signature=stranger.sign("party-rotation", encode(new.party)),
            ),
        ),
    )
    with pytest.raises(SignatureError):
        forged.check_follows(old["silo-0"].party)
    with pytest.raises(CryptoError, match=r"keys-next\.bin exists"):
        rotate_keys(tmp_path / "keys")


def test_a_signature_of_possession_is_none_of_continuity(tmp_path):
    old = Identity.generate("silo-0", Role.CLIENT)
    new = Identity.generate("silo-0", Role.CLIENT)
    public = encode(new.party)
    mixed = PartyFile(
        party=new.party,
        signature=new.sign("party-file", public),
        before=(Continuity(verify_key=old.party.verify_key, signature=old.sign("party-file", public)),),
    )
    mixed.check()
    with pytest.raises(SignatureError):
        mixed.check_follows(old.party)


@pytest.mark.parametrize(
    ("left_out", "added"),
    [
        ({"server"}, {}),
        (set(), {"server-2": Role.SERVER}),
        (set(CLIENTS[1:]), {}),
        (set(MEMBERS), {}),
        (set(), {"key-holder": Role.KEY_HOLDER}),
    ],
)
def test_a_roster_has_the_cast_of_a_federation(tmp_path, left_out, added):
    roles = {name: role for name, role in {**KAHE, **added}.items() if name not in left_out}
    with pytest.raises(ArgumentError, match="parties"):
        make_roster(parties(tmp_path, roles).values())


def test_a_roster_is_written_once(tmp_path):
    roster = make_roster(parties(tmp_path).values())
    write_roster(tmp_path / "roster.bin", roster)
    assert Roster.decode((tmp_path / "roster.bin").read_bytes()).digest == roster.digest
    with pytest.raises(ArgumentError, match="another one is made"):
        write_roster(tmp_path / "roster.bin", roster)


def test_a_digest_is_read_out_and_typed_in():
    digest = bytes(range(32))
    lines = digest_lines(digest)
    assert lines[0] == "1  0001 0203 0405 0607"
    assert len(lines) == 4
    assert parse_digest("\n".join(re.sub(r"^\d  ", "", line) for line in lines).upper()) == digest
    assert parse_digest("\n".join(f"  {line}" for line in lines)) == digest  # as it was printed
    assert parse_digest(digest.hex()) == digest
    like_numbers = bytes.fromhex("1111 2222 3333 4444" * 4)
    assert parse_digest(" ".join(digest_lines(like_numbers))) == like_numbers
    for wrong in (" ".join(lines[1:]), " ".join(reversed(lines)), " ".join(lines).replace("2 ", "3 ", 1)):
        with pytest.raises(ArgumentError, match=r"as `secure-fu found` prints them, with or without"):
            parse_digest(wrong)
    with pytest.raises(ArgumentError, match=r"--head is 'HEAD'; expected 64.* as `secure-fu verify` prints"):
        parse_digest("HEAD", "--head", "verify")
    with pytest.raises(ArgumentError, match="64 hexadecimal digits"):
        parse_digest("0001 0203")


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.toml")))
def test_the_examples_can_be_founded(tmp_path, name):
    terms = read_terms(EXAMPLES / name)
    clients, members = {"hospitals.toml": (6, 7), "bank.toml": (5, 0), "devices.toml": (60, 10)}[name]
    roles = {f"client-{number}": Role.CLIENT for number in range(clients)}
    roles |= {f"member-{number}": Role.MEMBER for number in range(members)} or {"key-holder": Role.KEY_HOLDER}
    roster = Roster.of(file.party for file in parties(tmp_path, {"server": Role.SERVER, **roles}).values())
    plan = terms.plan_for(roster)
    policy = policy_for(terms, roster, plan)
    terms.deletion.check_roster(roster)
    assert set(terms.deletion.class_signers) <= {party.name for party in roster.parties}
    assert plan.planned_epsilon <= plan.budget.epsilon
    assert terms.deletion.method in {purpose.rpartition("/")[2] for purpose in policy.purposes}
    assert len(policy.committee) == (members or 1)
    assert re.search(r"# \w", (EXAMPLES / name).read_text())


def test_a_founding_is_what_servers_and_nodes_open(tmp_path):
    operated = Operated(tmp_path)
    server = operated.server
    assert sorted(path.name for path in server.iterdir()) == [
        *("deletion.toml", "federation.json", "keys.bin", "ledger.sqlite", "policy.toml", "roster.bin"),
        "server.party",
    ]
    founding = read_founding(server / "federation.json")
    policy = read_policy(server / "policy.toml")
    assert founding.clients == CLIENTS
    assert policy.committee == MEMBERS
    assert policy.roster_digest == founding.roster_digest == operated.roster.digest
    assert read_deletion_policy(server / "deletion.toml") == operated.terms.deletion
    assert sorted(path.name for path in operated.bundle.iterdir()) == [
        *("deletion.toml", "federation.json", "node.toml", "policy.toml", "roster.bin"),
    ]
    with Node.create(tmp_path / "silo-0") as node:
        assert node.parties == ("silo-0",)


def test_a_whole_federation_is_trained_from_commands_alone(tmp_path):
    operated = Operated(tmp_path)
    operated.start(new=True)
    with operated.opened() as server:
        server.train(rounds=1)
        assert (server.state.rounds, server.left_out) == (1, ())
    operated.stop()


def test_the_bundle_holds_nothing_secret(tmp_path):
    operated = Operated(tmp_path)
    secrets = [part for name in ("server", *CLIENTS, *MEMBERS) for part in secrets_in(tmp_path / name / "keys.bin")]
    for path in operated.bundle.iterdir():
        assert not any(secret in path.read_bytes() for secret in secrets)


def test_a_federation_is_founded_once(tmp_path):
    operated = Operated(tmp_path)
    content = (operated.server / "federation.json").read_bytes()
    with pytest.raises(ArgumentError, match="founded once"):
        found(operated.terms, operated.roster, operated.server)
    assert (operated.server / "federation.json").read_bytes() == content


def test_the_server_is_no_class_signer_of_a_federation(tmp_path):
    operated = Operated(tmp_path)
    own = replace(operated.terms, deletion=replace(operated.terms.deletion, class_signers=("server",)))
    with pytest.raises(ConfigError, match=r"deletion.class_signers is 'server'"):
        found(own, operated.roster, tmp_path / "other", keys=operated.server / "keys.bin")
    assert not (tmp_path / "other").exists()
    allowed = replace(operated.terms, deletion=replace(operated.terms.deletion, class_signers=("silo-0",)))
    found(allowed, operated.roster, tmp_path / "other", keys=operated.server / "keys.bin")


def test_an_interrupted_founding_is_done_again(tmp_path):
    operated = Operated(tmp_path)
    (operated.server / "federation.json").unlink()  # it is written last
    found(operated.terms, operated.roster, operated.server)
    write_bundle(operated.server, operated.bundle)
    assert bundle_digest(operated.bundle)


def test_the_server_has_no_keys_but_its_own(tmp_path):
    operated = Operated(tmp_path)
    make_keys(tmp_path / "both", {"server": Role.SERVER, "silo-9": Role.CLIENT})
    with pytest.raises(ArgumentError, match="the keys of 'server' alone"):
        found(operated.terms, operated.roster, tmp_path / "other", keys=tmp_path / "both" / "keys.bin")
    make_keys(tmp_path / "stranger", {"server": Role.SERVER})
    with pytest.raises(RosterError, match="other keys"):
        found(operated.terms, operated.roster, tmp_path / "other", keys=tmp_path / "stranger" / "keys.bin")
    assert not (tmp_path / "other").exists()


def test_keys_from_elsewhere_are_copied_for_their_owner_alone(tmp_path):
    operated = Operated(tmp_path)
    found(operated.terms, operated.roster, tmp_path / "other", keys=operated.server / "keys.bin")
    copied = tmp_path / "other" / "keys.bin"
    assert stat.S_IMODE(copied.stat().st_mode) == 0o600
    assert copied.read_bytes() == (operated.server / "keys.bin").read_bytes()


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('kind = "logistic"', 'kind = "magic"', "model.kind is 'magic'"),
        ("inputs = 5", 'inputs = "5"', "model.inputs is '5'"),
        ("inputs = 5", "", "model.inputs is None"),
        ("classes = 3", "classes = 1", "model.classes is 1"),
        ("minimum_cohort = 3", "minimum_cohort = 9", "plan.minimum_cohort is 9"),
        ("minimum_cohort = 3", "", "plan.minimum_cohort is None"),
        ("rounds = 4", "rounds = 4.5", "plan.rounds is 4.5"),
        ("rounds = 4", "rounds = 4\nrouns = 3", "plan.rouns is 3"),
        ('unit = "record"', 'unit = "patient"', "plan.unit is 'patient'"),
        ('name = "kahe"', 'name = "ckks"', "scheme is"),
        ('name = "kahe"', 'name = "bfv"', "committee is"),
        ("threshold = 3", "threshold = 9", "committee.threshold is 9"),
        ("threshold = 3", "", "committee is"),
        (
            "[methods.retrain]",
            "[methods.magic]",
            "methods is '[methods.magic]'; expected names among retrain",
        ),
        ("[methods.retrain]", "[methods.rollback]", "deletion.method is 'Retrain()'"),
        ("window_seconds = 3600", "window_seconds = 3", "deletion.window_seconds is 3"),
        ("window_seconds = 3600", "window_second = 3600", "deletion.window_second is 3600"),
        ("hidden_units = 2", "hidden_units = 0", "deletion.hidden_units is 0"),
        ("[scheme]", "[sceme]", "sceme is"),
        ("[plan]", "[plan", "valid TOML"),
    ],
)
def test_terms_with_a_mistake_are_refused_by_their_key(tmp_path, before, after, says):
    path = tmp_path / "federation.toml"
    path.write_text(TERMS.replace(before, after, 1))
    roster = cast()

    def whole():
        terms = read_terms(path)
        return policy_for(terms, roster, terms.plan_for(roster))

    with pytest.raises(ConfigError) as caught:
        whole()
    assert says in str(caught.value)


def test_a_factory_is_code_that_is_installed_here():
    assert model_of({"factory": "deployed:module"}) is not None
    for wrong in ("deployed.module", "no_such_package:module", "deployed:NOW", "deployed:nothing"):
        with pytest.raises(ConfigError, match=r"model"):
            model_of({"factory": wrong})


def test_the_model_of_a_founding_is_pinned_by_its_start(tmp_path):
    (tmp_path / "federation.toml").write_text(TERMS)
    terms = read_terms(tmp_path / "federation.toml")
    other = replace(terms, model={**terms.model, "seed": 1})
    assert facts_of(terms)["start"] != facts_of(other)["start"]


def test_a_bundle_is_not_put_among_other_files(tmp_path):
    operated = Operated(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="a new folder"):
        write_bundle(operated.server, tmp_path / "full")
    with pytest.raises(RecordError):
        write_bundle(tmp_path / "full", tmp_path / "bundle-2")


def test_records_are_found_where_the_template_says(tmp_path):
    """`node.toml` from a bundle names records.npz; without it a client's node says so."""
    operated = Operated(tmp_path)
    (tmp_path / "silo-1" / "records.npz").unlink()
    with pytest.raises(Exception, match=r"records\.npz"):
        Node.create(tmp_path / "silo-1")
    write_records(tmp_path / "silo-1" / "records.npz", "silo-1")
    assert operated.nodes == {}
