"""Bad input as a user meets it, with real commands and routers: what failed, why and what to do, and the right exit code."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_port
from hosts import Host
from linked import Linked, condition, run_router, until


def says(text: str, *words: str) -> None:
    for word in words:
        assert word in text, f"{word!r} is not in:\n{text}"


# ---- Ports ------------------------------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_named_by_init_status_and_listener_create(linked: Linked) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        refused = linked.van(f"init --site-name north --link-access 127.0.0.1:{port}", code=3).stderr
        says(refused, f"127.0.0.1:{port}", "in use", "Next:")
        shown = linked.van("status", code=3).stdout
        says(shown, f"127.0.0.1:{port}", "in use", "--link-access")
        refused = linked.van(f"listener create web {port} --timeout 3s", code=1).stderr
        says(refused, str(port), "Next:")
    linked.van("status --wait --timeout 20s")


def test_two_listeners_on_one_port_are_told_apart(linked: Linked) -> None:
    linked.van("init --site-name north")
    linked.van(f"listener create first {linked.port}")
    refused = linked.van(f"listener create second {linked.port} --timeout 3s", code=1).stderr
    says(refused, str(linked.port), "first", "Next:")
    says(linked.van("listener status").stdout, "first", "second")
    refused = linked.van(f"listener create first {linked.other_port}", code=1).stderr
    says(refused, "first", "Next:", "update")


# ---- Resources --------------------------------------------------------------------------------------------------------------------------


def test_an_unknown_field_is_named_with_its_path_and_what_was_meant(linked: Linked) -> None:
    linked.van("init --site-name north")
    linked.van(f"listener create web {linked.port}")
    path = linked.host.home / "default" / "resources" / "Listener-web.yaml"
    path.write_text(path.read_text().replace("  port:", "  prot:"))
    until("the change is noticed", lambda: linked.status("default")["problems"])
    shown = linked.van("status").stdout
    says(shown, "Listener-web.yaml", "spec.prot", "is not a field", "last good form stays in force", "did you mean port?")
    assert [x["port"] for x in linked.status("default")["listeners"]] == [linked.port]
    (linked.host.home / "default" / "resources" / "x.yaml").write_text("kind: [")
    linked.call("default", "reconcile")
    says(linked.van("status").stdout, "x.yaml", "not valid YAML")


def test_a_target_that_refuses_is_in_the_status_of_its_site(shared: Linked) -> None:
    nobody, port = free_port(), free_port()
    said = shared.van(f"-n south expose host 127.0.0.1:{nobody} --port {port} --address dead")
    says(said.stderr, "does not answer yet", f"127.0.0.1:{nobody}", "refused")
    found = until(
        "south says that its target refuses",
        lambda: next(
            (
                c
                for x in shared.status("south")["connectors"]
                if x["port"] == nobody and (c := condition(x, "Healthy"))["reason"] == "TargetDown"
            ),
            None,
        ),
    )
    assert found is not None
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as stream:  # noqa: PT011 - refused, or reset
        assert stream.recv(1)
    says(found["message"], f"127.0.0.1:{nobody}", "refused")
    says(shared.van("-n south status").stdout, f"127.0.0.1:{nobody}", "next:")
    shared.van("-n south unexpose dead")
    assert shared.answers()


# ---- Links and tokens -------------------------------------------------------------------------------------------------------------------


def test_an_endpoint_that_nobody_serves_is_named_with_exit_code_4(shared: Linked) -> None:
    shared.van("-n north token create far.yaml")
    file = shared.host.directory / "far.yaml"
    nobody = free_port()
    file.write_text(file.read_text().replace(f"127.0.0.1:{shared.link_port}", f"127.0.0.1:{nobody}"))
    result = shared.host.run("van", "-p", "linux", "-n", "south", "link", "create", "far.yaml", "--timeout", "5s")
    assert result.returncode in (1, 4)
    says(result.stderr, f"127.0.0.1:{nobody}", "refused", "Next:")
    assert len(shared.status("south")["links"]) == 1


def test_tokens_that_are_malformed_foreign_or_ones_own(shared: Linked) -> None:
    shared.van("-n north token create good.yaml")
    file = shared.host.directory / "good.yaml"
    good = file.read_text()

    def refused(text: str, site: str = "south") -> str:
        file.write_text(text)
        return shared.van(f"-n {site} link create good.yaml --timeout 10s", code=1).stderr

    says(refused("hello"), "good.yaml", "Next:")
    says(refused(good.replace("secret: ", "sekret: ")), "sekret", "Next:")
    says(refused(good, "north"), "issued by this very site", "Next:")
    # Another site answers at its endpoint: its CA is not the one in the token.
    port = free_port()
    shared.van(f"-n other init --site-name other --link-access 127.0.0.1:{port}")
    says(refused(good.replace(f"127.0.0.1:{shared.link_port}", f"127.0.0.1:{port}")), f"127.0.0.1:{port}", "CA", "Next:")
    shared.van("-n other delete")
    assert len(shared.status("south")["links"]) == 1


@pytest.mark.parametrize("ahead", [-86_400.0, 400 * 86_400.0], ids=["a-day-behind", "a-year-ahead"])
def test_a_clock_that_is_wrong_is_named_with_both_times(linked: Linked, ahead: float) -> None:
    """South's wall clock is wrong: redeeming says so. When it is set right, what was begun is finished by the next start."""
    linked.van(f"-n north init --site-name north --link-access 127.0.0.1:{linked.link_port}")
    linked.van("-n south init --site-name south --link-access none --service-address 127.0.0.2 --no-start")
    linked.van("-n north token create north.yaml")
    skewed = run_router(linked.host.home / "south", linked.host.environment["VAN_PLANE"], ahead=ahead)
    try:
        until("south runs", lambda: linked.status("south")["site"]["ready"])
        refused = linked.van("-n south link create north.yaml --timeout 10s", code=1).stderr
        says(refused, "clock", "Next:")
    finally:
        skewed.terminate()
        skewed.wait(20)
    linked.van("-n south init")
    linked.until_linked()


