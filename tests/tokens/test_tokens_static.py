"""Certificates for links without a token: what they are good for, and what not."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography import x509
from token_parts import AUTHORITY, NORTH, NOW, MemoryLedger, make_issuer

from vanrouter.errors import TokenError
from vanrouter.pki import PrivateKey, load_certificates
from vanrouter.pki.authority import make_csr
from vanrouter.tokens import Endpoint, Issuer

YEAR = 365 * 86_400.0
HERE = [Endpoint("127.0.0.1", 7001)]


@pytest.fixture
def north() -> Issuer:
    return make_issuer(MemoryLedger())


def asked(north: Issuer, name: str = "to-north", *, csr: str | None = None, **given: Any) -> Any:
    request = csr if csr is not None else base64.b64encode(make_csr(PrivateKey.generate())).decode()
    return north.static_link(name, request, **{"now": NOW, "lifetime": YEAR, "endpoints": HERE, **given})


def test_the_certificate_is_for_the_asked_key_and_names_no_site(north: Issuer) -> None:
    key = PrivateKey.generate()
    made = asked(north, csr=base64.b64encode(make_csr(key)).decode())
    (leaf,) = load_certificates(made.certificate.encode(), "tls.crt")
    assert AUTHORITY.issued(leaf)
    assert leaf.subject.rfc4514_string() == "CN=link to-north"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert names == [f"to-north.{NORTH.site_id}.van"]
    assert leaf.not_valid_after_utc.timestamp() == made.expires == NOW + YEAR
    assert (made.issuer, made.endpoints) == (NORTH.site_id, ["127.0.0.1:7001"])


def test_a_name_that_is_the_id_of_a_site_does_not_make_a_certificate_of_that_site(north: Issuer) -> None:
    (leaf,) = load_certificates(asked(north, str(NORTH.site_id)).certificate.encode(), "tls.crt")
    assert leaf.subject.rfc4514_string() == f"CN=link {NORTH.site_id}"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"endpoints": []}, "has no link access"),
        ({"lifetime": 60.0}, "an hour to five years"),
        ({"lifetime": 6 * YEAR}, "an hour to five years"),
        ({"csr": "no base64!"}, "the certificate request"),
        ({"csr": base64.b64encode(b"nonsense").decode()}, "does not decode"),
        ({"name": "Not A Name"}, "name"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_signed(north: Issuer, given: dict[str, Any], said: str) -> None:
    with pytest.raises(TokenError, match=said):
        asked(north, **given)
