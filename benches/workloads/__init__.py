"""The loads, by name, and the metrics that they give."""

from __future__ import annotations

from typing import Final

from benches.workloads import http, idle, iperf
from benches.workloads.base import METRICS, Metric, Workload

__all__ = ["METRICS", "WORKLOADS", "Metric", "Workload"]

WORKLOADS: Final[dict[str, Workload]] = {
    workload.name: workload
    for workload in (
        iperf.Iperf(streams=1),
        iperf.Iperf(streams=8),
        http.Requests(connections=1),
        http.Requests(connections=16),
        http.Requests(connections=64),
        http.NewConnections(connections=16),
        idle.Idle(),
    )
}
