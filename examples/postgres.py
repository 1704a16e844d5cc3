"""
A database of another site, by name, with a driver that wants a host and a port: asyncpg and a local port.

    python examples/postgres.py token.yaml db 'user=me password=secret dbname=orders'

The port is on this machine's loopback for as long as the block lasts; bytes go from it through the router's core, not through Python.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import asyncpg

import vanrouter


async def version(where: str | Path, key: str, *, user: str, database: str, password: str = "", **options: Any) -> str:
    async with vanrouter.open(where, **options) as van, van.local_port(key) as port:
        # ssl=False: TLS to the database itself is possible as anywhere; the way there is encrypted by the links.
        connection = await asyncpg.connect(host="127.0.0.1", port=port, user=user, database=database, password=password, ssl=False)
        try:
            return str(await connection.fetchval("SELECT version()"))
        finally:
            await connection.close()


if __name__ == "__main__":
    place, name, words = sys.argv[1:]
    login = dict(word.split("=", 1) for word in words.split())
    print(asyncio.run(version(place, name, user=login["user"], database=login["dbname"], password=login.get("password", ""))))
