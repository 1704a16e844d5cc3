"""Uses are counted right under storms, with several issuers and with issuers that are killed: real processes, real TLS (K-1 to K-4)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from token_parts import NORTH, ask_for, make_issuer

from vanrouter.errors import TokenError
from vanrouter.kube.blocking import BlockingClient
from vanrouter.kube.ledger import SecretLedger
from vanrouter.pki import CertificateAuthority
from vanrouter.tokens import AccessToken, Endpoint, Ledger, Pending
from vanrouter.tokens.redeem import redeem
from vanrouter.tokens.sqlite_ledger import SqliteLedger

HERE = Path(__file__).parent


class Processes:
    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, config: Path) -> tuple[subprocess.Popen[bytes], Endpoint]:
        process = subprocess.Popen([sys.executable, str(HERE.parent / "join_listener.py"), str(config)], stdout=subprocess.PIPE)
        self._running.append(process)
        assert process.stdout is not None
        port = process.stdout.readline()
        assert port, "the issuer did not start"
        return process, Endpoint("127.0.0.1", int(port))

    def stop(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    made.stop()


def token_on(ledger: Path | Ledger, authority_pem: Path, uses: int, *endpoints: Endpoint) -> AccessToken:
    """As the site does it: the grant is written by another process than those that redeem it."""
    with contextlib.ExitStack() as opened:
        store = opened.enter_context(SqliteLedger(ledger)) if isinstance(ledger, Path) else ledger
        authority = CertificateAuthority.load(authority_pem.read_bytes(), authority_pem.with_suffix(".key").read_bytes())
        return make_issuer(store, authority=authority).grant("storm", now=time.time(), uses=uses, endpoints=endpoints)[1]


async def all_at_once(pendings: list[Pending], heard: Callable[[Counter[str]], None] = lambda _: None) -> Counter[str]:
    """Ask with every one at the same moment, and count what came of it; ``heard`` gets the count after each."""
    outcomes: Counter[str] = Counter()

    async def one(pending: Pending) -> None:
        try:
            link = await redeem(pending)
        except TokenError as err:
            outcomes[err.reason] += 1
        else:
            outcomes["certificate"] += 1
            assert link.key == pending.key
        heard(outcomes)

    async with trio.open_nursery() as nursery:
        for pending in pendings:
            nursery.start_soon(one, pending)
    return outcomes


@pytest.mark.parametrize(("issuers", "uses", "askers"), [(1, 1, 100), (2, 1, 100), (2, 5, 60)])
async def test_n_uses_give_n_certificates_however_many_ask_at_once(
    tmp_path: Path, site_files: Callable[..., Path], processes: Processes, issuers: int, uses: int, askers: int
) -> None:
    config = site_files()
    endpoints = [processes.start(config)[1] for _ in range(issuers)]
    token = token_on(tmp_path / "ledger.sqlite", tmp_path / "ca.crt", uses, *endpoints)
    turned = dataclasses.replace(token, endpoints=token.endpoints[::-1])
    pendings = [ask_for(token if n % 2 else turned) for n in range(askers)]
    with trio.fail_after(90):
        outcomes = await all_at_once(pendings)
    assert outcomes == {"certificate": uses, "refused": askers - uses}
    with SqliteLedger(tmp_path / "ledger.sqlite") as store:
        (grant,) = store.grants()
    assert len(grant.redemptions) == uses
    assert len({r.key_hash for r in grant.redemptions}) == uses


@pytest.mark.parametrize("issuers", [1, 2])
async def test_a_hundred_who_ask_at_once_get_one_certificate_from_a_grant_in_a_secret_too(
    tmp_path: Path, site_files: Callable[..., Path], processes: Processes, cluster: Any, namespace: str, issuers: int
) -> None:
    """Two controllers, as while one is replaced: the API server's versions alone decide."""
    config = site_files(kubeconfig=str(cluster.path), namespace=namespace)
    endpoints = [processes.start(config)[1] for _ in range(issuers)]
    with BlockingClient(cluster) as client:
        ledger = SecretLedger(client, namespace)
        token = token_on(ledger, tmp_path / "ca.crt", 1, *endpoints)
        turned = dataclasses.replace(token, endpoints=token.endpoints[::-1])
        pendings = [ask_for(token if n % 2 else turned) for n in range(100)]
        with trio.fail_after(90):
            outcomes = await all_at_once(pendings)
        assert outcomes == {"certificate": 1, "refused": 99}
        (grant,) = ledger.grants()
    assert len(grant.redemptions) == 1


