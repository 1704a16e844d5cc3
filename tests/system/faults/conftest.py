"""What the tests of faults and load share: a seed, and networks of real routers in namespaces."""

from __future__ import annotations

import os
import random

import pytest


@pytest.fixture
def seed() -> int:
    """Printed with a failure; VAN_TEST_SEED sets it."""
    found = int(os.environ.get("VAN_TEST_SEED", "") or random.randrange(1 << 30))
    print(f"VAN_TEST_SEED={found}")
    return found
