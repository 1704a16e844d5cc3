"""Files: the old content or the new, whatever happens in between; secrets that nobody else may read."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vanrouter.errors import ConfigError, StoreError
from vanrouter.resources import read_document
from vanrouter.stores import ResourceFiles, SiteHome, StateFiles
from vanrouter.stores import files as primitives
from vanrouter.stores.files import clean_leftovers, read_private, write_atomic


def listener(name: str = "web", port: int = 8080) -> Any:
    spec = {"routingKey": "web", "host": "127.0.0.1", "port": port}
    return read_document({"apiVersion": "vanrouter.io/v1alpha1", "kind": "Listener", "metadata": {"name": name}, "spec": spec})


def test_written_whole_with_0600(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "open"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failure_at_any_step_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"old")

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(primitives.os, call, fail)
    with pytest.raises(StoreError) as caught:
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert str(path) in str(caught.value)
    assert errno.errorcode[code] in str(caught.value)
    assert caught.value.hint
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="ENOENT") as caught:
        write_atomic(tmp_path / "gone" / "a", b"x")
    assert "has the site been deleted" in caught.value.hint


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_secret_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    write_atomic(path, b"secret")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}") as caught:
        read_private(path)
    assert f"chmod 600 {path}" in caught.value.hint


def test_secrets_are_not_read_through_links_or_from_pipes(tmp_path: Path) -> None:
    write_atomic(tmp_path / "real", b"x")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(ConfigError, match="symbolic link"):
        read_private(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="neither a file"):
        read_private(tmp_path / "pipe")
    assert read_private(tmp_path / "nothing") is None


def test_somebody_elses_file_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    path = tmp_path / "a"
    write_atomic(path, b"x")
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        read_private(path)


def test_leftovers_are_cleaned_and_young_ones_of_others_are_not(tmp_path: Path) -> None:
    (tmp_path / ".a.tmp-1-aa").write_text("x")
    (tmp_path / ".b.tmp-1-aa").mkdir()
    (tmp_path / "c").write_text("x")
    assert clean_leftovers(tmp_path, older_than=60) == 0
    assert clean_leftovers(tmp_path) == 2
    assert os.listdir(tmp_path) == ["c"]


WRITER = """
import sys
from pathlib import Path
from vanrouter.stores import StateFiles
state = StateFiles(Path(sys.argv[1]))
print("go", flush=True)
number = 0
while True:
    number += 1
    text = str(number).encode() * 500
    state.write("ca.key", text)
    state.write_credential("west", {"tls.crt": text, "tls.key": text})
