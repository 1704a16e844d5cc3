"""
Questions of the CLI, which are Secrets: ``request.json`` in, ``answer.json`` out, as on the admin socket.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from typing import Any, Final

import trio

from vanrouter.admin.protocol import decode_request_untrusted, encode_error, encode_result
from vanrouter.controller.copies import Copies
from vanrouter.controller.issuing import Issuing, grant_docs
from vanrouter.controller.routers import Routers
from vanrouter.errors import DeadlineExceeded, LocalProtocolError, VanrouterError
from vanrouter.kube.calls import Object, merge_patch
from vanrouter.kube.errors import KubeError
from vanrouter.kube.kinds import SECRETS
from vanrouter.kube.names import REQUEST, TYPE
from vanrouter.kube.state import files_in

__all__ = ["Answerer", "answer_requests"]

log: Final = logging.getLogger("vanrouter.controller")

Params = dict[str, Any]

REQUEST_KEY: Final = "request.json"
ANSWER_KEY: Final = "answer.json"
OLD: Final = 600.0
LONGEST_WORK: Final = 15.0
MAX_ANSWER: Final = 700_000  # base64 of it fits into a Secret


class Answerer:
    """What the CLI may ask: tokens of the controller, the rest of a router."""

    def __init__(self, issuing: Issuing, routers: Routers) -> None:
        self._issuing, self._routers = issuing, routers
        self.busy: set[str] = set()  # uids of questions that are being answered

    async def handle(self, method: str, params: Params) -> Any:
        match method:
            case "token.issue":
                return await self._issuing.issue(params)
            case "link.generate":
                return await self._issuing.static_link(params)
            case "token.list":
                return {"grants": grant_docs(await self._issuing.grants())}
            case "token.delete" | "grant.delete":
                return await self._issuing.delete(params)
            case _:
                return await self._routers.ask(method, params)


async def answer_requests(copies: Copies, answerer: Answerer, nursery: trio.Nursery, *, clock: Callable[[], float]) -> None:
    """Start answering those that have no answer; delete those that everybody forgot."""
    for name, value in copies.of(SECRETS).items():
        if (value["metadata"].get("labels") or {}).get(TYPE) != REQUEST:
            continue
        if clock() > _created(value) + OLD:
            await copies.remove(SECRETS, name)
        elif ANSWER_KEY not in (value.get("data") or {}) and value["metadata"]["uid"] not in answerer.busy:
            answerer.busy.add(value["metadata"]["uid"])
            nursery.start_soon(_answer, copies, answerer, name, value)


async def _answer(copies: Copies, answerer: Answerer, name: str, value: Object) -> None:
    try:
        answer = await _decide(answerer, value)
        metadata, patch = value["metadata"], {"stringData": {ANSWER_KEY: answer.decode()}}
        await copies.send(merge_patch(SECRETS, copies.namespace, name, patch, resource_version=metadata["resourceVersion"]))
    except KubeError:
        pass  # asked again by whoever waits, or deleted
    finally:
        answerer.busy.discard(value["metadata"]["uid"])


async def _decide(answerer: Answerer, value: Object) -> bytes:
    method = "?"
    try:
        method, params = decode_request_untrusted(files_in(value).get(REQUEST_KEY, b""))
        with trio.fail_after(LONGEST_WORK):
            result = await answerer.handle(method, params)
        answer = encode_result(result)
    except VanrouterError as exc:
        return encode_error(exc)
    except trio.TooSlowError:
        return encode_error(DeadlineExceeded(f"{method} took longer than {LONGEST_WORK:.0f} s"))
    except Exception as exc:
        log.exception("a question failed for a reason of ours", extra={"method": method})
        return encode_error(exc)
    if len(answer) > MAX_ANSWER:
        return encode_error(LocalProtocolError(f"the answer has {len(answer)} bytes, more than fits into a Secret"))
    return answer


def _created(value: Object) -> float:
    try:
        return dt.datetime.fromisoformat(value["metadata"]["creationTimestamp"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return 0.0
