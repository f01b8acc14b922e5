"""TLS certificates and node keys for a federation on one machine, or for trying things out. No shell command is run.

A real deployment takes its server's certificate from its own authority; the node keys are made here all the same.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secure_fu.errors import ArgumentError

__all__ = ["NodeKey", "ServerCertificate", "make_node_key", "make_server_certificate"]

_MOST_DAYS = 825


@dataclass(frozen=True, kw_only=True)
class ServerCertificate:
    """Files of one server.

    Attributes:
        authority: certificate of the authority that signed; what everybody else needs to know.
        certificate: of the server.
        key: the server's secret key, mode 600.
    """

    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class NodeKey:
    """Files of one node: its secret key (OpenSSH, mode 600), and the public key that an operator registers."""

    secret: Path
    public: Path


def make_server_certificate(
    folder: Path, *, hosts: Sequence[str] = ("localhost", "127.0.0.1"), days: int = 30
) -> ServerCertificate:
    """Make an authority and a server's certificate that it signs. The authority's secret key is thrown away.

    Args:
        folder: made if it is not there; mode 700.
        hosts: names and addresses under which the server is reached.
        days: how long both hold, up to 825.

    Raises:
        ArgumentError: no host, or a time that no browser or library would accept.
        FileExistsError: there is a key already.
    """
    if not hosts:
        raise ArgumentError("hosts", tuple(hosts), "at least one name or address")
    if not 1 <= days <= _MOST_DAYS:
        raise ArgumentError("days", days, f"between 1 and {_MOST_DAYS}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "secure_fu federation")])

    def draft(subject: x509.Name, key: ec.EllipticCurvePublicKey, is_authority: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), True)
            .add_extension(_usage(is_authority), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )

    authority = draft(authority_name, authority_key.public_key(), True).sign(authority_key, hashes.SHA256())
    server = (
        draft(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]), server_key.public_key(), False)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    files = ServerCertificate(
        authority=folder / "authority.pem", certificate=folder / "server.pem", key=folder / "server.key"
    )
    _write_secret(files.key, server_key, serialization.PrivateFormat.PKCS8)
    files.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(server.public_bytes(serialization.Encoding.PEM))
    return files


def make_node_key(folder: Path, name: str) -> NodeKey:
    """Make a P-384 key, with which a node authenticates itself to the SuperLink: `name`.key and `name`.pub.

    Raises:
        FileExistsError: there is a key already.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    files = NodeKey(secret=folder / f"{name}.key", public=folder / f"{name}.pub")
    _write_secret(files.secret, key, serialization.PrivateFormat.OpenSSH)
    files.public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    return files


def _usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_secret(path: Path, key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> None:
    data = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
