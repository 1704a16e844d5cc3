"""
Links that lead to a router that another link leads to as well: for routing they are one, which is rarely what was meant.

Refuses to see what only the other end knows: under which names it dials us twice. Links between routers of one site are left out: all of
them are told to dial each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vanrouter.conditions import Condition
from vanrouter.plane import LinkState

__all__ = ["Doubles"]


class Doubles:
    """Feed every link state in; ask for the condition of a link that we dial. ``own``: the id of this site."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._since: dict[str, float] = {}  # by router

    def handle(self, state: LinkState, *, now: float) -> None:
        is_sibling = state.router.partition("/")[0] == self._own
        if state.lanes > 0 and not is_sibling and len(state.dialled) + bool(state.accepted) > 1:
            self._since.setdefault(state.router, now)
        else:
            self._since.pop(state.router, None)

    def condition(
        self, name: str, states: Sequence[LinkState], costs: Mapping[str, int], in_force: int, *, incoming: str = ""
    ) -> Condition | None:
        """
        ``states``: of the routers that the link leads to. ``costs``: what our own links ask for. ``incoming``: how the link that the other
        end dials is called here. None: no other link leads there.
        """
        doubled = next((state for state in states if state.router in self._since), None)
        if doubled is None:
            return None
        ours = sorted(link for link in doubled.dialled if link != name)
        others = [f"link {link}" + (f" (cost {costs[link]})" if link in costs else "") for link in ours]
        if doubled.accepted:
            others.append(f"incoming link {incoming or doubled.peer_link}, which site {doubled.site_name} dials")
        text = (
            f"link {name} (cost {costs.get(name, 1)}) leads to the same router of site {doubled.site_name} as {' and '.join(others)}: "
            f"for routing they are one link, at cost {in_force}, and none of them is another way when that router is lost"
        )
        todo = f"nothing if that is meant; else delete one of them (van link delete {name}), or give this one the endpoint of another site"
        since = self._since[doubled.router]
        return Condition(type="Distinct", status="False", reason="SameRouter", message=text, since=since, next=todo)
