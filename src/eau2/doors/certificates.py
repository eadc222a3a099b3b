"""Certificates for development: a server's, and what its clients trust it by, in one file."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from eau2.errors import InvalidOption, PartMissing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CERTIFICATE, KEY = "cert.pem", "key.pem"
HOSTS = ("localhost", "127.0.0.1", "::1")
DAYS, DAYS_MAX = 365, 825  # more are refused by macOS
_EARLY = timedelta(hours=1)  # for machines whose clocks are slow
_NAME = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.I)
_NAME_BYTES_MAX = 253


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key as they lie in files."""

    certificate: Path  # also what clients are to trust
    key: Path
    hosts: tuple[str, ...]
    until: datetime
    fingerprint: str  # SHA-256 of the server's certificate


def make_pair(folder: Path, hosts: Iterable[str] = (), *, days: int = DAYS, replace: bool = False) -> Pair:
    """Make `folder`/cert.pem and key.pem for this machine's own names and `hosts`, for `days` days from now.

    cert.pem has two certificates: the server's, and the one that signed it, whose key is nowhere: whoever trusts the
    file trusts nothing that anybody could still make. One that signs itself would be a certificate that may sign for
    any host, or else a root that may not sign; some clients (rustls, Firefox) take no such. key.pem is for its owner
    only.

    InvalidOption where one of the files is there (`replace` removes them first), cannot be written, or a host is no
    name and no address. PartMissing without `cryptography`.
    """
    named = tuple(dict.fromkeys([*HOSTS, *(_checked(host) for host in hosts)]))
    certificate, key = folder / CERTIFICATE, folder / KEY
    begins = datetime.now(UTC).replace(microsecond=0)
    until = begins + timedelta(days=days)
    chain, private, fingerprint = _signed(named, begins - _EARLY, until)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write([(key, private, 0o600), (certificate, chain, 0o644)], replace=replace)
    except OSError as error:
        raise InvalidOption(f"the certificate cannot be written: {error}") from None
    return Pair(certificate, key, named, until, fingerprint)


def _checked(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if not _NAME.fullmatch(host) or len(host) > _NAME_BYTES_MAX or host.replace(".", "").isdigit():
            hint = "a name as DNS has it, other letters as xn--..., or an address"
            raise InvalidOption(f"{host!r} is no name of a machine", hint=hint) from None
        return host.lower()


def _write(files: Sequence[tuple[Path, bytes, int]], *, replace: bool) -> None:
    """Write all of `files`, or none where one of them is there: InvalidOption. OSError."""
    for path, _, _ in files:
        if replace:
            path.unlink(missing_ok=True)
        elif path.is_symlink() or path.exists():
            raise InvalidOption(f"{path} is there already", hint="--replace makes a new pair")
    for path, data, mode in files:
        # O_EXCL: not what another has just made. With its mode from the first: nobody can read it in between.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)


def _signed(hosts: Sequence[str], begins: datetime, until: datetime) -> tuple[bytes, bytes, str]:
    """Return the two certificates, the key of the first, and its fingerprint."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError:
        hint = 'pip install "eau2[serve]"'
        raise PartMissing("a certificate needs cryptography, which is not installed", hint=hint) from None

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    signing, serving = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # Two pairs of one machine have two names: a client that is given both must not try the wrong one.
    root = named(f"eau2 development {x509.random_serial_number():040x}"[:64])
    of_root = x509.SubjectKeyIdentifier.from_public_key(signing.public_key())

    def made(subject: x509.Name, key: EllipticCurvePrivateKey, *, signs: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(root, subject, key.public_key(), x509.random_serial_number(), begins, until)
            .add_extension(x509.BasicConstraints(ca=signs, path_length=0 if signs else None), critical=True)
            .add_extension(_usage(signs=signs), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(of_root), critical=False)
        )

    names: list[x509.GeneralName] = [_general_name(host) for host in hosts]
    servers = (
        made(named("eau2"), serving, signs=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signing, hashes.SHA256())
    )
    roots = made(root, signing, signs=True).sign(signing, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = serving.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return servers.public_bytes(pem) + roots.public_bytes(pem), private, servers.fingerprint(hashes.SHA256()).hex(":")


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
