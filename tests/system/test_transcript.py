"""
The main job, as a user types it: two sites, one token, one exposed service, on one machine; and what happens when something is in the way.

                  link, dialled by south
     site north  ◀───────────────────────  site south
     127.0.0.1:9090 ◀ client                127.0.0.1:8080 ◀ connector hello
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_port
from hosts import Host, can_unshare, fetch, planes

# To the letter what the documentation says, and nothing else.
TRANSCRIPT = """\
python3 -m http.server 8080 --bind 127.0.0.1 &        # any backend; each van command below returns when its effect is there
van -p linux -n north init --site-name north --link-access 127.0.0.1:7001
van -p linux -n south init --site-name south --link-access none --service-address 127.0.0.2
van -p linux -n north token create north.yaml
van -p linux -n south link create north.yaml          # waits until active; link status then says active in both, -o json too
van -p linux -n south expose host 127.0.0.1:8080 --port 9090 --address hello   # waits until the linked sites that are up have it
curl http://127.0.0.1:9090/                           # in north, without another command there (service sync)
curl http://hello.localhost:9090/                     # by name; `van hosts` prints lines for /etc/hosts where a program needs plain names
van -p linux -n south unexpose hello; van -p linux -n south link delete --all; van -p linux -n north delete; van -p linux -n south delete
"""


@pytest.fixture(params=["baseline", "core"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    if request.param not in planes():
        pytest.skip(f"this installation has no data plane {request.param}")
    with Host(tmp_path, request.param) as host:
        yield host


def test_the_transcript_works_as_it_stands(host: Host) -> None:
    script, inside = TRANSCRIPT, ["bash", "-euo", "pipefail", "run.sh"]
    if can_unshare():
        inside = ["unshare", "--net", *inside]
        script = "ip link set lo up\n" + script
    else:
        for port in ("8080", "7001", "9090"):
            script = re.sub(rf"\b{port}\b", str(free_port()), script)
    (host.directory / "run.sh").write_text(script + "kill $!; wait $! || true\n")  # the backend, by its own id
    (host.directory / "index.html").write_text("it is me\n")
    started = time.monotonic()
    result = host.run(*inside, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr + host.logs()
    assert result.stdout.count("it is me\n") == 2
    assert host.processes() == []
    assert list(host.home.iterdir()) == []
    assert time.monotonic() - started < 60


# ---- A pair that stands, and what can come its way --------------------------------------------------------------------------------------


class Pair:
    """north and south, linked; south exposes a server as hello."""

    def __init__(self, host: Host, backend: int) -> None:
        self.host = host
        self.van = host.van
        self.link_port, self.port, self.backend = free_port(), free_port(), backend

    def set_up(self, *, south_address: str = "127.0.0.2", expose: bool = True) -> None:
        self.van(f"-n north init --site-name north --link-access 127.0.0.1:{self.link_port}")
        self.van(f"-n south init --site-name south --link-access none --service-address {south_address}")
        self.van("-n north token create north.yaml")
        self.van("-n south link create north.yaml")
        if expose:
            self.expose()

    def expose(self) -> subprocess.CompletedProcess[str]:
        return self.van(f"-n south expose host 127.0.0.1:{self.backend} --port {self.port} --address hello")


@pytest.fixture
def pair(host: Host) -> Iterator[Pair]:
    backend = subprocess.Popen([sys.executable, "-P", "-m", "vanrouter.cli.backend"], stdout=subprocess.PIPE, text=True)
    assert backend.stdout is not None
    try:
        yield Pair(host, int(backend.stdout.readline()))
    finally:
        backend.kill()
        backend.communicate()


def test_both_ends_agree_on_the_link_and_the_service(pair: Pair) -> None:
    pair.set_up()
    (north,) = json.loads(pair.van("-n north link status -o json").stdout)
    (south,) = json.loads(pair.van("-n south link status -o json").stdout)
    assert (north["active"], south["active"]) == (True, True)
    assert (north["direction"], south["direction"]) == ("incoming", "outgoing")
    assert (north["remoteSiteName"], south["remoteSiteName"]) == ("south", "north")
    assert "active" in pair.van("-n north link status").stdout
    assert (
        pair.van("-n north status").stdout == "Site north is ready. It is linked to 1 other site. It reaches 1 service of another site.\n"
    )
    assert pair.van("-n south status").stdout == "Site south is ready. It is linked to 1 other site. It has 1 exposed service.\n"
    assert f"127.0.0.1:{pair.port}" in pair.van("-n north service status").stdout
    assert pair.van("-n north hosts").stdout == "127.0.0.1\thello\n"
    for site in ("north", "south"):
        tree = pair.van(f"-n {site} network status").stdout
        assert "north" in tree
        assert "serves hello" in tree.partition("south")[2]
        assert pair.van(f"-n {site} network status --dot").stdout.startswith("graph network {\n")
        assert len(json.loads(pair.van(f"-n {site} network status -o json").stdout)["sites"]) == 2
    assert fetch("127.0.0.1", pair.port) == b'{"message":"Hello"}\n'
    assert fetch("127.0.0.2", pair.port) == b'{"message":"Hello"}\n'


def test_a_token_is_good_for_what_it_says_and_no_more(pair: Pair) -> None:
    pair.set_up(expose=False)
    refused = pair.van("-n south link create north.yaml", code=1).stderr
    assert "redeemed by this site already" in refused
    assert "Next:" in refused
    pair.van("-n west init --site-name west --link-access none --service-address 127.0.0.3")
    assert "Next:" in pair.van("-n west link create north.yaml --timeout 20s", code=1).stderr
    assert json.loads(pair.van("-n west link status -o json").stdout) == []
    pair.van("-n north token create short.yaml --expiry 1s")
    time.sleep(1.5)
    assert "expired" in pair.van("-n west link create short.yaml --timeout 20s", code=1).stderr
    assert pair.van("-n north link create short.yaml --timeout 20s", code=1).stderr.startswith("Error: ")


def test_two_sites_that_want_one_port_are_told_so_and_the_rest_works(pair: Pair) -> None:
    pair.set_up(south_address="127.0.0.1", expose=False)
    exposed = pair.expose()
    assert exposed.stdout == f"Service hello is exposed on port {pair.port}.\n"
    assert str(pair.port) in exposed.stderr
    said = pair.van("-n north status").stdout + pair.van("-n south status").stdout
    assert "Problem" in said
    assert str(pair.port) in said
    assert fetch("127.0.0.1", pair.port) == b'{"message":"Hello"}\n'


def test_a_port_that_cannot_be_had_is_said_at_once_and_costs_no_waiting(pair: Pair) -> None:
    """A listener by hand, and a service of another site: who asks is told, and goes on."""
    import socket

    pair.set_up(expose=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        started = time.monotonic()
        refused = pair.van(f"-n north listener create web {port} --timeout 50s", code=1).stderr
        assert refused.startswith("Error: listener web: ")
        assert str(port) in refused
        assert "Next:" in refused
        exposed = pair.van(f"-n south expose host 127.0.0.1:8080 --port {port} --address other --timeout 50s")
        assert time.monotonic() - started < 40  # it did not wait until its time was up
        assert exposed.stdout == f"Service other is exposed on port {port}.\n"
        assert "site north does not listen for other: " in exposed.stderr
    listener = pair.van("-n north listener create web2 80 --host 192.0.2.1 --timeout 50s", code=1).stderr
    assert listener.startswith("Error: listener web2: ")


def test_init_again_says_so_and_disturbs_nothing(pair: Pair) -> None:
    pair.set_up()
    before = pair.host.router("north")
    again = pair.van("-n north init --site-name north")
    assert again.stdout.startswith("Site north existed already; it is unchanged.")
    assert pair.host.router("north") == before
    assert "a site keeps its name" in pair.van("-n north init --site-name other", code=1).stderr
    pair.van("-n south update --service-address 127.0.0.3")
    assert fetch("127.0.0.3", pair.port) == b'{"message":"Hello"}\n'
    assert "linkAccess" in (pair.host.home / "north" / "resources" / "Site-north.yaml").read_text()


def test_after_kill_9_status_says_so_and_init_starts_it_again(pair: Pair) -> None:
    pair.set_up()
    os.kill(pair.host.router("south"), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while json.loads(pair.van("-n north link status -o json").stdout) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert pair.van("-n north link status -o json").stdout == "[]\n"
    stopped = pair.van("-n south status", code=3).stderr
    assert "is not running" in stopped
    assert "van -p linux -n south init" in stopped
    assert pair.van("-n south init").stdout.startswith("Site south existed already; it is unchanged and was started.\n")
    pair.van("-n south link status --wait --timeout 20s")
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError):
            assert fetch("127.0.0.1", pair.port) == b'{"message":"Hello"}\n'
            break
        assert time.monotonic() < deadline, pair.host.logs()
        time.sleep(0.1)


def test_unexpose_and_delete_leave_nothing(pair: Pair) -> None:
    pair.set_up()
    pair.van("-n south unexpose hello")
    deadline = time.monotonic() + 10
    while json.loads(pair.van("-n north service status -o json").stdout) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert pair.van("-n north service status").stdout.startswith("No services.")
    pair.van("-n south link delete --all")
    assert json.loads(pair.van("-n south link status -o json").stdout) == []
    assert not list((pair.host.home / "south" / "state" / "credentials").iterdir())
    pair.van("-n north delete")
    pair.van("-n south delete")
    assert pair.host.processes() == []
    assert list(pair.host.home.iterdir()) == []


def test_a_link_access_that_is_taken_is_said_by_init(host: Host) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = host.run("van", "-p", "linux", "init", "--site-name", "north", "--link-access", f"127.0.0.1:{port}", timeout=40)
        assert result.returncode == 3, "before the minute is over that it would wait otherwise"
        assert f"127.0.0.1:{port}: the port is in use" in result.stderr
        assert "choose another one: van -p linux update --link-access" in result.stderr


def test_a_site_that_cannot_start_says_why_at_once(host: Host) -> None:
    host.van("init --site-name north")
    host.van("status")
    os.kill(host.router("default"), signal.SIGKILL)
    key = host.home / "default" / "state" / "identity.key"
    key.chmod(0o644)
    started = time.monotonic()
    result = host.van("init", code=1)
    assert str(key) in result.stderr
    assert "Next:" in result.stderr
    assert time.monotonic() - started < 20


def test_a_site_whose_resource_is_broken_is_not_made_anew(host: Host) -> None:
    host.van("init --site-name north --no-start")
    (host.home / "default" / "resources" / "Site-north.yaml").write_text("kind: [")
    result = host.van("init", code=1)
    assert "Site-north.yaml: not valid YAML" in result.stderr.replace("Site-north.yaml: Site-north.yaml", "Site-north.yaml")
    assert [entry.name for entry in (host.home / "default" / "resources").iterdir()] == ["Site-north.yaml"]


# ---- The demo ---------------------------------------------------------------------------------------------------------------------------


def demos(directory: Path) -> list[Path]:
    return list(directory.glob("van-demo-*"))


def demo_processes(directory: Path) -> list[int]:
    from vanrouter.cli.demo import _OURS

    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{_OURS}={directory}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def test_the_demo_shows_each_command_and_the_answer_and_leaves_nothing(host: Host) -> None:
    result = host.run("van", "demo", TMPDIR=str(host.directory))
    assert result.returncode == 0, result.stdout + result.stderr
    assert '\n{"message":"Hello"}\n' in result.stdout
    for words in ("init --site-name north", "init --site-name south", "token create", "link create", "expose host", "delete"):
        assert re.search(rf"^\$ van -p linux -n \w+ {words}", result.stdout, re.MULTILINE), words
    assert demos(host.directory) == []
    assert demo_processes(host.directory) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.15, 0.4, 0.5, 1.0, 1.6, 2.2])
def test_the_demo_cleans_up_whenever_it_is_interrupted(tmp_path: Path, number: signal.Signals, after: float) -> None:
    with Host(tmp_path, "baseline") as host:
        process = subprocess.Popen(
            ["van", "demo"], env=host.environment | {"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        time.sleep(after)
        process.send_signal(number)
        output, _ = process.communicate(timeout=30)
        assert process.returncode in (128 + number, -number, 130, 0), output
        assert "Traceback" not in output
        assert demos(tmp_path) == []
        assert demo_processes(tmp_path) == []


def test_a_kept_demo_goes_on_and_can_be_cleaned_up(tmp_path: Path) -> None:
    with Host(tmp_path, "baseline") as host:
        host.environment["TMPDIR"] = str(tmp_path)
        result = host.run("van", "demo", "--keep")
        assert result.returncode == 0, result.stdout + result.stderr
        (directory,) = demos(tmp_path)
        assert f"van demo --cleanup {directory}" in result.stderr
        assert demo_processes(directory)
        asked = host.run("van", "-p", "linux", "-n", "north", "status", VAN_HOME=str(directory))
        assert "It is linked to 1 other site." in asked.stdout
        assert host.run("van", "demo", "--cleanup", str(tmp_path)).returncode == 1
        assert host.run("van", "demo", "--cleanup", str(directory)).returncode == 0
        assert demos(tmp_path) == []
        assert demo_processes(directory) == []


# ---- How long a word takes --------------------------------------------------------------------------------------------------------------


def fastest(*command: str, environment: dict[str, str]) -> float:
    best = 60.0
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run(command, env=environment, capture_output=True, check=True)
        best = min(best, time.perf_counter() - started)
    return best


def test_help_and_status_are_quick(tmp_path: Path) -> None:
    """Marks: `van --help` 200 ms, `van status` 300 ms. Here relative to the interpreter's own start, because machines differ."""
    with Host(tmp_path, "baseline") as host:
        host.van("init --site-name north")
        van = [sys.executable, "-P", "-m", "vanrouter.cli", "-p", "linux"]
        nothing = fastest(sys.executable, "-c", "pass", environment=host.environment)
        assert fastest(*van, "--help", environment=host.environment) < max(0.2, 12 * nothing)
        assert fastest(*van, "status", environment=host.environment) < max(0.3, 18 * nothing)
