"""
One JSON object per line, both ways. Pure: bytes in, values out.

An error keeps its class over the socket: the code names it, and the client raises it again with message and hint.
"""

from __future__ import annotations

import json
from typing import Any, Final

from vanrouter.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidResource,
    LinkError,
    LocalProtocolError,
    NoSuchKey,
    NotReady,
    StoreError,
    StreamError,
    TokenError,
    VanrouterError,
)

__all__ = [
    "MAX_ANSWER",
    "MAX_LINE",
    "decode_reply",
    "decode_request_untrusted",
    "encode_error",
    "encode_request",
    "encode_result",
]

MAX_LINE: Final = 1 << 20  # of a request
MAX_ANSWER: Final = 64 << 20  # a status of 100 sites and 1,000 services has about 10 MiB

# The first class that fits gives the code; the other way the code gives the class.
_CODES: Final[tuple[tuple[str, type[VanrouterError]], ...]] = (
    ("invalid_resource", InvalidResource),
    ("config", ConfigError),
    ("not_ready", NotReady),
    ("timeout", DeadlineExceeded),
    ("token", TokenError),
    ("store", StoreError),
    ("link", LinkError),
    ("no_such_key", NoSuchKey),
    ("stream", StreamError),
    ("internal", LocalProtocolError),
    ("internal", VanrouterError),
)


class _Remote(InvalidResource):
    """An InvalidResource whose message already begins with its path."""

    def __init__(self, path: str, message: str, hint: str) -> None:
        VanrouterError.__init__(self, message, hint=hint)
        self.path = path


def encode_request(method: str, params: dict[str, Any]) -> bytes:
    return _line({"method": method, "params": params})


def encode_result(result: Any) -> bytes:
    line = _line({"result": result})
    if len(line) > MAX_ANSWER:
        return encode_error(LocalProtocolError(f"the answer has {len(line)} bytes; at most {MAX_ANSWER} fit into a line"))
    return line


def encode_error(exc: Exception) -> bytes:
    """What an operator may know. Of an error that is a bug, only its class: the rest is in the log."""
    if not isinstance(exc, VanrouterError):
        message = f"a bug in the running site ({type(exc).__name__}); its log has the traceback"
        return _line({"error": {"code": "internal", "message": message, "hint": "please report it with run/router.log"}})
    code = next(code for code, kind in _CODES if isinstance(exc, kind))
    error: dict[str, Any] = {"code": code, "message": str(exc)[:65536], "hint": exc.hint}
    if isinstance(exc, InvalidResource):
        error["path"] = exc.path
    return _line({"error": error})


def decode_request_untrusted(line: bytes) -> tuple[str, dict[str, Any]]:
    """Method and params. Raises ConfigError, nothing else."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError("the request is not one JSON object in a line") from None
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        raise ConfigError('the request is not like {"method": "status", "params": {}}')
    params = request.get("params", {})
    if not isinstance(params, dict):
        raise ConfigError("the request's params are not an object")
    return request["method"], params


def decode_reply(line: bytes) -> Any:
    """The result; raises the error that the site sent."""
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        raise LocalProtocolError("the running site answered with something that is not JSON") from None
    if isinstance(reply, dict) and "result" in reply:
        return reply["result"]
    error = reply.get("error") if isinstance(reply, dict) else None
    if not isinstance(error, dict):
        raise LocalProtocolError("the running site answered with neither a result nor an error")
    code, message, hint = (str(error.get(key, "")) for key in ("code", "message", "hint"))
    if code == "invalid_resource":
        raise _Remote(str(error.get("path", "")), message, hint)
    raise next((kind for known, kind in _CODES if known == code), VanrouterError)(message, hint=hint)


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
