"""What all tests share: property tests that say nothing about time, which is the machine's and not the product's."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("vanrouter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if "CI" not in os.environ:  # there hypothesis has its own: the same, and the same examples each time
    settings.load_profile("vanrouter")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured (record_property "figure"), also when they passed."""
    reports = [
        report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind) if getattr(report, "when", "") == "call"
    ]
    lines = [str(value) for report in reports for name, value in report.user_properties if name == "figure"]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.line(line)
