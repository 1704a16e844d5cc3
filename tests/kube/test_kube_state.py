"""Keys in Secrets, grants in Secrets: written whole, made once, refused when the cluster does not answer."""

from __future__ import annotations

import base64
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from vanrouter.errors import ConfigError, StoreError
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.calls import get, merge_patch
from vanrouter.kube.errors import Forbidden, NotFound, Unreachable
from vanrouter.kube.kinds import SECRETS
from vanrouter.kube.ledger import SecretLedger
from vanrouter.kube.names import CA_SECRET, IDENTITY_SECRET, grant_secret
from vanrouter.kube.state import StateSecrets
from vanrouter.pki import CertificateAuthority, IdentityKey
from vanrouter.tokens import AccessToken, Endpoint, Issuer, prepare

NOW = 1_800_000_000.0


@pytest.fixture
def client(api_server: Any) -> Iterator[BlockingClient]:
    with BlockingClient(api_server.access(), deadline=1.0) as made:
        yield made


@pytest.fixture
def cluster(api_server: Any) -> Any:
    """These tests stop the server: their own one."""
    return api_server.access()


@pytest.fixture
def state(client: BlockingClient, namespace: str) -> StateSecrets:
    return StateSecrets(client, namespace)


# ---- State ------------------------------------------------------------------------------------------------------------------------------


def test_files_are_read_as_written_each_in_the_secret_that_its_reader_may_read(state: StateSecrets, client: BlockingClient) -> None:
    assert state.read("identity.key") is None
    for name in ("identity.key", "ca.key", "ca.crt", "other"):
        state.write(name, name.encode() + b"\0\xff")
        state.write(name, name.encode())
    assert [state.read(n) for n in ("identity.key", "ca.key", "ca.crt", "other")] == [b"identity.key", b"ca.key", b"ca.crt", b"other"]
    identity = client.call(get(SECRETS, state.namespace, IDENTITY_SECRET))
    authority = client.call(get(SECRETS, state.namespace, CA_SECRET))
    assert set(identity["data"]) == {"identity.key"}, "a router reads this one"
    assert set(authority["data"]) == {"ca.key", "ca.crt"}, "and never this one"
    assert authority["metadata"]["labels"]["app.kubernetes.io/part-of"] == "vanrouter"


def test_of_many_who_make_the_identity_at_once_all_get_one(state: StateSecrets) -> None:
    barrier, got = threading.Barrier(8), []

    def race(number: int) -> None:
        barrier.wait()
        got.append(state.establish({"identity.key": b"%d" % number})["identity.key"])

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert set(got) == {state.read("identity.key")}


def test_a_secret_from_which_somebody_took_the_key_is_not_made_anew(state: StateSecrets, client: BlockingClient) -> None:
    """A new identity would be another site: that is for a person to decide."""
    state.establish({"identity.key": b"k"})
    client.call(merge_patch(SECRETS, state.namespace, IDENTITY_SECRET, {"data": None}))
    with pytest.raises(StoreError, match=r"Secret/van-identity in .* lacks identity\.key") as caught:
        state.establish({"identity.key": b"new"})
    assert "backup" in caught.value.hint


def test_a_credential_is_replaced_as_a_whole_and_goes_as_a_whole(state: StateSecrets) -> None:
    state.write_credential("west", {"tls.crt": b"1", "tls.key": b"1", "extra": b"1"})
    state.write_credential("a..b", {"tls.crt": b"x"})
    state.write_credential("west", {"tls.crt": b"2", "tls.key": b"2"})
    assert state.read_credential("west") == {"tls.crt": b"2", "tls.key": b"2"}
    assert state.credential_names() == ["a..b", "west"]
    state.delete_credential("west")
    state.delete_credential("west")
    assert state.read_credential("west") is None
    assert state.credential_names() == ["a..b"]


def test_admissions_come_and_go(state: StateSecrets) -> None:
    state.write_admission("b", b"2")
    state.write_admission("a", b"1")
    assert state.read_admissions() == {"a": b"1", "b": b"2"}
    state.delete_admission("a")
    assert state.read_admissions() == {"b": b"2"}


@pytest.mark.parametrize("name", ["../x", "", "X", "a/b"])
def test_names_that_are_none_are_refused_before_anything_is_sent(state: StateSecrets, name: str) -> None:
    for do in (lambda: state.write_credential(name, {}), lambda: state.read_credential(name), lambda: state.write_admission(name, b"")):
        with pytest.raises(ConfigError):
            do()
    with pytest.raises(ConfigError, match="is not a name for a file"):
        state.write_credential("west", {"../x": b""})


