"""After each test its network is well, and no router holds more than before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from linked import until
from usage import Usage
from vans import Network

Maker = Callable[..., contextlib.AbstractContextManager[Network]]


@contextlib.contextmanager
def unharmed(network: Network, *, memory: int = 24 << 20) -> Iterator[Network]:
    """After the test the network is well again, and no router that ran all the time holds more than before it."""
    before = {name: (site.pid, site.usage()) for name, site in network.sites.items()}
    yield network
    network.heal()
    for name, (pid, was) in before.items():
        site = network[name]
        if site.pid == pid:
            until(f"{name} gives back what it took", lambda s=site, w=was: not held(s.usage(), w, memory), seconds=20)  # type: ignore[misc]
        told = "\n".join(line for line in site.log().splitlines() if " info access: " not in line)
        assert "Traceback" not in told, told[told.index("Traceback") - 500 :][:6000]
        assert "panicked" not in told, told[told.index("panicked") - 500 :][:3000]


def held(now: Usage, before: Usage, memory: int) -> list[str]:
    excess = now.excess(before, memory=memory)
    if excess:
        raise LookupError("; ".join(excess))  # said when time is up
    return excess
