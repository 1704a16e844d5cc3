"""
A free port for a test that must know its number before something binds it.

It lies below the range from which the kernel takes ports for connections and for port 0, so that nobody has it by accident in the meantime,
and processes of one test run (pytest -n) draw from different ones.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import socket
from typing import Final

_FIRST: Final = 10_000
_PARTS: Final = 8
_EACH: Final = 2_700  # up to 31,600; the kernel's begin at 32,768

_part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PARTS
_start = random.randrange(_EACH)
_numbers = (_FIRST + _part * _EACH + (_start + n) % _EACH for n in itertools.count())


def free_port() -> int:
    """A port that is free on every address of this machine now, and was not given out before."""
    for port in _numbers:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("0.0.0.0", port))
            return port
    raise AssertionError
