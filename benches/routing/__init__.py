"""
Routing at scale: real engines on one virtual clock, every message encoded, decoded and (as a stand-in) signed.

`python -m benches.routing` builds networks of a given number of interiors, changes one thing, and counts what that cost: messages, bytes,
CPU, routers looked at, and how long until every router had it (virtual time, 5 ms per link). Nothing here decides whether routing works.
"""
