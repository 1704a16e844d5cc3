"""
The data plane in pure Python: the readable, executable specification of ``docs/wire-protocol.md``.

    frame  credit  liveness  handshake  stream  outbox  books  inbound  mux      decide: bytes and time are arguments
    table  choice  records                                                       decide: entries and chance are
    tls  sockets  bind  lane  trunk  far  pump  embedded                         drive: one connection, one port, one stream
    access  dialling  doors  opening  egress  transit  targets  mailbox  plane   drive: the router

It keeps the same contract as the Rust core (``vanrouter.plane.DataPlane``) and links with it. It is written to be read, and
never slowed on purpose.
"""

from vanrouter.baseline.plane import BaselinePlane

__all__ = ["BaselinePlane"]
