"""
The site that ``-n`` names, as a command sees it: its resources, what the running site answers, and waiting for an effect.

``open_site`` gives the one for the platform: a ``HostSite`` with its directory, or a ``NamespaceSite`` (``namespace``). Everything here has
a deadline: the one of the command. A site that does not run is told apart from one that does not exist, and both from one that does not
answer. Nothing here changes a site.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import click

from vanrouter.cli.base import Invocation
from vanrouter.cli.values import spell_duration
from vanrouter.errors import ConfigError, DeadlineExceeded, NotReady, VanrouterError

if TYPE_CHECKING:
    from vanrouter.resources import Resource
    from vanrouter.stores.resources import Loaded

__all__ = ["HostSite", "Resources", "Site", "commands_here", "condition", "element_names", "named_here", "open_site", "site_names", "worst"]

_QUIET: Final = 1.5  # seconds that a wait may take before it says on a terminal what it waits for
_FIRST_POLL: Final = 0.05
_SLOWEST_POLL: Final = 0.5

Document = Mapping[str, Any]


def site_names() -> list[str]:
    """Names of the sites of this user."""
    from vanrouter import settings

    try:
        return sorted(entry.name for entry in settings.home().iterdir() if (entry / "resources").is_dir())
    except OSError:
        return []


class Resources(Protocol):
    """Where the resources of a site are kept: files, or objects of a namespace."""

    def get(self, kind: str, name: str) -> Resource | None: ...
    def of_kind(self, kind: str) -> list[Resource]: ...
    def put(self, resource: Resource) -> object: ...
    def delete(self, kind: str, name: str) -> bool: ...
    def load(self) -> Loaded: ...


class Site:
    """One site, for the length of one command."""

    settles = 0.0  # seconds in which what a change brings comes one by one

    def __init__(self, invocation: Invocation, timeout: float) -> None:
        self.invocation = invocation
        self.name = invocation.site_name
        self.timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._step: float | None = None
        self.patience = timeout  # how long a person was made to wait, when it is over

    def hurry(self, seconds: float | None) -> None:
        """One step of the command has no more than so many seconds; None: again what the command has."""
        self._step = None if seconds is None else min(self._deadline, time.monotonic() + seconds)
        self.patience = self.timeout if seconds is None else min(seconds, self.timeout)

    @property
    def left(self) -> float:
        """Seconds until the command's deadline, never below a little."""
        return max(0.05, (self._step or self._deadline) - time.monotonic())

    @property
    def expired(self) -> bool:
        return time.monotonic() >= (self._step or self._deadline)

    @property
    def resources(self) -> Resources:
        raise NotImplementedError

    def require(self) -> None:
        """Raise ConfigError unless there is such a site."""
        raise NotImplementedError

    def call(self, method: str, **params: Any) -> Any:
        """Ask the running site. Raises ConfigError (no such site), NotReady (not running), DeadlineExceeded, or what the site answers."""
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.call("status")
        return answer

    def reconcile(self) -> list[dict[str, str]]:
        """Have the running site apply the resources now. Returns the problems that it found."""
        raise NotImplementedError

    def is_running(self) -> bool:
        raise NotImplementedError

    def redeem(self, token: str, *, name: str | None, cost: int | None) -> str:
        """Make a link of a token. Returns its name."""
        raise NotImplementedError

    def delete_link(self, name: str) -> None:
        """One that this site dials, with its credential."""
        raise NotImplementedError

    def wait(self, what: str, check: Callable[[dict[str, Any]], str], *, hint: str = "") -> dict[str, Any]:
        """Poll the status until ``check`` returns "" (it returns what is still missing). Raises DeadlineExceeded with the last answer."""
        started, pause, shown, missing = time.monotonic(), _FIRST_POLL, "", ""
        while True:
            status = self.status()
            missing = check(status)
            if not missing:
                return status
            if self.expired:
                raise DeadlineExceeded(
                    f"{what}: not within {spell_duration(self.timeout)}; {missing}",
                    hint=hint or f"see {self.invocation.van('status')}; a longer time: --timeout",
                )
            if missing != shown and time.monotonic() - started > _QUIET and sys.stderr.isatty():
                click.echo(f"Waiting for {what}: {missing}", err=True)
                shown = missing
            time.sleep(min(pause, self.left))
            pause = min(pause * 1.5, _SLOWEST_POLL)


