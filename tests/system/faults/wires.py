"""
Network namespaces and the wires between them: what the machines of a test are, and what can be done to their network.

Each namespace is kept alive by a process that reads our stdin, and has no name: when the test ends, however it ends, namespaces, wires and
rules are gone. Routers of different namespaces are reached for administration through their unix sockets, which lie in the file system.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, NamedTuple, Self

SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"
TABLE: Final = "inet faults"


@functools.cache
def program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}") or ""


@functools.cache
def why_not() -> str:
    """Why there can be no namespaces with wires and rules here; empty: there can."""
    if missing := [name for name in ("unshare", "nsenter", "setpriv", "ip", "nft") if not program(name)]:
        return f"needs {', '.join(missing)} (util-linux, iproute2, nftables)"
    if os.geteuid() != 0:
        return "needs root, for network namespaces with wires between them"
    trial = f"{program('ip')} link add vt-a type veth peer name vt-b && {program('nft')} add table {TABLE}"
    found = subprocess.run(["unshare", "--net", "sh", "-c", trial], capture_output=True, text=True, check=False)
    return f"network namespaces cannot be used here: {found.stderr.strip()}" if found.returncode else ""


class Wire(NamedTuple):
    """A pair of interfaces. In the namespace of ``one`` it is called `to-OTHER`, and the other way round."""

    one: str
    other: str
    subnet: int

    def address(self, of: str) -> str:
        return f"10.88.{self.subnet}.{1 if of == self.one else 2}"

    def device(self, of: str) -> str:
        return f"to-{self.other if of == self.one else self.one}"


class Wires:
    def __init__(self, names: Iterable[str], pairs: Sequence[tuple[str, str]]) -> None:
        self.wires = [Wire(one, other, number) for number, (one, other) in enumerate(pairs, 1)]
        self._keepers = {
            name: subprocess.Popen(
                ["unshare", "--net", "sh", "-c", f"{program('ip')} link set lo up && echo up && exec cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for name in names
        }
        try:
            for name, keeper in self._keepers.items():
                assert keeper.stdout is not None
                assert keeper.stdout.readline() == b"up\n", f"the namespace of {name} cannot be made"
            self._lay()
        except BaseException:
            self.close()
            raise

    def _lay(self) -> None:
        lines = [
            f"link add {w.device(w.one)} netns {self._keepers[w.one].pid} type veth"
            f" peer name {w.device(w.other)} netns {self._keepers[w.other].pid}"
            for w in self.wires
        ]
        if self.wires:
            self._ip(self.wires[0].one, lines)
        for name in self._keepers:
            mine = [w for w in self.wires if name in (w.one, w.other)]
            self._ip(name, [f"address add {w.address(name)}/24 dev {w.device(name)}" for w in mine])
            self._ip(name, [f"link set {w.device(name)} up" for w in mine])

    def prefix(self, name: str) -> list[str]:
        """What a command line begins with that is to run in this namespace, and to end with this process."""
        return ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/proc/{self._keepers[name].pid}/ns/net", "--"]

    def wire(self, one: str, other: str) -> Wire:
        return next(w for w in self.wires if {w.one, w.other} == {one, other})

    def _do(self, name: str, command: Sequence[str], text: str = "") -> None:
        done = subprocess.run([*self.prefix(name), *command], input=text, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 0, f"in {name}: {' '.join(command)}\n{text}\n{done.stderr}"

    def _ip(self, name: str, lines: Sequence[str]) -> None:
        if lines:
            self._do(name, [program("ip"), "-batch", "-"], "\n".join(lines) + "\n")

    # ---- Faults. Each returns the monotonic time just before it was asked for ------------------------------------------------------------

    def rules(self, one: str, other: str, what: str = "drop", *, inward: bool = True, outward: bool = True) -> float:
        """What the namespace of ``one`` does with all packets of this wire: `drop`, `reject with tcp reset`, `numgen random ... drop`."""
        device, at = self.wire(one, other).device(one), time.monotonic()
        text = f"table {TABLE} {{\n"
        if inward:
            text += f'chain in-{other} {{ type filter hook input priority 0; iifname "{device}" meta l4proto tcp {what}; }}\n'
        if outward:
            text += f'chain out-{other} {{ type filter hook output priority 0; oifname "{device}" meta l4proto tcp {what}; }}\n'
        self._do(one, [program("nft"), "-f", "-"], text + "}\n")
        return at

    def heal(self) -> None:
        """No rules in any namespace, all wires up, no shaping."""
        for name in self._keepers:
            mine = [w for w in self.wires if name in (w.one, w.other)]
            self._do(name, [program("nft"), "-f", "-"], f"table {TABLE} {{}}\ndelete table {TABLE}\n")
            self._ip(name, [f"link set {w.device(name)} up" for w in mine])

    def down(self, one: str, other: str) -> float:
        """As when a cable is pulled: both ends lose their carrier."""
        at = time.monotonic()
        self._ip(one, [f"link set {self.wire(one, other).device(one)} down"])
        return at

    @contextlib.contextmanager
    def shaped(self, one: str, other: str, megabits: int) -> Iterator[None]:
        """A token bucket on this wire, in the direction away from ``one``."""
        device = self.wire(one, other).device(one)
        bucket = f"tbf rate {megabits}mbit burst 64kb latency 100ms"
        self._do(one, [program("tc"), *f"qdisc add dev {device} root {bucket}".split()])
        try:
            yield
        finally:
            self._do(one, [program("tc"), *f"qdisc del dev {device} root".split()])

    def close(self) -> None:
        for keeper in self._keepers.values():
            for pipe in (keeper.stdin, keeper.stdout):
                pipe.close()  # type: ignore[union-attr]
        for keeper in self._keepers.values():
            try:
                keeper.wait(2)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
