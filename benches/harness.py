"""
What the tests of faults and load have and a benchmark can use: relays that delay, networks of real sites, faults and their outages.

They stand in tests/system/faults, import each other by bare names, and are put on the path here; nothing else of `benches` imports them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

_TESTS: Final = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(_TESTS / part) for part in ("system/faults", "system", "")]

from outages import Outage  # noqa: E402
from programs import Relay  # noqa: E402
from test_faults_routers import LOSSES, disturbed, kill_and_restart  # noqa: E402
from vans import DIAMOND, Network  # noqa: E402
from wires import why_not  # noqa: E402

__all__ = ["DIAMOND", "LOSSES", "Network", "Outage", "Relay", "disturbed", "kill_and_restart", "why_not"]
