"""The issuer's decisions: uses, expiry, retries, locks, forged requests, look-alike refusals, renewal. Time is an argument throughout."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import logging
import statistics
import time
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from token_parts import AUTHORITY, NORTH, NOW, SOUTH, MemoryLedger, ask_for, make_issuer

from vanrouter.errors import StoreError, TokenError
from vanrouter.pki import CertificateAuthority, IdentityKey, PrivateKey, Purpose, Secret, make_csr, make_proof, verify_admission_untrusted
from vanrouter.tokens import AccessToken, Answer, Endpoint, Issuer, LinkCredential, Pending, prepare
from vanrouter.tokens.attempts import SOURCES, Attempts, source_key
from vanrouter.tokens.pending import accept_reply_untrusted, prepare_renewal
from vanrouter.tokens.wire import RedeemRequest, RenewRequest, Reply

DAY = 86_400.0
REFUSED = Answer(403, b'{"error":"refused"}')


def redeem(issuer: Issuer, pending: Pending, now: float = NOW, source: str = "127.0.0.1") -> Answer:
    return issuer.redeem_untrusted(pending.request.reveal(), source=source, now=now)


def leaf_of(answer: Answer) -> x509.Certificate:
    assert answer.status == 200, answer
    return x509.load_der_x509_certificate(msgspec.json.decode(answer.body, type=Reply).certificates[0])


def with_secret(token: AccessToken, secret: bytes, identity: IdentityKey | None = None) -> Pending:
    return ask_for(dataclasses.replace(token, secret=Secret(secret)), identity=identity)


def edited(pending: Pending, **change: Any) -> bytes:
    request = msgspec.json.decode(pending.request.reveal(), type=RedeemRequest)
    return msgspec.json.encode(msgspec.structs.replace(request, **change))


# ---- Grants ---------------------------------------------------------------------------------------------------------------------------


def test_the_secret_is_in_the_token_and_only_its_hash_in_the_ledger(issuer: Issuer) -> None:
    grant, token = issuer.grant("g", now=NOW)
    raw = msgspec.json.encode(issuer.ledger.grants())
    assert token.secret.reveal() not in raw
    assert base64.b64encode(token.secret.reveal()) not in raw
    assert grant.proves(token.secret)
    assert (len(token.secret), token.issuer, token.issuer_name, token.endpoints) == (
        32,
        NORTH.site_id,
        "north",
        (Endpoint("127.0.0.1", 7001),),
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"uses": 0}, "1 to 1000 uses"),
        ({"uses": 1001}, "1 to 1000 uses"),
        ({"lifetime": 0}, "from a second"),
        ({"lifetime": float("nan")}, "from a second"),
        ({"cost": 0}, "cost"),
        ({"name": "No!"}, "token name"),
        ({"endpoints": []}, "no link access"),
        ({"endpoints": [Endpoint("h", n) for n in range(1, 18)]}, "at most 16"),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused_before_anything_is_written(issuer: Issuer, change: dict[str, Any], says: str) -> None:
    with pytest.raises(TokenError, match=says):
        issuer.grant(**({"name": "g", "now": NOW} | change))
    assert issuer.ledger.grants() == []


def test_ended_grants_are_kept_a_week_for_status_and_then_pruned(issuer: Issuer) -> None:
    grant, _ = issuer.grant("g", now=NOW, lifetime=60)
    assert [g.state for g in issuer.grants(NOW + 61)] == ["expired"]
    assert issuer.prune(NOW + 7 * DAY) == 0
    assert issuer.prune(NOW + 7 * DAY + 61) == 1
    assert not issuer.delete_grant(grant.id)


def test_a_deleted_grant_is_redeemed_by_nobody(issuer: Issuer) -> None:
    grant, token = issuer.grant("g", now=NOW)
    assert issuer.delete_grant(grant.id)
    assert redeem(issuer, ask_for(token)) == REFUSED


# ---- Redemption -----------------------------------------------------------------------------------------------------------------------


def test_a_token_gives_a_certificate_and_an_admission_in_the_redeemers_name(issuer: Issuer) -> None:
    _, token = issuer.grant("g", now=NOW, cost=7)
    pending = ask_for(token, identity=SOUTH)
    answer = redeem(issuer, pending)
    assert answer.site == SOUTH.site_id
    link = accept_reply_untrusted(
        answer.body,
        key=pending.key,
        site=SOUTH.site_id,
        issuer=NORTH.site_id,
        endpoints=token.endpoints,
        cost=7,
        token_id=token.id,
        now=NOW,
    )
    assert AUTHORITY.issued(link.leaf)
    assert link.leaf.subject.rfc4514_string() == f"CN={SOUTH.site_id}"
    admission = verify_admission_untrusted(link.admission, now=NOW)
    assert (admission.issuer, admission.site) == (NORTH.site_id, SOUTH.site_id)
    assert admission.not_after == link.leaf.not_valid_after_utc.timestamp() == NOW + 90 * DAY
    assert link.credential("x", SOUTH).trust == [AUTHORITY.der]
    (status,) = issuer.grants(NOW)
    assert (status.state, status.used, status.redeemed_by) == ("used", 1, [(SOUTH.site_id, "south", NOW)])
    files = {name: secret.reveal() for name, secret in link.files().items()}
    assert LinkCredential.from_files(files) == link


@pytest.mark.parametrize("uses", [1, 2, 5, 50])
def test_n_uses_give_n_certificates_and_the_counter_says_n(issuer: Issuer, uses: int) -> None:
    _, token = issuer.grant("g", now=NOW, uses=uses)
    answers = [redeem(issuer, ask_for(token)) for _ in range(uses + 3)]
    assert [a.status for a in answers] == [200] * uses + [403] * 3
    assert issuer.grants(NOW)[0].used == uses


def test_expiry_to_the_second(issuer: Issuer) -> None:
    """K-5"""
    grant, token = issuer.grant("g", now=NOW, uses=9)
    got = [redeem(issuer, ask_for(token), now=grant.expires + offset).status for offset in (-1, 0, 1)]
    assert got == [200, 403, 403]


def test_the_same_key_gets_the_same_certificate_for_ten_minutes_and_another_key_does_not(issuer: Issuer) -> None:
    """K-6, on a grant that is used up and, in between, expired."""
    _, token = issuer.grant("g", now=NOW, lifetime=60)
    pending = ask_for(token)
    first = leaf_of(redeem(issuer, pending))
    for later in (0.0, 59.0, 61.0, 599.0):
        assert leaf_of(redeem(issuer, pending, now=NOW + later)) == first
    assert redeem(issuer, ask_for(token), now=NOW + 1) == REFUSED
    assert redeem(issuer, pending, now=NOW + 600) == REFUSED


def test_the_same_key_from_another_site_is_refused(issuer: Issuer) -> None:
    _, token = issuer.grant("g", now=NOW, uses=5)
    key = PrivateKey.generate()
    mine, theirs = (prepare(token, site_name="x", identity=IdentityKey.generate(), key=key) for _ in range(2))
    assert redeem(issuer, mine).status == 200
    assert redeem(issuer, theirs) == REFUSED


class CrashError(Exception):
    pass


class CrashingLedger(MemoryLedger):
    """Raises right before or after the n-th swap from now: a kill -9 as seen from inside."""

    crash_at: tuple[int, bool] | None = None

    def swap(self, grant_id: str, expected: Any, grant: Any) -> bool:
        if self.crash_at is not None:
            left, after = self.crash_at
            self.crash_at = (left - 1, after)
            if left == 1:
                self.crash_at = None
                if after:
                    super().swap(grant_id, expected, grant)
                raise CrashError
        return super().swap(grant_id, expected, grant)


@pytest.mark.parametrize(("swap", "after", "counted"), [(1, False, 0), (1, True, 1), (2, False, 1), (2, True, 1)])
def test_an_issuer_that_dies_at_any_step_owes_the_certificate_to_the_key_that_asked(swap: int, after: bool, counted: int) -> None:
    """Swap 1 takes the use, swap 2 records the certificate. Whoever the use was given to gets it from the next issuer; nobody else does."""
    ledger = CrashingLedger()
    issuer = make_issuer(ledger)
    _, token = issuer.grant("g", now=NOW)
    pending = ask_for(token)
    ledger.crash_at = (swap, after)
    with pytest.raises(CrashError):
        redeem(issuer, pending)
    assert issuer.grants(NOW)[0].used == counted

    restarted = make_issuer(ledger)
    if counted:
        assert redeem(restarted, ask_for(token), now=NOW + 2) == REFUSED, "the use belongs to the first key"
    first = leaf_of(redeem(restarted, pending, now=NOW + 3))
    assert leaf_of(redeem(restarted, pending, now=NOW + 4)) == first
    assert restarted.grants(NOW)[0].used == 1


def test_two_issuers_that_sign_for_one_use_answer_with_one_certificate() -> None:
    """Between taking and recording, another issuer with a newer CA serves the retry: the one recorded first counts for both."""
    ledger = MemoryLedger()
    slow, fast = make_issuer(ledger), make_issuer(ledger, authority=AUTHORITY.renewed(now=NOW), leaf_lifetime=DAY)
    _, token = slow.grant("g", now=NOW)
    pending = ask_for(token)
    answers = []
    sign = slow._sign

    def slowly(*args: Any) -> bytes:
        answers.append(redeem(fast, pending, now=NOW + 1))
        return sign(*args)

    slow._sign = slowly  # type: ignore[method-assign]
    answers.append(redeem(slow, pending))
    assert leaf_of(answers[0]) == leaf_of(answers[1])


def test_a_store_that_fails_gives_503_and_no_certificate() -> None:
    class Broken(MemoryLedger):
        def swap(self, grant_id: str, expected: Any, grant: Any) -> bool:
            if expected is not None:
                raise StoreError("the ledger cannot be used: disk is full", hint="free space")
            return super().swap(grant_id, expected, grant)

    issuer = make_issuer(Broken())
    _, token = issuer.grant("g", now=NOW)
    assert redeem(issuer, ask_for(token)) == Answer(503, b'{"error":"try later"}')
    assert issuer.grants(NOW)[0].used == 0


def test_who_loses_the_race_for_the_last_use_is_refused() -> None:
    """Between reading the grant and taking its use, somebody else takes it: the swap fails, and the second look refuses."""

    class Raced(MemoryLedger):
        rival: Pending | None = None

        def swap(self, grant_id: str, expected: Any, grant: Any) -> bool:
            if (rival := self.rival) is not None:
                self.rival = None
                assert redeem(make_issuer(self), rival).status == 200
            return super().swap(grant_id, expected, grant)

    ledger = Raced()
    issuer = make_issuer(ledger)
    _, token = issuer.grant("g", now=NOW)
    ledger.rival = ask_for(token)
    assert redeem(issuer, ask_for(token)) == REFUSED
    assert issuer.grants(NOW)[0].used == 1


def test_an_expired_ca_takes_no_use() -> None:
    issuer = make_issuer(MemoryLedger())
    end = AUTHORITY.certificate.not_valid_after_utc.timestamp()
    _, token = issuer.grant("g", now=end - 10)
    assert redeem(issuer, ask_for(token), now=end + 1).status == 503
    assert issuer.grants(NOW)[0].used == 0


# ---- Requests that are not what they should be ------------------------------------------------------------------------------------------


def test_the_csr_names_nobody(issuer: Issuer) -> None:
    """K-7: a request for CN=north, CA:TRUE, the victim's SAN gives a leaf for the site that proved itself, and for clients only."""
    _, token = issuer.grant("g", now=NOW)
    key = PrivateKey.generate()
    forged = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NORTH.site_id)]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{NORTH.site_id}.van")]), critical=False)
        .sign(key.object, hashes.SHA256())  # type: ignore[arg-type]
        .public_bytes(serialization.Encoding.DER)
    )
    proof = make_proof(SOUTH, Purpose.REDEMPTION, issuer=NORTH.site_id, csr=forged)
    body = edited(ask_for(token, identity=SOUTH), csr=forged, proof=proof)
    leaf = leaf_of(issuer.redeem_untrusted(body, source="s", now=NOW))
    assert leaf.subject.rfc4514_string() == f"CN={SOUTH.site_id}"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [n.value for n in names] == [f"{SOUTH.site_id}.van", f"{SOUTH.site_id}.{NORTH.site_id}.van"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_site_id_is_proved_never_claimed(issuer: Issuer) -> None:
    """Another site's identity key with somebody else's proof, or a proof made for another issuer, is malformed and takes no use."""
    _, token = issuer.grant("g", now=NOW)
    mine = ask_for(token, identity=SOUTH)
    csr = msgspec.json.decode(mine.request.reveal(), type=RedeemRequest).csr
    elsewhere = make_proof(SOUTH, Purpose.REDEMPTION, issuer=SOUTH.site_id, csr=csr)
    renewal = make_proof(SOUTH, Purpose.RENEWAL, issuer=NORTH.site_id, csr=csr)
    for change in (
        {"identity": IdentityKey.generate().public_der},
        {"proof": elsewhere},
        {"proof": renewal},
        {"csr": make_csr(PrivateKey.generate())},
        {"csr": b"x"},
        {"site_name": "../../etc"},
        {"version": 2},
    ):
        assert issuer.redeem_untrusted(edited(mine, **change), source="s", now=NOW) == Answer(400, b'{"error":"malformed"}'), change
    assert issuer.grants(NOW)[0].used == 0


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda x: st.lists(x) | st.dictionaries(st.text(max_size=8), x)).map(
        msgspec.json.encode
    )
)
def test_any_body_gets_an_answer(body: bytes) -> None:
    issuer = make_issuer(MemoryLedger())
    assert issuer.redeem_untrusted(body, source="s", now=NOW).status == 400
    assert issuer.renew_untrusted(body, certificates=[body], source="s", now=NOW).status == 400


