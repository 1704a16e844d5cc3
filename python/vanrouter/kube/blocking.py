"""
The API server for threads: the same calls as ``client``, for the ledger (which any thread may use) and for short commands.

One object serves any number of threads. The deadline covers the whole call, also against a server that sends a byte now and then.
"""

from __future__ import annotations

import threading
import time

import httpx2

from vanrouter.kube.access import Access
from vanrouter.kube.calls import Call, Kind, Object, answer_untrusted, list_page
from vanrouter.kube.errors import CredentialsRefused, Throttled
from vanrouter.kube.session import CALL_SECONDS, LIMITS, MAX_ANSWER, Options, connection_error, timed_out, too_long

__all__ = ["BlockingClient"]


class BlockingClient:
    """Close it, or use it as a context manager."""

    def __init__(self, access: Access, *, deadline: float = CALL_SECONDS) -> None:
        self.access, self.deadline = access, deadline
        self._options = Options(access)
        self._http: httpx2.Client | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            http, self._http = self._http, None
        if http is not None:
            http.close()

    def call(self, call: Call, *, deadline: float | None = None) -> Object:
        """The answer. Raises KubeError, or KubeConfigError when there are no credentials to show."""
        seconds = self.deadline if deadline is None else deadline
        until = time.monotonic() + seconds
        renewed = False
        while True:
            try:
                return self._once(call, until, seconds)
            except Throttled as exc:
                if time.monotonic() + exc.retry_after >= until:
                    raise
                time.sleep(exc.retry_after)
            except CredentialsRefused:
                if renewed or not self.access.credentials.refused():
                    raise
                renewed = True

    def pages(self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "", metadata_only: bool = False) -> list[Object]:
        """All objects, page by page: one list as of one moment. Each page has the deadline."""
        found: list[Object] = []
        token = ""
        while True:
            call = list_page(kind, namespace, labels=labels, fields=fields, continue_token=token, metadata_only=metadata_only)
            page = self.call(call)
            found += page.get("items") or []
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return found

    def _once(self, call: Call, until: float, seconds: float) -> Object:
        http = self._ready()
        left = until - time.monotonic()
        if left <= 0:
            raise timed_out(self.access, call, seconds)
        body = bytearray()
        try:
            response = http.send(self._options.request(call, left), stream=True)
            try:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise too_long(call)
                    if time.monotonic() >= until:
                        raise timed_out(self.access, call, seconds)
            finally:
                response.close()
        except (httpx2.TransportError, httpx2.DecodingError, OSError) as exc:
            raise connection_error(self.access, call, exc, seconds) from exc
        return answer_untrusted(call, response.status_code, response.headers, bytes(body))

    def _ready(self) -> httpx2.Client:
        with self._lock:  # a plugin is run once, however many calls wait for it
            if self._options.refresh() or self._http is None:
                # What an older one still does, it does to its end; it goes with its last call.
                self._http = httpx2.Client(
                    verify=self._options.tls, proxy=self._options.proxy, limits=LIMITS, trust_env=False, follow_redirects=False
                )
            return self._http