"""


def test_killed_while_writing_it_is_the_old_or_the_new_and_fits_together(tmp_path: Path) -> None:
    """kill -9 at random points between the writing of a temporary file, fsync and rename."""
    state = StateFiles(tmp_path)
    tmp_path.chmod(0o700)
    chance = random.Random(11)
    last = 0
    for _ in range(25):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        try:
            writer.wait(chance.uniform(0.001, 0.03))
        except subprocess.TimeoutExpired:
            writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        state.recover()
        key = state.read("ca.key")
        if key is not None:
            assert len(key) % 500 == 0
            assert key == key[: len(key) // 500] * 500
        files = state.read_credential("west")
        if files is not None:
            last += 1
            assert sorted(files) == ["tls.crt", "tls.key"]
            assert files["tls.crt"] == files["tls.key"], "a key and a certificate of two renewals"
        assert [n for n in os.listdir(tmp_path) if n.startswith(".")] == []
        if state.credentials.is_dir():
            assert set(os.listdir(state.credentials)) <= {"west"}
    assert last > 10


@pytest.mark.parametrize("cut", ["complete", "old away", "new in place"])
def test_a_replacement_that_was_cut_short_is_finished(tmp_path: Path, cut: str) -> None:
    tmp_path.chmod(0o700)
    state = StateFiles(tmp_path)
    state.write_credential("west", {"tls.key": b"old"})
    current, new, old = (state.credentials / n for n in ("west", ".west.new", ".west.old"))
    new.mkdir(mode=0o700)
    write_atomic(new / "tls.key", b"new")
    if cut != "complete":
        current.rename(old)
    if cut == "new in place":
        new.rename(current)
    state.recover()
    assert state.read_credential("west") == {"tls.key": b"new"}
    assert os.listdir(state.credentials) == ["west"]


# ---- Resources --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> ResourceFiles:
    (tmp_path / "resources").mkdir()
    return ResourceFiles(tmp_path / "resources", last_good=tmp_path / "last-good")


def test_put_get_delete(store: ResourceFiles) -> None:
    path = store.put(listener())
    assert path.name == "Listener-web.yaml"
    assert store.get("Listener", "web") == listener()
    store.put(listener(port=9))
    assert store.of_kind("Listener") == [listener(port=9)]
    assert store.delete("Listener", "web")
    assert not store.delete("Listener", "web")
    assert store.load().resources == {}


def test_changes_are_noticed(store: ResourceFiles) -> None:
    store.load()
    assert not store.changed()
    path = store.put(listener())
    store.load()
    path.write_text(path.read_text().replace("8080", "8081"))
    assert store.changed()
    assert store.load().resources["Listener", "web"].resource == listener(port=8081)
    assert not store.changed()
    path.unlink()
    assert store.changed()


def test_a_broken_file_keeps_its_last_good_form_here_and_in_the_next_process(store: ResourceFiles, tmp_path: Path) -> None:
    path = store.put(listener())
    store.put(listener("other", 9))
    store.load()
    path.write_text("kind: Listener\n  broken")
    loaded = store.load()
    assert loaded.resources["Listener", "web"].resource == listener()
    assert [p.path for p in loaded.problems] == ["Listener-web.yaml"]
    assert "last good form stays in force" in loaded.problems[0].message
    again = ResourceFiles(store.directory, last_good=tmp_path / "last-good").load()
    assert again.resources.keys() == loaded.resources.keys()
    path.write_text("")
    assert ("Listener", "web") not in store.load().resources


def test_a_file_that_was_never_good_is_a_problem_only(store: ResourceFiles) -> None:
    (store.directory / "x.yaml").write_text("[")
    loaded = store.load()
    assert loaded.resources == {}
    assert "last good" not in loaded.problems[0].message


def test_a_file_of_several_is_left_to_its_author(store: ResourceFiles) -> None:
    from vanrouter.resources import to_yaml

    (store.directory / "all.yaml").write_text(to_yaml([listener("a", 1), listener("b", 2)]))
    for change in (lambda: store.put(listener("a", 3)), lambda: store.delete("Listener", "b")):
        with pytest.raises(ConfigError, match=r"all\.yaml together with others") as caught:
            change()
        assert "edit" in caught.value.hint
    assert len(store.load().resources) == 2


def test_one_name_in_two_files_names_both_and_the_first_counts(store: ResourceFiles) -> None:
    store.put(listener())
    (store.directory / "z.yaml").write_text((store.directory / "Listener-web.yaml").read_text().replace("8080", "9"))
    loaded = store.load()
    assert loaded.resources["Listener", "web"].resource == listener()
    assert "in Listener-web.yaml and in z.yaml" in loaded.problems[0].message


def test_one_router_per_directory(tmp_path: Path) -> None:
    first, second = SiteHome(tmp_path / "a"), SiteHome(tmp_path / "a")
    first.create()
    first.create()
    assert first.lock()
    assert not second.lock()
    first.unlock()
    assert second.lock()


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    home = SiteHome(tmp_path / "a")
    home.create()
    home.state.directory.chmod(0o755)
    with pytest.raises(ConfigError, match="is open to other users") as caught:
        home.create()
    assert "chmod 700" in caught.value.hint