def test_a_changed_byte_anywhere_in_a_request_gets_an_answer_and_no_certificate_of_another_name() -> None:
    issuer = make_issuer(MemoryLedger())
    _, token = issuer.grant("g", now=NOW, uses=1000)
    request = msgspec.json.decode(ask_for(token, identity=SOUTH).request.reveal(), type=RedeemRequest)
    for field in ("csr", "identity", "proof"):
        whole = getattr(request, field)
        for at in range(len(whole)):
            body = msgspec.json.encode(msgspec.structs.replace(request, **{field: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]}))
            assert issuer.redeem_untrusted(body, source="s", now=NOW).status == 400


def test_deeply_nested_json_and_unknown_fields_are_malformed(issuer: Issuer) -> None:
    _, token = issuer.grant("g", now=NOW)
    request = msgspec.json.decode(ask_for(token).request.reveal())
    for body in (
        b"[" * 8000,
        msgspec.json.encode(request | {"admin": True}),
        msgspec.json.encode({k: v for k, v in request.items() if k != "proof"}),
    ):
        assert issuer.redeem_untrusted(body, source="s", now=NOW).status == 400


def test_bad_used_expired_locked_revoked_and_unknown_get_the_very_same_answer(issuer: Issuer) -> None:
    """K-10, at the level of bytes that the desk sends."""
    _, good = issuer.grant("good", now=NOW, uses=9)
    _, used = issuer.grant("used", now=NOW)
    redeem(issuer, ask_for(used))
    _, short = issuer.grant("short", now=NOW, lifetime=1)
    deleted, gone = issuer.grant("gone", now=NOW)
    issuer.delete_grant(deleted.id)
    _, locked = issuer.grant("locked", now=NOW)
    for _ in range(10):
        redeem(issuer, with_secret(locked, b"x" * 32))
    refusing = make_issuer(issuer.ledger, revoked=lambda site: site == SOUTH.site_id)
    answers = [
        redeem(issuer, with_secret(good, b"x" * 32)),
        redeem(issuer, with_secret(good, b"")),
        redeem(issuer, ask_for(used)),
        redeem(issuer, ask_for(short), now=NOW + 5),
        redeem(issuer, ask_for(gone)),
        redeem(issuer, ask_for(locked)),
        redeem(refusing, ask_for(good, identity=SOUTH)),
    ]
    assert answers == [REFUSED] * len(answers)
    assert issuer.grants(NOW)[0].name
    assert {g.name: g.used for g in issuer.grants(NOW)}["good"] == 0


