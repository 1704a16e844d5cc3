"""What `make bench` says of its own figures: which marks count, what failed, and what is not there."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from benches import runner
from benches.marks import BEST, Mark
from benches.peers import OURS, PEERS, REQUIRED
from benches.peers.skupper_router import configuration
from benches.report import Row, rows, table
from benches.sockets import parse
from benches.workloads import METRICS, WORKLOADS

OTHERS = [peer for peer in REQUIRED if peer not in OURS]
MARK = Mark("connect16", "connections", "core", BEST, at_least=True, bound=3)


def measured(figures: Mapping[str, float], workload: str = "connect16", metric: str = "connections") -> list[Row]:
    return rows([(peer, workload, {metric: figure}) for peer, figure in figures.items()])


def judge(figures: Mapping[str, float]) -> tuple[float | None, bool, tuple[str, ...]]:
    verdict = MARK.judge({(peer, "connect16", "connections"): figure for peer, figure in figures.items()})
    return verdict.figure, verdict.met, verdict.absent


def test_a_mark_is_against_the_best_of_all_others() -> None:
    assert judge({"core": 400.0, **dict.fromkeys(OTHERS, 50.0), "frp-mux": 100.0}) == (4.0, True, ())
    assert judge({"core": 200.0, **dict.fromkeys(OTHERS, 50.0), "frp-mux": 100.0}) == (2.0, False, ())


def test_an_incumbent_that_a_user_brings_is_one_of_the_others() -> None:
    assert judge({"core": 400.0, **dict.fromkeys(OTHERS, 50.0), "skupper-router": 200.0}) == (2.0, False, ())


def test_a_mark_does_not_count_while_one_peer_has_no_figure_in_its_row() -> None:
    figures = {"core": 400.0, **{peer: 50.0 for peer in OTHERS if peer != "rathole"}}
    assert judge(figures) == (8.0, True, ("rathole",))
    said = table([*measured(figures), *measured({"rathole": 1.0, "direct": 9.0, "baseline": 1.0}, "iperf1", "throughput")], ["connect16"])
    assert "met, DOES NOT COUNT: no figure of rathole" in said


def test_a_mark_whose_own_figure_is_missing_is_said_and_not_left_out() -> None:
    assert "DOES NOT COUNT: no figure of core" in table(measured(dict.fromkeys(OTHERS, 50.0)), ["connect16"])


def test_without_a_named_peer_no_mark_counts() -> None:
    figures = dict.fromkeys(REQUIRED, 50.0)
    assert "DO NOT COUNT" not in table(measured(figures), ["connect16"])
    del figures["stunnel"]
    assert "THE MARKS DO NOT COUNT: without stunnel" in table(measured(figures), ["connect16"])


def test_a_cell_that_fails_in_an_unexpected_way_does_not_end_the_run() -> None:
    class Odd:
        name, title, programs = "odd", "odd", ()

        def fits(self, peer: object) -> bool:
            return True

        def run(self, peer: object, seconds: int, tmp: Path) -> dict[str, float]:
            if peer is PEERS["core"]:
                raise ZeroDivisionError("nobody thought of it")
            return {"requests": 1.0}

    seen: list[int] = []
    samples, failures = runner.run([PEERS["core"], PEERS["direct"]], [Odd()], 2, 1, after_round=lambda some: seen.append(len(some)))
    assert samples == [("direct", "odd", {"requests": 1.0})] * 2
    assert [failure.partition(":")[0] for failure in failures] == ["round 1, odd, core", "round 2, odd, core"]
    assert "nobody thought of it" in failures[0]
    assert seen == [1, 2]


def test_bytes_are_read_from_what_ss_says_of_each_connection() -> None:
    said = (
        "0      0      127.0.0.1:54806 127.0.0.1:38619 cubic rto:204 bytes_acked:1 bytes_received:1000 segs_out:3\n"
        "990    0      127.0.0.1:54808 127.0.0.1:38619 cubic rto:204 bytes_sent:7 segs_out:3\n"
    )
    assert parse(said) == {54806: 1000, 54808: 0}


def test_a_skupper_router_is_configured_with_mutual_tls_on_the_link_alone() -> None:
    where = {"host": "127.0.0.1", "port": 1}
    text = configuration("near", Path("near.pem"), Path("ca.pem"), ("connector", {"role": "inter-router"} | where), ("tcpListener", where))
    connector, listener = (text.partition(f"{kind} {{")[2].partition("}")[0] for kind in ("connector", "tcpListener"))
    assert "sslProfile: link" in connector
    assert "role: inter-router" in connector
    assert "ssl" not in listener


def test_what_builds_peers_stops_where_a_step_fails_and_touches_nothing_else(tmp_path: Path) -> None:
    """With programs that fail: nothing is built, and neither the caller's directory nor what is in the way of its own is harmed."""
    programs, here, home = tmp_path / "bin", tmp_path / "checkout", tmp_path / "peers"
    script = here / "benches" / "peers" / "build.sh"
    for directory in (programs, script.parent, home):
        directory.mkdir(parents=True)
    script.write_bytes((Path(__file__).parents[2] / "benches" / "peers" / "build.sh").read_bytes())
    (here / "Cargo.toml").write_text("ours")
    (home / "target").write_text("ours")
    for program in ("go", "cargo"):
        (programs / program).write_text("#!/bin/sh\nexit 1\n")
        (programs / program).chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path), "VAN_BENCH_PEERS": "../peers"}
    done = subprocess.run(["bash", str(script)], cwd=here, env=environment, capture_output=True, text=True, timeout=20)
    assert done.stderr.count("could not be built") == 3
    assert (here / "Cargo.toml").read_text() == "ours"
    assert (home / "target").read_text() == "ours"
    assert not list(home.glob("*.version"))
    assert not list(home.glob("building*"))


def test_every_mark_names_what_there_is() -> None:
    from benches.marks import MARKS

    assert all({mark.workload, mark.than or mark.workload} <= WORKLOADS.keys() and mark.metric in METRICS for mark in MARKS)


def test_pictures_are_drawn_of_what_there_is_and_nothing_else(tmp_path: Path) -> None:
    from benches import plots

    some = [*measured(dict.fromkeys(REQUIRED, 50.0)), *measured({"core": 9.0}, "far20", "throughput")]
    assert {path.name for path in plots.draw(some, tmp_path)} == {"connections.png", "far.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    assert all(picture.metric in METRICS and set(picture.workloads) <= WORKLOADS.keys() for picture in plots.PICTURES.values())
