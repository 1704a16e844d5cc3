"""The server that ``van demo`` exposes: answers every GET with ``{"message":"Hello"}``. Prints its port, then serves until it is ended."""

from __future__ import annotations

import http.server

__all__ = ["main"]

_BODY = b'{"message":"Hello"}\n'


class _Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # the name that http.server asks for
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(_BODY)))
        self.end_headers()
        self.wfile.write(_BODY)

    def log_message(self, *_: object) -> None:
        """Nothing: its output is the port alone."""


def main() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hello) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
