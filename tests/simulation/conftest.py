"""The benchmarks' networks are tested here: `benches` lies beside `tests`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