def test_clocks_that_differ_by_minutes_cost_no_link(linked: Linked) -> None:
    """Certificates are dated back, and liveness goes by the monotonic clock."""
    linked.set_up()
    os.kill(linked.host.router("north"), signal.SIGTERM)
    until("south sees it go", lambda: not linked.link("south")["active"])
    north = run_router(linked.host.home / "north", linked.host.environment["VAN_PLANE"], ahead=120.0)
    try:
        linked.until_linked()
        until("hello answers", linked.answers)
    finally:
        north.terminate()
        north.wait(20)


def test_two_sites_of_one_name_say_so_at_both_ends(linked: Linked) -> None:
    linked.van(f"-n north init --site-name same --link-access 127.0.0.1:{linked.link_port}")
    linked.van("-n south init --site-name same --link-access none --service-address 127.0.0.2")
    linked.van("-n north token create north.yaml")
    linked.van("-n south link create north.yaml")
    for name in ("north", "south"):
        until("it is noticed", lambda name=name: condition(linked.status(name)["site"], "UniqueName")["status"] == "False")  # type: ignore[misc]
        says(linked.van(f"-n {name} status").stdout, "same", "next:")


# ---- The disk ---------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """4 MiB, as VAN_HOME."""
    where = tmp_path / "small"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(where)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=False)


def test_a_full_disk_is_said_and_what_was_stored_stays(linked: Linked, small_disk: Path) -> None:
    host: Host = linked.host
    host.home.rmdir()
    host.home.symlink_to(small_disk)
    host.environment["VAN_HOME"] = str(host.home)
    linked.set_up()
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as out:
        while True:
            out.write(bytes(1 << 12))
            out.flush()
    assert shutil.disk_usage(small_disk).free == 0
    for line in ("-n north token create full.yaml", "-n south link create full.yaml", f"-n north listener create full {linked.other_port}"):
        result = host.run("van", "-p", "linux", *line.split(), "--timeout", "10s")
        assert result.returncode == 1, line + result.stdout + result.stderr
        says(result.stderr, "Error: ", "Next:")
        assert "Traceback" not in result.stderr
        if "link create" not in line:
            says(result.stderr, "space")
    assert linked.answers(), "the data plane does not care"
    says(linked.van("-n north status").stdout, "Site north is ready.")
    filler.unlink()
    linked.van("-n north token create full.yaml")
    for name in ("north", "south"):
        os.kill(host.router(name), signal.SIGKILL)
        until("it is dead", lambda name=name: host.router(name) not in host.processes())  # type: ignore[misc]
        linked.van(f"-n {name} init")
    until("hello answers", linked.answers)
