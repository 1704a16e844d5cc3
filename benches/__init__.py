"""
The side-by-side benchmarks: what `make bench` runs.

One *cell* is one load on one path from client to server: a *workload* (iperf3, wrk, ...) on a *peer* (direct, core, baseline, haproxy). A
run is rounds of cells, the peers taking turns, so that whatever else the machine does hits them alike. Every cell starts its own processes
and ends them by pid; every load is bounded in count and time; all traffic stays on loopback, in a namespace of its own where possible.

    runner ──▶ workload ──▶ load generator ─▶ front ┌──────── peer ────────┐ ─▶ server
       │                                            │ near ══ mTLS ══ far  │
       └──▶ report ◀── median, min, max per metric  └── CPU and RSS of both┘

Benchmarks are not tests: nothing here decides whether the product works.
"""