def test_ten_wrong_secrets_lock_a_token_for_a_minute_and_the_right_one_works_again_after_it(issuer: Issuer) -> None:
    _, token = issuer.grant("g", now=NOW, uses=2)
    for _ in range(9):
        redeem(issuer, with_secret(token, b"x" * 32))
    assert redeem(issuer, ask_for(token)).status == 200, "nine are no lock, and a right one starts the count anew"
    for _ in range(10):
        redeem(issuer, with_secret(token, b"x" * 32))
    assert redeem(issuer, ask_for(token), now=NOW + 59.9) == REFUSED
    assert redeem(issuer, ask_for(token), now=NOW + 60).status == 200


def test_a_source_runs_out_of_attempts_and_recovers_while_others_are_served() -> None:
    issuer = make_issuer(MemoryLedger(), failures_per_minute=20)
    _, token = issuer.grant("g", now=NOW, uses=9)
    wrong = [redeem(issuer, with_secret(token, b"x" * 32, SOUTH), now=NOW, source="192.0.2.1:1000") for _ in range(25)]
    assert [a.status for a in wrong] == [403] * 20 + [429] * 5
    later = NOW + 60
    assert redeem(issuer, ask_for(token), now=NOW, source="192.0.2.1:99").status == 429, "the port does not make another source"
    assert redeem(issuer, ask_for(token), now=later, source="192.0.2.2:1000").status == 200
    assert redeem(issuer, ask_for(token), now=later, source="192.0.2.1:1000").status == 200


