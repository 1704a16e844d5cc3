"""A CA of the user's own, and Secrets with what it signs, as openssl or cert-manager would make them."""

from __future__ import annotations

import datetime as dt
import ssl
import tempfile
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vanrouter.resources import Metadata, Secret

__all__ = ["DAY", "UserCa", "secret"]

DAY = 86_400.0


class UserCa:
    def __init__(self, name: str = "the user's CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.pem = _pem(self._sign(self._name, self._key, -DAY, 900 * DAY, ca=True, names=[]))

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begins: float, ends: float, *, ca: bool, names: list[str]
    ) -> x509.Certificate:
        now = time.time()
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(dt.datetime.fromtimestamp(now + begins, dt.UTC))
            .not_valid_after(dt.datetime.fromtimestamp(now + ends, dt.UTC))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def leaf(self, name: str = "localhost", *, begins: float = -DAY, ends: float = 90 * DAY) -> dict[str, bytes]:
        """tls.crt and tls.key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._sign(subject, key, begins, ends, ca=False, names=[name])
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return {"tls.crt": _pem(made), "tls.key": private}

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.pem.decode())

    def server(self, files: dict[str, bytes]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "both.pem")
            path.write_bytes(files["tls.crt"] + files["tls.key"])
            context.load_cert_chain(path)
        return context


def secret(name: str, files: dict[str, bytes]) -> Secret:
    return Secret(metadata=Metadata(name=name), type="Opaque", data=files)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
