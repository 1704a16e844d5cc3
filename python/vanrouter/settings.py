"""
Environment and defaults: where sites live, which platform is meant, and how long things may take. Reads the environment; touches no file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from vanrouter.errors import ConfigError
from vanrouter.model import parse_name

__all__ = ["DEFAULT_SITE", "PLATFORMS", "Timing", "home", "platform", "site_directory"]

DEFAULT_SITE: Final = "default"
PLATFORMS: Final = ("kubernetes", "linux")


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long things take in a running site, in seconds. A test gives shorter ones."""

    poll_resources: float = 1.0  # a change of a file is noticed within this
    grace: float = 0.0  # SIGTERM: others are preferred, what comes is served. On hosts nobody looks at readiness: none
    drain: float = 60.0  # then live streams have so long to end
    resolve_again: float = 30.0  # a name is looked up again so often, and after each failed dial
    leaf_lifetime: float = 90 * 86_400.0  # of certificates that this site issues, its own included
    renew_retry: float = 60.0  # a renewal that failed is tried again after this, jittered
    resolver_timeout: float = 5.0
    handover: float = 5.0  # a predecessor answers within this, or the start is refused


def home(environ: Mapping[str, str] | None = None) -> Path:
    """``VAN_HOME``, else ``$XDG_DATA_HOME/vanrouter``, else ``~/.local/share/vanrouter``."""
    env = os.environ if environ is None else environ
    if env.get("VAN_HOME"):
        return Path(env["VAN_HOME"]).expanduser().absolute()
    data = env.get("XDG_DATA_HOME", "")
    base = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    return base / "vanrouter"


def site_directory(name: str = DEFAULT_SITE, environ: Mapping[str, str] | None = None) -> Path:
    """The directory of the site that ``-n name`` means. It need not exist."""
    return home(environ) / parse_name(name, "the name given with -n")


def platform(given: str | None = None, environ: Mapping[str, str] | None = None) -> str:
    """What ``-p`` says, else ``VAN_PLATFORM``, else kubernetes."""
    env = os.environ if environ is None else environ
    chosen = given or env.get("VAN_PLATFORM") or "kubernetes"
    if chosen not in PLATFORMS:
        where = "-p" if given else "VAN_PLATFORM"
        raise ConfigError(f"{where}: {chosen!r} is not a platform", hint=f"one of {', '.join(PLATFORMS)}")
    return chosen
