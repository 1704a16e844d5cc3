"""
Several routers of one site on hosts, set up with the commands of the guide as they stand there.

    hub ══ pair on 192.0.2.1 ┐          here: 127.0.0.21 and 127.0.0.22, two users' directories on one machine
     ╚════ pair on 192.0.2.2 ┘
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_port
from hosts import Host
from linked import until

from vanrouter.admin import client

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
JQ = """\
#!{python}
# What the guide needs of jq where there is none.
import json, sys
assert sys.argv[1:] == ["-r", ".site.id"], sys.argv
print(json.load(sys.stdin)["site"]["id"])
"""


def blocks(heading: str) -> list[str]:
    """The commands of one section, block by block."""
    section = GUIDE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def machines(tmp_path: Path, plane: str) -> Iterator[list[Host]]:
    directories = [tmp_path / name for name in ("hub", "first", "second")]
    for directory in directories:
        directory.mkdir()
    with Host(directories[0], plane) as hub, Host(directories[1], plane) as first, Host(directories[2], plane) as second:
        yield [hub, first, second]


def run_as_it_stands(host: Host, block: str, port: int) -> None:
    jq = host.directory / "bin" / "jq"
    jq.write_text(JQ.format(python=sys.executable))
    jq.chmod(0o755)
    here = {"192.0.2.1": "127.0.0.21", "192.0.2.2": "127.0.0.22", "7001": str(port), "~/.local/share/vanrouter": str(host.home)}
    for there, substitute in here.items():
        block = block.replace(there, substitute)
    result = host.run("bash", "-euo", "pipefail", "-c", block, timeout=100, VAN_PLATFORM="linux")
    assert result.returncode == 0, result.stdout + result.stderr + host.logs()


def test_two_machines_become_routers_of_one_site_by_the_commands_of_the_guide(machines: list[Host]) -> None:
    hub, first, second = machines
    on_first, on_second = blocks("Several routers for one site")
    hub.van(f"-n hub init --link-access 127.0.0.1:{free_port()}")
    hub.van("-n hub token create hub.yaml")
    (hub.directory / "hub.yaml").rename(first.directory / "hub.yaml")
    port = free_port()
    run_as_it_stands(first, on_first, port)
    assert not (first.directory / "pair.tar").stat().st_mode & 0o077
    (first.directory / "pair.tar").rename(second.directory / "pair.tar")
    run_as_it_stands(second, on_second, port)

    def routers(host: Host, name: str) -> set[str]:
        """The routers of pair that this one has an active link with."""
        links = client.call(host.home / name, "status", {}, timeout=10)["links"]
        return {router for link in links if link["active"] and link["remoteSiteName"] == "pair" for router in link["routers"]}

    both = {client.call(host.home / "pair", "ping", {}, timeout=10)["router"] for host in (first, second)}
    assert len(both) == 2
    assert len({router.partition("/")[0] for router in both}) == 1
    until("the hub is linked with both", lambda: routers(hub, "hub") == both)
    for host in (first, second):
        own = client.call(host.home / "pair", "ping", {}, timeout=10)["router"]
        until("each is linked with the other", lambda host=host, own=own: routers(host, "pair") == both - {own})  # type: ignore[misc]
        assert client.call(host.home / "pair", "status", {}, timeout=10)["problems"] == []
    first.van("-n pair token create one.yaml")
    second.van("-n pair token create two.yaml")
    for host, file in ((first, "one"), (second, "two")):
        (host.directory / f"{file}.yaml").rename(hub.directory / f"{file}.yaml")
        hub.van(f"-n {file} init --link-access none --service-address 127.0.0.3 --no-service-sync")
        hub.van(f"-n {file} link create {file}.yaml")
