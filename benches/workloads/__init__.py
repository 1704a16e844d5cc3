"""The loads, by name, and the metrics that they give."""

from __future__ import annotations

from typing import Final

from benches.workloads import applications, bulk, failover, http, idle, iperf, openloop, stalled
from benches.workloads.base import METRICS, Metric, Workload

__all__ = ["METRICS", "WORKLOADS", "Metric", "Workload"]

_ALL: Final[tuple[Workload, ...]] = (
    *(iperf.Iperf(streams, reverse=reverse) for reverse in (False, True) for streams in (1, 2, 8, 64)),
    *(http.Requests(connections, file) for file in ("1k", "100k") for connections in (1, 16, 64)),
    http.NewConnections(connections=16),
    bulk.BesideBulk(new_connections=False),
    bulk.BesideBulk(new_connections=True),
    openloop.FixedRate(beside_bulk=False),
    openloop.FixedRate(beside_bulk=True),
    applications.PostgreSQL(),
    applications.Redis(),
    applications.HTTP2(),
    idle.Idle(),
    stalled.Stalled(1),
    stalled.Stalled(64),
    iperf.FarAway(20),
    iperf.FarAway(100),
    iperf.LocalIperf(1),
    iperf.LocalIperf(8),
    iperf.IperfOverThree(),
    http.RequestsOverThree(16),
    failover.FailOver(),
)
WORKLOADS: Final = {workload.name: workload for workload in _ALL}
