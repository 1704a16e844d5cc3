"""What all tests share: property tests that say nothing about time, which is the machine's and not the product's."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("vanrouter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if "CI" not in os.environ:  # there hypothesis has its own: the same, and the same examples each time
    settings.load_profile("vanrouter")
