"""The ledger: what a redemption may do to a record, and the SQLite form under threads, processes, and a full disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from token_parts import NORTH, NOW, SOUTH, ask_for, make_issuer

from vanrouter.errors import StoreError
from vanrouter.model import SiteId
from vanrouter.tokens import AccessGrant, Redemption, sqlite_ledger
from vanrouter.tokens.ledger import Redeemer, Refusal, decode_grant, encode_grant, settle, status_of, take
from vanrouter.tokens.sqlite_ledger import SqliteLedger

GRANT = AccessGrant(id="a" * 26, name="g", secret_hash=b"h" * 32, uses=2, created=NOW, expires=NOW + 900)


def who(key: int, site: SiteId = SOUTH.site_id) -> Redeemer:
    return Redeemer(key_hash=bytes([key]) * 32, site=site, site_name="south")


def taken(grant: AccessGrant, redeemer: Redeemer, now: float = NOW) -> tuple[AccessGrant, Redemption]:
    result = take(grant, redeemer, now)
    assert not isinstance(result, Refusal), result
    return result


# ---- Copies of a ledger -----------------------------------------------------------------------------------------------------------------


def test_a_copy_of_the_file_is_another_place_and_the_file_itself_stays_one(tmp_path: Path) -> None:
    with SqliteLedger(tmp_path / "ledger.sqlite") as ledger:
        place = ledger.place
    shutil.copy2(tmp_path / "ledger.sqlite", tmp_path / "copy.sqlite")
    (tmp_path / "ledger.sqlite").rename(tmp_path / "renamed.sqlite")
    for name, same in (("renamed.sqlite", True), ("copy.sqlite", False)):
        with SqliteLedger(tmp_path / name) as ledger:
            assert (ledger.place == place) is same, name
            assert ledger.place


def test_the_same_file_number_on_another_machine_is_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = set()
    for machine in ("one", "two"):
        (tmp_path / machine).write_text(machine)
        monkeypatch.setattr(sqlite_ledger, "MACHINE_ID", tmp_path / machine)
        with SqliteLedger(tmp_path / "ledger.sqlite") as ledger:
            places.add(ledger.place)
    assert len(places) == 2


def test_a_ledger_with_two_names_is_refused_and_says_how_to_copy(tmp_path: Path) -> None:
    SqliteLedger(tmp_path / "ledger.sqlite").close()
    os.link(tmp_path / "ledger.sqlite", tmp_path / "second.sqlite")
    with pytest.raises(StoreError, match="2 names") as refused:
        SqliteLedger(tmp_path / "second.sqlite")
    assert "without links" in refused.value.hint


def test_only_the_place_where_a_grant_was_made_redeems_it(tmp_path: Path) -> None:
    with SqliteLedger(tmp_path / "ledger.sqlite") as ledger:
        here, elsewhere = make_issuer(ledger, place="here"), make_issuer(ledger, place="elsewhere")
        _, token = here.grant("t", now=NOW)
        request = ask_for(token).request.reveal()
        assert elsewhere.redeem_untrusted(request, source="127.0.0.1:1", now=NOW).status == 403
        assert [g.state for g in elsewhere.grants(NOW)] == ["elsewhere"]
        assert here.redeem_untrusted(request, source="127.0.0.1:1", now=NOW).status == 200
        assert [g.state for g in here.grants(NOW)] == ["used"]


# ---- What a redemption does to the record ---------------------------------------------------------------------------------------------


def test_a_grant_gives_its_uses_and_no_more() -> None:
    one, _ = taken(GRANT, who(1))
    two, _ = taken(one, who(2))
    assert take(two, who(3), NOW) is Refusal.USED
    assert [status_of(g, NOW).state for g in (GRANT, one, two)] == ["active", "active", "used"]


def test_the_same_key_is_served_for_ten_minutes_also_from_a_grant_that_is_used_up_or_expired() -> None:
    grant, first = taken(msgspec.structs.replace(GRANT, uses=1, expires=NOW + 1), who(1))
    for now in (NOW, NOW + 599.9):
        assert taken(grant, who(1), now) == (grant, first), "and the record stays as it is"
    assert take(grant, who(1), NOW + 600) is Refusal.TOO_LATE
    assert take(grant, who(2), NOW) is Refusal.USED
    assert take(grant, who(1, NORTH.site_id), NOW) is Refusal.OTHER_SITE


def test_a_grant_ends_on_the_second() -> None:
    assert not isinstance(take(GRANT, who(1), NOW + 899), Refusal)
    assert take(GRANT, who(1), NOW + 900) is Refusal.EXPIRED
    assert take(GRANT, who(1), NOW + 901) is Refusal.EXPIRED


def test_the_first_certificate_that_is_recorded_counts() -> None:
    grant, _ = taken(GRANT, who(1))
    settled, counts = settle(grant, bytes([1]) * 32, b"first")
    assert counts == b"first"
    assert settle(settled, bytes([1]) * 32, b"second") == (settled, b"first")
    assert settle(settled, bytes([9]) * 32, b"x") == (settled, b"")


def test_certificates_are_dropped_from_the_record_when_nobody_may_ask_for_them_again() -> None:
    grant, _ = taken(GRANT, who(1))
    settled, _ = settle(grant, bytes([1]) * 32, b"first")
    later, _ = taken(settled, who(2), NOW + 601)
    assert [r.certificate for r in later.redemptions] == [b"", b""]


def test_a_record_survives_the_disk_and_a_damaged_one_is_an_error() -> None:
    grant, _ = taken(GRANT, who(1))
    assert decode_grant(encode_grant(grant)) == grant
    with pytest.raises(StoreError, match="does not decode"):
        decode_grant(b"{}")


# ---- Every ledger ---------------------------------------------------------------------------------------------------------------------


def test_a_swap_needs_the_version_that_was_read(ledger: Any) -> None:
    assert ledger.load(GRANT.id) is None
    assert ledger.swap(GRANT.id, None, GRANT)
    assert not ledger.swap(GRANT.id, None, GRANT), "there is one already"
    held = ledger.load(GRANT.id)
    changed, _ = taken(held.grant, who(1))
    assert ledger.swap(GRANT.id, held.version, changed)
    assert not ledger.swap(GRANT.id, held.version, GRANT), "somebody was faster"
    assert ledger.load(GRANT.id).grant == changed
    assert ledger.grants() == [changed]
    assert not ledger.swap(GRANT.id, held.version, None)
    assert ledger.swap(GRANT.id, ledger.load(GRANT.id).version, None)
    assert ledger.grants() == []


def test_a_grant_made_again_is_not_the_one_that_was_read(ledger: Any) -> None:
    """Delete and create between a read and its swap: the swap must fail (no ABA)."""
    ledger.swap(GRANT.id, None, GRANT)
    old = ledger.load(GRANT.id)
    ledger.swap(GRANT.id, old.version, None)
    ledger.swap(GRANT.id, None, GRANT)
    assert not ledger.swap(GRANT.id, old.version, GRANT)


def test_only_one_of_many_threads_wins_a_version(ledger: Any) -> None:
    ledger.swap(GRANT.id, None, GRANT)
    version = ledger.load(GRANT.id).version
    barrier, wins = threading.Barrier(16), []

    def race() -> None:
        barrier.wait()
        wins.append(ledger.swap(GRANT.id, version, GRANT))

    threads = [threading.Thread(target=race) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == [False] * 15 + [True]


# ---- SQLite ---------------------------------------------------------------------------------------------------------------------------


def test_what_was_swapped_is_there_after_reopening(tmp_path: Path) -> None:
    with SqliteLedger(tmp_path / "l.sqlite") as ledger:
        ledger.swap(GRANT.id, None, GRANT)
    with SqliteLedger(tmp_path / "l.sqlite") as ledger:
        assert ledger.grants() == [GRANT]
        settings = [ledger._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        assert settings == ["wal", 2], "2 is FULL: a swap that returned is on the disk"


def test_all_its_files_are_0600_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with SqliteLedger(tmp_path / "l.sqlite") as ledger:
            ledger.swap(GRANT.id, None, GRANT)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(old)
    assert modes == {"l.sqlite": 0o600, "l.sqlite-wal": 0o600, "l.sqlite-shm": 0o600}


def test_a_ledger_that_others_can_read_is_refused(tmp_path: Path) -> None:
    SqliteLedger(tmp_path / "l.sqlite").close()
    (tmp_path / "l.sqlite").chmod(0o640)
    with pytest.raises(StoreError, match="mode 0640") as caught:
        SqliteLedger(tmp_path / "l.sqlite")
    assert "chmod 600" in caught.value.hint


def test_a_ledger_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    SqliteLedger(tmp_path / "l.sqlite").close()
    with sqlite3.connect(tmp_path / "l.sqlite") as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(StoreError, match="newer version"):
        SqliteLedger(tmp_path / "l.sqlite")


@pytest.mark.parametrize("content", [b"this is no database, and long enough to be looked at by SQLite as such" * 20])
def test_a_damaged_file_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "l.sqlite"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StoreError, match=r"l\.sqlite .*not a database") as caught:
        SqliteLedger(path)
    assert "backup" in caught.value.hint


def test_a_file_that_a_crash_left_empty_just_works(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").touch(0o600)
    with SqliteLedger(tmp_path / "l.sqlite") as ledger:
        assert ledger.swap(GRANT.id, None, GRANT)


def test_a_missing_directory_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened") as caught:
        SqliteLedger(tmp_path / "gone" / "l.sqlite")
    assert "directory exists" in caught.value.hint


def test_a_lock_that_is_held_too_long_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    with SqliteLedger(tmp_path / "l.sqlite", busy_seconds=0.05) as ledger:
        ledger.swap(GRANT.id, None, GRANT)
        held = ledger.load(GRANT.id)
        assert held is not None
        other = sqlite3.connect(tmp_path / "l.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            ledger.swap(GRANT.id, held.version, None)
        other.execute("ROLLBACK")
        other.close()
        assert ledger.grants() == [GRANT]
        assert ledger.swap(GRANT.id, held.version, None)


OPENER = """
import sys, os
from vanrouter.tokens.sqlite_ledger import SqliteLedger
os.read(0, 1)
with SqliteLedger(sys.argv[1]) as ledger:
    ledger.grants()
