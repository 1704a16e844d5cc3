"""
``reach.py SERVER NAME ADDRESS PORT``, in a cluster's network: does the DNS server give that address for the name, and does the port answer.
"""

from __future__ import annotations

import socket
import struct
import sys


def resolve(server: str, name: str) -> str:
    """The address in the answer's last record, empty when there is none (RFC 1035, section 4)."""
    labels = b"".join(struct.pack("!B", len(label)) + label.encode() for label in name.split("."))
    question = struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(2.0)
        asking.sendto(question, (server, 53))
        answer = asking.recv(2048)
    _, flags, _, answers, _, _ = struct.unpack("!HHHHHH", answer[:12])
    return socket.inet_ntoa(answer[-4:]) if answers == 1 and flags & 0xF == 0 else ""


def main() -> None:
    server, name, address, port = sys.argv[1:]
    if (found := resolve(server, name)) != address:
        sys.exit(f"{server} says that {name} is {found or 'nothing'}, and it is {address}")
    socket.create_connection((address, int(port)), timeout=2.0).close()


if __name__ == "__main__":
    main()
