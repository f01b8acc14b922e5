"""Certificates and node keys, judged by OpenSSL's own handshake and by the readers that Flower uses."""

from __future__ import annotations

import ssl

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from secure_fu.errors import ArgumentError
from secure_fu.flower.certificates import make_node_key, make_server_certificate


def shake_hands(server_files, authority, host):
    """A TLS handshake in memory; returns the TLS version, or raises what OpenSSL raises."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(server_files.certificate, server_files.key)
    client = ssl.create_default_context(cafile=str(authority))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ways = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(ways[0], ways[1], server_hostname=host),
        server.wrap_bio(ways[1], ways[0], server_side=True),
    ]
    for _ in range(6):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].version()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "hospital.example"])
def test_the_server_is_known_by_each_of_its_hosts(tmp_path, host):
    files = make_server_certificate(tmp_path, hosts=("localhost", "127.0.0.1", "hospital.example"))
    assert shake_hands(files, files.authority, host) == "TLSv1.3"


def test_a_server_of_another_name_or_authority_is_refused(tmp_path):
    files, others = (make_server_certificate(tmp_path / name) for name in ("ours", "others"))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(files, files.authority, "bank.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, others.authority, "localhost")


def test_secret_keys_are_for_their_owner_and_are_not_overwritten(tmp_path):
    files = make_server_certificate(tmp_path / "tls")
    node = make_node_key(tmp_path / "keys", "north")
    assert [path.stat().st_mode & 0o777 for path in (files.key, node.secret)] == [0o600, 0o600]
    for make in (lambda: make_server_certificate(tmp_path / "tls"), lambda: make_node_key(tmp_path / "keys", "north")):
        with pytest.raises(FileExistsError):
            make()


def test_a_node_key_is_what_flower_reads_and_its_halves_belong_together(tmp_path):
    node, other = (make_node_key(tmp_path, name) for name in ("north", "south"))
    secret = load_ssh_private_key(node.secret.read_bytes(), None)
    assert isinstance(secret, ec.EllipticCurvePrivateKey)
    assert secret.curve.name == "secp384r1"
    assert secret.public_key() == load_ssh_public_key(node.public.read_bytes())
    assert secret.public_key() != load_ssh_public_key(other.public.read_bytes())


@pytest.mark.parametrize(
    ("change", "argument"), [({"hosts": ()}, "hosts"), ({"days": 0}, "days"), ({"days": 900}, "days")]
)
def test_bad_arguments_are_named(tmp_path, change, argument):
    with pytest.raises(ArgumentError) as caught:
        make_server_certificate(tmp_path, **change)
    assert caught.value.argument == argument
    assert not list(tmp_path.iterdir())
