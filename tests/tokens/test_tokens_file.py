"""The token's file format, and what a malformed or exposed file is told."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from token_parts import NOW, make_issuer

from vanrouter.errors import ConfigError, TokenError
from vanrouter.tokens import AccessToken, Endpoint, format_token, parse_token
from vanrouter.tokens import files as token_files
from vanrouter.tokens.files import read_token, write_token


class _Nowhere:
    def swap(self, *_: object) -> bool:
        return True


TOKEN: AccessToken = make_issuer(_Nowhere()).grant(
    "to-north", now=NOW, uses=3, cost=5, endpoints=[Endpoint("127.0.0.1", 7001), Endpoint("::1", 7002), Endpoint("van.example", 443)]
)[1]
TEXT = format_token(TOKEN)


def document() -> dict[str, Any]:
    loaded = yaml.safe_load(TEXT)
    assert isinstance(loaded, dict)
    return loaded


def test_what_is_written_is_read_back() -> None:
    assert parse_token(TEXT) == TOKEN


def test_it_is_a_labelled_opaque_secret() -> None:
    made = document()
    assert (made["apiVersion"], made["kind"], made["type"]) == ("v1", "Secret", "Opaque")
    assert made["metadata"]["labels"] == {"vanrouter.io/type": "access-token"}
    assert made["stringData"]["endpoints"].split() == ["127.0.0.1:7001", "[::1]:7002", "van.example:443"]


def test_what_a_cluster_gives_back_is_the_same_token() -> None:
    """Base64 data, metadata of the API server, JSON: still this token."""
    made = document()
    made["data"] = {key: base64.b64encode(value.encode()).decode() for key, value in made.pop("stringData").items()}
    made["metadata"] |= {"uid": "x", "creationTimestamp": "2026-01-01T00:00:00Z", "namespace": "default", "managedFields": [{"a": 1}]}
    made["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = "{}"
    made["immutable"] = True
    assert parse_token(yaml.dump(made)) == TOKEN
    assert parse_token(json.dumps(made)) == TOKEN


def test_string_data_wins_over_data_as_in_a_cluster() -> None:
    made = document()
    made["data"] = {"endpoints": base64.b64encode(b"other.example:1").decode()}
    assert parse_token(yaml.dump(made)) == TOKEN


def without(path: str) -> str:
    made = document()
    *parents, last = path.split("/")
    inner = made
    for key in parents:
        inner = inner[key]
    del inner[last]
    return yaml.dump(made)


def having(path: str, value: object) -> str:
    made = document()
    *parents, last = path.split("/")
    inner = made
    for key in parents:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return yaml.dump(made)


NOTE = "metadata/annotations/vanrouter.io"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a Secret in YAML"),
        ("- a\n- b", "is not a Secret in YAML"),
        ("a: [", r"is not YAML \(line 1\)"),
        ("a: 1\n---\nb: 2\n", "is not YAML"),
        (b"\xff\xfe", "is not UTF-8"),
        ("x" * 70_000, "70000 bytes"),
        ("[" * 30_000, "is not YAML"),
        (having("kind", "ConfigMap"), "kind is 'ConfigMap'"),
        (having("apiVersion", "v2"), "kind is 'Secret'"),
        (having("metadata/labels", {}), r"metadata\.labels\[vanrouter.io/type\]"),
        (having("spec", {}), "spec is not a field"),
        (having("metadata/name", "North!"), r"metadata\.name is wrong"),
        (without("metadata/name"), r"metadata\.name is missing"),
        (without("stringData/secret"), "secret is missing"),
        (having("stringData/secret", "abc"), "secret must be 32 bytes"),
        (having("stringData/secret", TOKEN.secret.reveal().hex()), "secret must be 32 bytes"),
        (without("stringData/endpoints"), "endpoints is missing"),
        (having("stringData/endpoints", "north"), "endpoints is wrong: .* no port"),
        (having("stringData/endpoints", "\n".join(f"h:{n}" for n in range(1, 20))), "endpoints lists 19"),
        (without("stringData/ca.crt"), r"ca\.crt is missing"),
        (having("stringData/ca.crt", "hello"), r"ca\.crt is wrong: ca\.crt holds no certificate"),
        (without("stringData/token-id"), "token-id is missing"),
        (having("stringData/token-id", "../../etc"), "token-id is wrong"),
        (having("stringData/more", "x"), "more is not a field of an access token"),
        (having("stringData", ["a"]), "stringData must be a mapping"),
        (having("stringData/endpoints", {"a": "b"}), "endpoints must be a string"),
        (having("data", {"secret": "***"}), r"data\.secret is not text in base64"),
        (having(NOTE + "/x", 1).replace("vanrouter.io/issuer-site-id", "other"), "issuer-site-id.* is missing"),
        (TEXT.replace(TOKEN.issuer, "short"), "issuer-site-id.* is wrong"),
        (TEXT.replace("vanrouter.io/cost: '5'", "vanrouter.io/cost: '0'"), "cost.* from 1 to 1000000"),
        (TEXT.replace("vanrouter.io/cost: '5'", "vanrouter.io/verify-host: 'maybe'"), "verify-host.* true or false"),
        (TEXT.replace("vanrouter.io/expires: '2", "vanrouter.io/expires: 'x2"), "expires.* is not a time"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_told_where_and_why_and_never_quotes_the_secret(text: str | bytes, says: str) -> None:
    with pytest.raises(TokenError, match=says) as caught:
        parse_token(text, "north.yaml")
    error = caught.value
    assert str(error).startswith("north.yaml")
    assert (error.reason, bool(error.hint)) == ("malformed", True)
    assert base64.urlsafe_b64encode(TOKEN.secret.reveal()).decode().rstrip("=") not in f"{error!r} {error} {error.hint}"
    assert error.__cause__ is None


@given(st.one_of(st.text(max_size=400), st.binary(max_size=400)))
def test_no_input_raises_anything_but_token_error(noise: str | bytes) -> None:
    with pytest.raises(TokenError):
        parse_token(noise)


@given(at=st.integers(0, len(TEXT) - 1), cut=st.integers(0, 40), put=st.text(max_size=6))
def test_a_damaged_token_is_read_or_raises_token_error(at: int, cut: int, put: str) -> None:
    with contextlib.suppress(TokenError):
        parse_token(TEXT[:at] + put + TEXT[at + cut :])


nested = st.recursive(
    st.none() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@given(
    path=st.sampled_from(
        ["metadata", "metadata/labels", "metadata/annotations", "stringData", "data", "data/secret", "stringData/secret", "type"]
    ),
    value=nested,
)
def test_any_shape_in_any_place_raises_nothing_else(path: str, value: object) -> None:
    with contextlib.suppress(TokenError):
        parse_token(having(path, value))


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("h:1", ("h", 1)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[::1]:80", ("::1", 80)),
        ("a-b.c_d.example.:443", ("a-b.c_d.example.", 443)),
    ],
)
def test_endpoints_read_and_print(text: str, endpoint: tuple[str, int]) -> None:
    parsed = Endpoint.parse(text)
    assert (parsed.host, parsed.port) == endpoint
    assert str(parsed) == text


NO_ENDPOINTS = ["", ":", "h", "h:", "h:0", "h:65536", "h:-1", "h:+1", "h:1_0", "h:\u0663", "::1:80", "[::1]", "[x]:1", "a b:1", "-a:1"]


@pytest.mark.parametrize("text", [*NO_ENDPOINTS, "http://h:1", "h/x:1", "x" * 254 + ":1"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Endpoint.parse(text)


# ---- On disk --------------------------------------------------------------------------------------------------------------------------


def test_a_token_is_written_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "north.yaml"
    old = os.umask(0)
    try:
        write_token(path, TOKEN)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["north.yaml"], "no temporary file stays"
    assert read_token(path, strict=True) == (TOKEN, [])


@pytest.mark.parametrize("links", [True, False])
def test_a_token_is_never_written_over_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def no_links(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(token_files.os, "link", no_links)
    path = tmp_path / "north.yaml"
    path.write_text("precious")
    with pytest.raises(TokenError, match="exists already") as caught:
        write_token(path, TOKEN)
    assert caught.value.reason == "exists"
    assert path.read_text() == "precious"
    write_token(tmp_path / "new.yaml", TOKEN)
    assert read_token(tmp_path / "new.yaml", strict=True)[0] == TOKEN
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.yaml", "north.yaml"]


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=r"gone/north\.yaml cannot be written: No such file"):
        write_token(tmp_path / "gone" / "north.yaml", TOKEN)
    with pytest.raises(TokenError, match="cannot be read: No such file"):
        read_token(tmp_path / "north.yaml")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_warns_and_strict_refuses(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "north.yaml"
    write_token(path, TOKEN)
    path.chmod(mode)
    token, warnings = read_token(path)
    assert token == TOKEN
    assert f"mode {mode:04o}" in warnings[0]
    with pytest.raises(TokenError, match=f"mode {mode:04o}") as caught:
        read_token(path, strict=True)
    assert caught.value.reason == "mode"
    assert "chmod 600" in caught.value.hint


def test_a_token_comes_through_a_pipe(tmp_path: Path) -> None:
    """``van link create <(ssh north van token create -)``"""
    read, write = os.pipe()
    os.write(write, TEXT.encode())
    os.close(write)
    try:
        assert read_token(f"/dev/fd/{read}", strict=True)[0] == TOKEN
    finally:
        os.close(read)
