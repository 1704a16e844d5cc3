"""What a process holds: descriptors, threads, memory, lines of its log; and whether it holds no more than before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

MIB = 1 << 20


class Usage(NamedTuple):
    descriptors: int
    threads: int
    memory: int
    lines: int

    @classmethod
    def of(cls, pid: int, lines: int) -> Usage:
        return cls(
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
            threads=len(os.listdir(f"/proc/{pid}/task")),
            memory=int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            lines=lines,
        )

    def excess(self, before: Usage, *, memory: int = 16 * MIB, lines: int = 500) -> list[str]:
        """What has grown beyond what is left to chance: caches, a thread pool, a connection that just ends."""
        return [
            f"{name}: {was} before, {now} now"
            for name, was, now, more in (
                ("descriptors", before.descriptors, self.descriptors, 5),
                ("threads", before.threads, self.threads, 5),
                ("memory", before.memory, self.memory, memory),
                ("log lines", before.lines, self.lines, lines),
            )
            if now > was + more
        ]
