"""
A site that is only its socket: answers the admin protocol from a status document that the test writes.

What it answers follows docs/architecture.md, so that a test of a command is a test against the contract and not against a running router.
"""

from __future__ import annotations

import copy
import json
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

Doc = dict[str, Any]

NORTH = "a" * 52
SOUTH = "b" * 52


def cond(kind: str, status: str = "True", reason: str = "Ok", message: str = "", next: str = "") -> Doc:
    return {"type": kind, "status": status, "reason": reason, "message": message, "since": "2026-01-02T03:04:05Z", "next": next}


def site_document(name: str = "north") -> Doc:
    return {
        "site": {
            "name": name,
            "id": NORTH,
            "router": f"{NORTH}/0000000000000001",
            "version": "0.1.0",
            "dataPlane": "baseline",
            "ready": True,
            "conditions": [cond("Ready")],
            "endpoints": [{"host": "127.0.0.1", "port": 7001}],
            "linkedSites": 0,
            "exposedServices": 0,
        },
        "links": [],
        "listeners": [],
        "connectors": [],
        "services": [],
        "grants": [],
        "problems": [],
    }


def link_element(name: str, *, active: bool = True, direction: str = "outgoing", **more: Any) -> Doc:
    operational = cond("Operational") if active else cond("Operational", "False", "Refused", "nothing listens there", "check the port")
    return {
        "name": name,
        "spec": {"endpoints": [{"host": "127.0.0.1", "port": 7001}], "cost": 1},
        "conditions": [
            cond("Configured"),
            operational,
            cond("Ready", operational["status"], operational["reason"], operational["message"]),
        ],
        "direction": direction,
        "remoteSiteName": "south",
        "remoteSiteId": SOUTH,
        "cost": 1,
        "lanes": 2 if active else 0,
        "endpoint": "127.0.0.1:7001",
        "active": active,
    } | more


def listener_element(name: str, *, host: str = "127.0.0.1", port: int = 9090, matched: bool = True, **more: Any) -> Doc:
    return {
        "name": name,
        "spec": {"routingKey": name, "host": host, "port": port},
        "conditions": [cond("Configured"), cond("Listening"), cond("Matched"), cond("Ready")],
        "routingKey": name,
        "matched": matched,
        "host": host,
        "port": port,
    } | more


def service_element(address: str, port: int = 9090) -> Doc:
    return {
        "address": address,
        "name": address,
        "ports": [port],
        "protocol": "tcp",
        "targets": [{"site": "south", "siteId": SOUTH, "connector": address, "host": "127.0.0.1", "port": 8080}],
        "listeners": [
            {"site": "north", "siteId": NORTH, "listener": address, "host": "127.0.0.1", "port": port},
            {"site": "south", "siteId": SOUTH, "listener": address, "host": "127.0.0.2", "port": port},
        ],
        "problems": [],
    }


class Refusal(Exception):
    """What a handler raises to answer with an error."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, "hint": hint}


class FakeSite:
    """Serves ``run/admin.sock`` of a directory on a thread. ``on`` holds further methods; ``calls`` what was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.document = site_document()
        self.calls: list[tuple[str, Doc]] = []
        self.on: dict[str, Callable[[Doc], Any]] = {
            "ping": lambda _: {"pid": 0, "version": "0.1.0", "router": "", "site": self.document["site"]["name"]},
            "status": lambda _: copy.deepcopy(self.document),
            "reconcile": lambda _: {"generation": 1, "problems": []},
            "network": lambda _: {"sites": [{"id": NORTH, "name": "north", "self": True}], "links": [], "services": []},
        }
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    self.wfile.write(json.dumps(fake.answer(json.loads(line))).encode() + b"\n")

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A caller whose deadline came first has left; that is no error here."""

        self.server = Server(str(directory / "run" / "admin.sock"), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def answer(self, request: Doc) -> Doc:
        method, params = request["method"], request.get("params", {})
        self.calls.append((method, params))
        if method not in self.on:
            return {"error": {"code": "config", "message": f"no method {method}", "hint": ""}}
        try:
            return {"result": self.on[method](params)}
        except Refusal as refusal:
            return {"error": refusal.error}

    def called(self, method: str) -> list[Doc]:
        return [params for name, params in self.calls if name == method]

    def __enter__(self) -> FakeSite:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        (self.directory / "run" / "admin.sock").unlink(missing_ok=True)