def test_more_than_a_secret_holds_is_refused_with_both_numbers(state: StateSecrets) -> None:
    with pytest.raises(StoreError, match="1048576 bytes"):
        state.write_credential("west", {"big": b"x" * (1 << 20) + b"x"})


def test_a_namespace_that_is_gone_is_no_empty_state(client: BlockingClient) -> None:
    with pytest.raises(NotFound, match="no namespace"):
        StateSecrets(client, "nowhere").write("identity.key", b"k")


# ---- The ledger -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def issuer(client: BlockingClient, namespace: str) -> Issuer:
    identity = IdentityKey.generate()
    return Issuer(
        ledger=SecretLedger(client, namespace),
        identity=identity,
        site_name="north",
        authority=CertificateAuthority.create("north", identity.site_id, now=NOW),
        endpoints=[Endpoint("127.0.0.1", 7001)],
        failures_per_minute=0,
    )


def ask_for(token: AccessToken) -> Any:
    return prepare(token, site_name="south", identity=IdentityKey.generate())


def test_while_the_cluster_hangs_the_answer_is_later_and_nothing_is_used_up(issuer: Issuer, api_server: Any) -> None:
    _, token = issuer.grant("g", now=NOW, uses=1)
    pending = ask_for(token)
    api_server.signal(signal.SIGSTOP)
    try:
        assert issuer.redeem_untrusted(pending.request.reveal(), source="s", now=NOW).status == 503
    finally:
        api_server.signal(signal.SIGCONT)
    assert issuer.redeem_untrusted(pending.request.reveal(), source="s", now=NOW + 1).status == 200
    assert issuer.grants(NOW)[0].used == 1
    assert issuer.redeem_untrusted(ask_for(token).request.reveal(), source="s", now=NOW + 2).status not in (200, 503)


def test_a_write_whose_answer_was_lost_serves_the_same_key_again(
    issuer: Issuer, client: BlockingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The use was taken and nobody heard: the same key gets it, another does not."""
    _, token = issuer.grant("g", now=NOW, uses=1)
    pending, call = ask_for(token), client.call

    def lose_the_answer(what: Any, **more: Any) -> Any:
        answer = call(what, **more)
        if what.verb == "update":
            raise Unreachable("the connection was cut", call=str(what))
        return answer

    monkeypatch.setattr(client, "call", lose_the_answer)
    assert issuer.redeem_untrusted(pending.request.reveal(), source="s", now=NOW).status == 503
    monkeypatch.undo()
    assert issuer.grants(NOW)[0].used == 1
    assert issuer.redeem_untrusted(ask_for(token).request.reveal(), source="s", now=NOW + 1).status not in (200, 503)
    assert issuer.redeem_untrusted(pending.request.reveal(), source="s", now=NOW + 2).status == 200
    assert issuer.grants(NOW)[0].used == 1


def test_a_grant_that_somebody_edited_is_named(issuer: Issuer, client: BlockingClient, namespace: str) -> None:
    grant, _ = issuer.grant("g", now=NOW)
    name = grant_secret(grant.id)
    client.call(merge_patch(SECRETS, namespace, name, {"data": {"grant.json": "e30="}}))
    with pytest.raises(StoreError, match=f"Secret/{name}: a grant in the ledger does not decode"):
        issuer.grants(NOW)


def test_only_the_hash_of_a_secret_is_in_the_cluster(issuer: Issuer, client: BlockingClient, namespace: str) -> None:
    grant, token = issuer.grant("g", now=NOW)
    stored = str(client.call(get(SECRETS, namespace, grant_secret(grant.id))))
    for form in (token.secret.reveal(), base64.b64encode(token.secret.reveal()), token.secret.reveal().hex().encode()):
        assert form.decode("latin-1") not in stored
        assert form not in base64.b64decode(client.call(get(SECRETS, namespace, grant_secret(grant.id)))["data"]["grant.json"])


def test_a_missing_right_to_grants_is_named(api_server: Any, namespace: str) -> None:
    with BlockingClient(api_server.access("nobody", ())) as client, pytest.raises(Forbidden, match="you may not list secrets in namespace"):
        SecretLedger(client, namespace).grants()