"""


def test_processes_that_open_a_new_ledger_at_the_same_moment_all_succeed(tmp_path: Path) -> None:
    read, write = os.pipe()
    processes = [
        subprocess.Popen([sys.executable, "-c", OPENER, str(tmp_path / "l.sqlite")], stdin=read, stderr=subprocess.PIPE) for _ in range(6)
    ]
    os.write(write, b"x" * 6)
    failed = [process.communicate(timeout=60)[1].decode() for process in processes]
    os.close(read)
    os.close(write)
    assert failed == [""] * 6


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root to mount a small tmpfs")
    where = tmp_path / "small"
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(where)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 1024)


def test_on_a_full_disk_nothing_is_issued_and_afterwards_all_goes_on(small_disk: Path) -> None:
    """K-11: 503 and no certificate; the old state is intact, and the same request succeeds when there is room."""
    with SqliteLedger(small_disk / "l.sqlite") as ledger:
        issuer = make_issuer(ledger)
        _, token = issuer.grant("g", now=NOW, uses=50)
        before = ledger.grants()
        fill(small_disk / "filler")
        asked, answers = [], []
        for _ in range(60):  # what is left of the write-ahead log's last page may still take some
            asked.append(ask_for(token))
            answers.append(issuer.redeem_untrusted(asked[-1].request.reveal(), source="127.0.0.1", now=NOW))
            if answers[-1].status != 200:
                break
        assert (answers[-1].status, answers[-1].body) == (503, b'{"error":"try later"}')
        (used,) = issuer.grants(NOW)
        assert used.used <= len(asked)
        assert (before[0].id, before[0].secret_hash) == (used.id, token_hash(ledger))
        (small_disk / "filler").unlink()
        assert issuer.redeem_untrusted(asked[-1].request.reveal(), source="127.0.0.1", now=NOW + 1).status == 200
        assert issuer.grants(NOW)[0].used == len(asked), "every site has one use, also the one that had to ask twice"


def token_hash(ledger: SqliteLedger) -> bytes:
    return ledger.grants()[0].secret_hash


FILE_LIMIT = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.path.insert(0, sys.argv[2])
from token_parts import NOW, ask_for, make_issuer
from vanrouter.tokens.sqlite_ledger import SqliteLedger
ledger = SqliteLedger(sys.argv[1])
issuer = make_issuer(ledger)
grant, token = issuer.grant("g", now=NOW, uses=50)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
pending = ask_for(token)
assert issuer.redeem_untrusted(pending.request.reveal(), source="s", now=NOW).status == 503
assert issuer.grants(NOW)[0].used == 0
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert issuer.redeem_untrusted(pending.request.reveal(), source="s", now=NOW).status == 200
"""


def test_a_write_that_the_system_refuses_issues_nothing_either(tmp_path: Path) -> None:
    """The same without root: a limit on the size of files."""
    command = [sys.executable, "-c", FILE_LIMIT, str(tmp_path / "l.sqlite"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
