"""The identity of a node towards others: a key of its own, and the certificate that it made of it.

No authority signs anything: a node trusts exactly the certificates that the database tells of live
nodes (`members`), byte by byte. Names, validity and what else stands in them mean nothing.

The standard library speaks TLS, but makes no certificates, and an `openssl` program may be missing:
so cryptography makes them, which encrypted mounts have as well.

Invariant: the key never leaves the state directory, and is readable by its owner alone.
"""

from __future__ import annotations

import datetime
import os
import secrets
import ssl
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import NotSupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE_NAME = "peer.pem"
"""In the state directory: key and certificate."""

_BEGIN = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)
"""Clocks of nodes differ, and a certificate is valid as long as the database tells it."""


class Identity(NamedTuple):
    """A node's own."""

    path: Path
    """File with key and certificate."""
    certificate: bytes
    """DER."""


def load_or_make(state_dir: Path) -> Identity:
    """Return the identity of a state directory, made if it has no usable one.

    Raises:
        NotSupportedError: cryptography is not installed.
        OSError: The file cannot be written.
    """
    path = state_dir / FILE_NAME
    try:
        return _load(path)
    except (OSError, ValueError):
        # The database gets the new one, so that an old one is missed by nobody.
        _make(path)
    return _load(path)


def server_context(identity: Identity, trusted: Iterable[bytes]) -> ssl.SSLContext:
    """Return what to accept connections with: each has to show a trusted certificate."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity, trusted)
    # A session that is resumed would show no certificate.
    context.num_tickets = 0
    return context


def client_context(identity: Identity, expected: bytes) -> ssl.SSLContext:
    """Return what to connect with to the node that has a certificate."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, identity, (expected,))


def _context(protocol: int, identity: Identity, trusted: Iterable[bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(identity.path)
    for certificate in trusted:
        try:
            context.load_verify_locations(cadata=certificate)
        except (ssl.SSLError, ValueError):
            # What a row has that is no certificate lets nobody in.
            continue
    return context


def _load(path: Path) -> Identity:
    """Raises ValueError, OSError (`ssl.SSLError` is such a one): it cannot be used."""
    text = path.read_text("ascii")
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
    begin = text.index("-----BEGIN CERTIFICATE-----")
    return Identity(path, ssl.PEM_cert_to_DER_cert(text[begin:]))


def _make(path: Path) -> None:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise NotSupportedError(
            "nodes talk to each other by certificates, which cryptography makes: install it, by "
            "`pip install 'memfs-tiers[postgresql]'`"
        ) from None
    key = ec.generate_private_key(ec.SECP256R1())
    # Others tell certificates of one name apart by their keys alone.
    name = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, f"memfs node {secrets.token_hex(8)}")]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        # It signs no other one.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, pem)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