def open_site(invocation: Invocation, timeout: float) -> Site:
    """The site that the command is about."""
    if not invocation.on_kubernetes:
        return HostSite(invocation, timeout)
    from vanrouter.cli.namespace import NamespaceSite

    return NamespaceSite(invocation, timeout)


class HostSite(Site):
    """A directory of this user, and the router that runs on it."""

    def __init__(self, invocation: Invocation, timeout: float) -> None:
        from vanrouter import settings

        super().__init__(invocation, timeout)
        self.directory: Path = settings.site_directory(self.name)

    @property
    def resources(self) -> Resources:
        from vanrouter.stores import SiteHome

        return SiteHome(self.directory).resources

    @property
    def log(self) -> Path:
        return self.directory / "run" / "router.log"

    def exists(self) -> bool:
        return (self.directory / "resources").is_dir()

    def require(self) -> None:
        if self.exists():
            return
        others = [name for name in site_names() if name != self.name]
        known = f"; there is: {', '.join(others)}" if others else ""
        raise ConfigError(
            f"there is no site {self.name!r} in {self.directory.parent}{known}",
            hint=f"create it: {self.invocation.van('init --site-name NAME')}" + ("   or name another one with -n" if others else ""),
        )

    def call(self, method: str, **params: Any) -> Any:
        from vanrouter.admin.client import NotRunning, call

        self.require()
        try:
            return named_here(call(self.directory, method, params, timeout=self.left), self.invocation)
        except NotRunning as error:
            raise NotReady(str(error), hint=f"start it: {self.invocation.van('init')}   or see why it ended: {self.log}") from error
        except VanrouterError as error:
            error.hint = commands_here(error.hint, self.invocation)
            raise

    def reconcile(self) -> list[dict[str, str]]:
        answer = self.call("reconcile")
        problems: list[dict[str, str]] = answer.get("problems", [])
        return problems

    def is_running(self) -> bool:
        try:
            self.call("ping")
        except (NotReady, ConfigError):
            return False
        return True

    def redeem(self, token: str, *, name: str | None, cost: int | None) -> str:
        given = {"name": name, "cost": cost}
        return str(self.call("token.redeem", token=token, **{key: value for key, value in given.items() if value})["link"])

    def delete_link(self, name: str) -> None:
        self.call("link.delete", name=name)


# A router does not know how its user calls it: in its hints ``van WORDS`` is for this site, unless they say that it is to be done elsewhere
# (``there: van WORDS``, ``van WORDS there``).
_HERE: Final = re.compile(r"(?<!there: )\bvan (?=(?:link|listener|network|service|simulate|site|status|update)\b)(?!\w+(?: \w+)? there\b)")


def commands_here(text: str, invocation: Invocation) -> str:
    """The commands in a hint as they can be pasted: with the site that ``-n`` named."""
    return _HERE.sub(lambda _: invocation.van(""), text) if "van " in text else text


def named_here(answer: Any, invocation: Invocation) -> Any:
    """An answer of the site, with the commands in all its hints as they can be pasted."""
    if isinstance(answer, dict):
        for key, value in answer.items():
            if key in ("next", "hint") and isinstance(value, str):
                answer[key] = commands_here(value, invocation)
            elif isinstance(value, dict | list):
                named_here(value, invocation)
    elif isinstance(answer, list):
        for item in answer:
            if isinstance(item, dict | list):
                named_here(item, invocation)
    return answer


def condition(element: Document, kind: str) -> Document:
    """One condition of an element of the status document; unknown when the site did not say."""
    for found in element.get("conditions", ()):
        if found["type"] == kind:
            return found  # type: ignore[no-any-return]
    return {"type": kind, "status": "Unknown", "reason": "", "message": "the site has not said yet", "since": "", "next": ""}


def worst(element: Document) -> Document | None:
    """The condition to tell a person about: the first that is not True, else none. ``Ready`` sums up and comes last."""
    conditions = sorted(element.get("conditions", ()), key=lambda c: c["type"] == "Ready")
    return next((c for c in conditions if c["status"] != "True"), None)


def element_names(ctx: click.Context, kind: str, incomplete: str) -> list[str]:
    """Names for completion; nothing, quietly and soon, when the site does not answer."""
    try:
        elements = open_site(ctx.find_object(Invocation) or Invocation(), 1.0).status()[kind]
    except (VanrouterError, OSError):
        return []
    return [name for element in elements if (name := str(element["name"])).startswith(incomplete)]