@pytest.mark.parametrize("die", ["before 1", "after 1", "before 2", "after 2"])
async def test_an_issuer_killed_between_any_two_steps_loses_nobodys_token(
    tmp_path: Path, site_files: Callable[..., Path], processes: Processes, die: str
) -> None:
    """kill -9 around taking the use (1) and recording the certificate (2); the next issuer serves the same pending redemption."""
    dying, endpoint = processes.start(site_files("dying", die=die))
    token = token_on(tmp_path / "ledger.sqlite", tmp_path / "ca.crt", 1, endpoint)
    pending = ask_for(token)
    assert await all_at_once([pending]) == {"later": 1}
    assert dying.wait(10) == -signal.SIGKILL
    _, endpoint = processes.start(site_files("next"))
    again = dataclasses.replace(token, endpoints=(endpoint,))
    moved = dataclasses.replace(pending, token=again)
    first, second = await redeem(moved), await redeem(moved)
    assert first.leaf == second.leaf
    assert await all_at_once([ask_for(again)]) == {"refused": 1}


async def test_an_issuer_killed_at_random_moments_of_a_storm_never_gives_more_than_its_uses(
    tmp_path: Path, site_files: Callable[..., Path], processes: Processes
) -> None:
    """K-4 at CI size: each round kills an issuer in the middle of 20 redemptions of a two-use token, restarts it, and lets all retry.

    A moment is one of the clock, or when so many answers have come: on a slow machine, too, some storms are cut in two.
    """
    rng = random.Random(int(os.environ.get("VAN_TEST_SEED", "20261")))
    for round_ in range(6):
        config = site_files(f"round{round_}", ledger=str(tmp_path / f"ledger{round_}.sqlite"))
        doomed, endpoint = processes.start(config)
        token = token_on(tmp_path / f"ledger{round_}.sqlite", tmp_path / "ca.crt", 2, endpoint)
        pendings = [ask_for(token) for _ in range(20)]
        last = 1 + 2 * round_ + rng.randrange(2)

        def kill(so_far: Counter[str], doomed: subprocess.Popen[bytes] = doomed, last: int = last) -> None:
            if so_far.total() == last:
                doomed.kill()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                if round_ % 2:
                    nursery.start_soon(_kill_after, rng.random() * 0.2, doomed)
                outcomes = await all_at_once(pendings, kill)
        assert outcomes["certificate"] <= 2
        assert doomed.wait(10) == -signal.SIGKILL
        _, endpoint = processes.start(config)
        moved = dataclasses.replace(token, endpoints=(endpoint,))
        retries = [dataclasses.replace(pending, token=moved) for pending in pendings]
        after = await all_at_once(retries)
        assert after == {"certificate": 2, "refused": 18}, (round_, outcomes)


async def _kill_after(seconds: float, doomed: subprocess.Popen[bytes]) -> None:
    await trio.sleep(seconds)
    doomed.kill()


async def test_a_hundred_silent_connections_do_not_keep_others_out(
    tmp_path: Path, site_files: Callable[..., Path], processes: Processes
) -> None:
    _, endpoint = processes.start(site_files())
    token = token_on(tmp_path / "ledger.sqlite", tmp_path / "ca.crt", 1, endpoint)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["van-join/1"])
    silent = []
    for _ in range(100):
        stream = trio.SSLStream(await trio.open_tcp_stream(endpoint.host, endpoint.port), context, server_hostname=f"{NORTH.site_id}.van")
        silent.append(stream)
    with trio.fail_after(10):
        await redeem(ask_for(token))
    for stream in silent:
        await trio.aclose_forcefully(stream)