def test_attempts_remember_a_bounded_number_of_sources() -> None:
    attempts = Attempts()
    for n in range(SOURCES + 100):
        attempts.source_failed(str(n), NOW)
    assert len(attempts._sources) == SOURCES


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:80", "192.0.2.1"),
        ("[2001:db8::5]:80", "2001:db8::/64"),
        ("2001:db8::5", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("nonsense", "nonsense"),
        ("", ""),
    ],
)
def test_a_source_is_an_address_or_a_v6_network(address: str, key: str) -> None:
    assert source_key(address) == key


def test_timing_does_not_tell_a_right_prefix_from_a_random_guess() -> None:
    """K-9 at CI size: Welch's t of two interleaved series of guesses; locked ids and wrong ids alike go through the same work."""
    issuer = make_issuer(MemoryLedger())
    _, token = issuer.grant("g", now=NOW)
    right = token.secret.reveal()
    guesses = {"prefix": with_secret(token, right[:31] + bytes([right[31] ^ 1]), SOUTH), "random": with_secret(token, b"x" * 32, SOUTH)}
    for _ in range(3):  # a busy machine may disturb one series
        times: dict[str, list[int]] = {"prefix": [], "random": []}
        for round_, kind in itertools.product(range(800), guesses):
            begin = time.perf_counter_ns()
            redeem(issuer, guesses[kind], now=NOW + 61.0 * round_)
            times[kind].append(time.perf_counter_ns() - begin)
        trimmed = {kind: sorted(values)[: len(values) * 9 // 10] for kind, values in times.items()}
        spread = sum(statistics.variance(v) / len(v) for v in trimmed.values()) ** 0.5
        t = abs(statistics.mean(trimmed["prefix"]) - statistics.mean(trimmed["random"])) / spread
        if t < 4.5:
            break
    assert t < 4.5, f"t = {t:.1f} three times"


# ---- Renewal --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def joined(issuer: Issuer) -> bytes:
    _, token = issuer.grant("g", now=NOW)
    return leaf_of(redeem(issuer, ask_for(token, identity=SOUTH))).public_bytes(serialization.Encoding.DER)


def renew(issuer: Issuer, certificates: list[bytes], now: float = NOW + 60 * DAY, identity: IdentityKey = SOUTH) -> Answer:
    body = prepare_renewal(NORTH.site_id, identity=identity, key=PrivateKey.generate())
    return issuer.renew_untrusted(body, certificates=certificates, source="127.0.0.1", now=now)


def test_a_site_renews_in_its_own_name_with_a_new_key(issuer: Issuer, joined: bytes) -> None:
    answer = renew(issuer, [joined])
    leaf = leaf_of(answer)
    assert answer.site == SOUTH.site_id
    assert leaf.subject.rfc4514_string() == f"CN={SOUTH.site_id}"
    assert leaf.not_valid_after_utc.timestamp() == NOW + 150 * DAY
    assert issuer.grants(NOW)[0].used == 1, "no use is taken"


def test_an_expired_leaf_renews_for_ninety_days(issuer: Issuer, joined: bytes) -> None:
    end = NOW + 90 * DAY
    assert [renew(issuer, [joined], now=end + t).status for t in (0, 90 * DAY - 1, 90 * DAY)] == [200, 200, 403]


def test_who_is_not_the_site_that_was_admitted_does_not_renew(issuer: Issuer, joined: bytes) -> None:
    stranger = IdentityKey.generate()
    foreign = CertificateAuthority.create("north", NORTH.site_id, now=NOW)
    key = PrivateKey.generate()
    impostor = foreign.issue_client(key.public_der, SOUTH.site_id, now=NOW).public_bytes(serialization.Encoding.DER)
    server = AUTHORITY.issue_server(key.public_der, SOUTH.site_id, [], now=NOW).public_bytes(serialization.Encoding.DER)
    for certificates, identity in (
        ([], SOUTH),
        ([joined], stranger),
        ([impostor], SOUTH),
        ([impostor, joined], SOUTH),  # a victim's certificate as filler
        ([server], SOUTH),
        ([AUTHORITY.der], SOUTH),
        ([b"x"], SOUTH),
    ):
        assert renew(issuer, certificates, identity=identity) == REFUSED
    assert renew(make_issuer(issuer.ledger, revoked=lambda site: site == SOUTH.site_id), [joined]) == REFUSED


def test_after_a_ca_rotation_the_old_leaves_renew_under_the_new_ca(issuer: Issuer, joined: bytes) -> None:
    new = CertificateAuthority.create("north", NORTH.site_id, now=NOW)
    rotated = make_issuer(issuer.ledger, authority=new, former=[AUTHORITY], trust=[new.certificate, AUTHORITY.certificate])
    answer = renew(rotated, [joined])
    assert new.issued(leaf_of(answer))
    assert msgspec.json.decode(answer.body, type=Reply).ca == [new.der, AUTHORITY.der]
    assert renew(make_issuer(issuer.ledger, authority=new), [joined]) == REFUSED


def test_a_redemption_is_no_renewal(issuer: Issuer, joined: bytes) -> None:
    csr = make_csr(PrivateKey.generate())
    proof = make_proof(SOUTH, Purpose.REDEMPTION, issuer=NORTH.site_id, csr=csr)
    body = msgspec.json.encode(RenewRequest(version=1, csr=csr, identity=SOUTH.public_der, proof=proof))
    assert issuer.renew_untrusted(body, certificates=[joined], source="s", now=NOW).status == 400


# ---- Secrecy --------------------------------------------------------------------------------------------------------------------------


def test_nothing_secret_is_logged_or_printed(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    """H-2: canaries of one redemption, in every spelling, nowhere in logs, reprs and errors."""
    caplog.set_level(logging.DEBUG)
    grant, token = issuer.grant("g", now=NOW)
    pending = ask_for(token, identity=SOUTH)
    answers = [redeem(issuer, pending), redeem(issuer, ask_for(token)), redeem(issuer, with_secret(token, b"x" * 32))]
    link = accept_reply_untrusted(
        answers[0].body, key=pending.key, site=SOUTH.site_id, issuer=NORTH.site_id, endpoints=(), cost=1, token_id=token.id, now=NOW
    )
    decoded = msgspec.json.decode(pending.request.reveal(), type=RedeemRequest)
    shown = "\n".join([caplog.text, *(str(record.__dict__) for record in caplog.records)])
    shown += "".join(
        f"{thing!r} {thing}" for thing in (grant, token, pending, pending.dump(), issuer, answers, link, link.files(), decoded)
    )
    secret = token.secret.reveal()
    spellings = [secret.hex(), base64.b64encode(secret).decode(), base64.urlsafe_b64encode(secret).decode().rstrip("="), repr(secret)[2:-1]]
    spellings += [pending.key.pem().reveal().decode().splitlines()[1], repr(pending.key.der().reveal())[2:-1], "PRIVATE KEY"]
    spellings += [base64.b64encode(decoded.csr).decode()]
    assert [s for s in spellings if s in shown] == []
    assert "token redeemed" in caplog.text
