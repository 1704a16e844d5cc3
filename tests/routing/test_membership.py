"""Who belongs to the network, and how many one site may bring in."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vanrouter.routing.membership import Membership


def test_what_is_linked_to_us_belongs_to_us_while_the_link_is_there() -> None:
    membership = Membership("us")
    membership.link_up("them")
    assert "them" in membership
    membership.link_down("them")
    assert "them" not in membership


def test_a_chain_of_admissions_joins_from_either_end() -> None:
    # founder ▷ us, founder ▷ other ▷ third
    membership = Membership("us", ["founder"])
    assert membership.admit("third", [("other", "third")])[0] == "NotJoined"
    assert membership.admit("founder", []) == ("", "")
    assert membership.admit("other", [("founder", "other")]) == ("", "")
    assert membership.admit("third", [("other", "third")]) == ("", "")


def test_a_chain_that_is_carried_along_joins_without_those_in_between() -> None:
    membership = Membership("us")
    assert membership.admit("third", [("other", "third"), ("us", "other")]) == ("", "")
    assert "other" not in membership


def test_who_admitted_a_member_is_a_member() -> None:
    membership = Membership("us")
    membership.admit("bridge", [("us", "bridge"), ("their founder", "bridge")])
    assert membership.admit("their founder", []) == ("", "")


def test_strangers_who_admit_each_other_are_strangers() -> None:
    membership = Membership("us")
    assert membership.admit("x", [("y", "x"), ("x", "y"), ("y", "y")])[0] == "NotJoined"


def test_one_site_brings_in_so_many_and_those_that_they_bring_in_count() -> None:
    membership = Membership("us", max_per_admitter=3)
    membership.admit("liar", [("us", "liar")])
    assert membership.admit("p1", [("liar", "p1")]) == ("", "")
    assert membership.admit("p2", [("p1", "p2")]) == ("", "")
    assert membership.admit("p3", [("p2", "p3")]) == ("", "")
    assert membership.admit("p4", [("p3", "p4")])[0] == "TooManySites"
    assert membership.admit("p5", [("liar", "p5")])[0] == "TooManySites"
    assert membership.admit("honest", [("us", "honest")]) == ("", "")


def test_there_is_room_again_when_one_of_them_is_gone() -> None:
    membership = Membership("us", max_per_admitter=1)
    membership.admit("a", [("us", "a")])
    membership.router_added("a")
    membership.admit("b", [("a", "b")])
    membership.router_added("b")
    assert membership.admit("c", [("a", "c")])[0] == "TooManySites"
    membership.router_removed("b")
    assert membership.admit("c", [("a", "c")]) == ("", "")


def test_who_admitted_us_may_have_brought_in_everybody() -> None:
    membership = Membership("us", ["founder"], max_per_admitter=2)
    membership.admit("founder", [("first", "founder")])
    for n in range(10):
        assert membership.admit(f"s{n}", [("founder", f"s{n}")]) == ("", "")
    assert membership.admit("first", []) == ("", ""), "it admitted the founder"
    for n in range(10):
        assert membership.admit(f"t{n}", [("first", f"t{n}")]) == ("", "")


def test_whoever_others_came_in_through_stays_while_they_do() -> None:
    membership = Membership("us")
    membership.admit("a", [("us", "a")])
    membership.router_added("a")
    membership.admit("b", [("a", "b")])
    membership.router_added("b")
    membership.router_removed("a")
    assert "a" in membership
    membership.router_removed("b")
    assert "a" not in membership
    assert "b" not in membership


def test_who_gets_a_link_of_its_own_no_longer_counts_for_its_sponsor_nor_do_those_behind_it() -> None:
    # us ▷ a ▷ b ▷ c, and then b is linked to us
    membership = Membership("us", max_per_admitter=2)
    membership.admit("a", [("us", "a")])
    membership.router_added("a")
    membership.admit("b", [("a", "b")])
    membership.admit("c", [("b", "c")])
    assert membership.admit("d", [("a", "d")])[0] == "TooManySites"
    membership.link_up("b")
    assert membership.admit("d", [("a", "d")]) == ("", "")
    assert membership.admit("e", [("a", "e")]) == ("", "")
    assert membership.admit("f", [("a", "f")])[0] == "TooManySites"


def test_a_sponsor_that_nothing_holds_any_more_is_forgotten() -> None:
    membership = Membership("us")
    membership.admit("a", [("us", "a")])
    membership.admit("b", [("a", "b")])
    membership.link_up("b")
    assert "a" not in membership


SITES = [f"s{n}" for n in range(8)]


class Members(RuleBasedStateMachine):
    """Whatever comes and goes, counts add up, and what is gone leaves nothing behind."""

    def __init__(self) -> None:
        super().__init__()
        self.membership = Membership("us", max_per_admitter=4)
        self.routers: list[str] = []
        self.links: list[str] = []

    @rule(site=st.sampled_from(SITES), pairs=st.lists(st.tuples(st.sampled_from(["us", *SITES]), st.sampled_from(SITES)), max_size=3))
    def advertise(self, site: str, pairs: list[tuple[str, str]]) -> None:
        if not self.membership.admit(site, pairs)[0]:
            self.membership.router_added(site)
            self.routers.append(site)

    @rule(site=st.sampled_from(SITES))
    def link(self, site: str) -> None:
        self.membership.link_up(site)
        self.links.append(site)

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        site = data.draw(st.sampled_from(self.links))
        self.links.remove(site)
        self.membership.link_down(site)

    @precondition(lambda self: self.routers)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        site = data.draw(st.sampled_from(self.routers))
        self.routers.remove(site)
        self.membership.router_removed(site)

    @invariant()
    def counts_add_up(self) -> None:
        members = self.membership._members
        under = dict.fromkeys(members, 0)
        for site in members:
            sponsor = members[site].sponsor
            while sponsor:
                under[sponsor] += 1
                sponsor = members[sponsor].sponsor
        assert {site: member.under for site, member in members.items()} == under
        assert all(count <= 4 or site == "us" for site, count in under.items())

    @invariant()
    def who_has_routers_or_links_is_in_and_who_holds_nothing_is_not(self) -> None:
        members = self.membership._members
        assert {*self.routers, *self.links, "us"} <= members.keys()
        assert all(m.records or m.under or m.linked for m in members.values())
        if len(members) == 1:
            assert not self.membership._vouched


Members.TestCase.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
TestMembers = Members.TestCase
