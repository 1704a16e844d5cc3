"""
What `van bench` is made of, apart from the way through the network (`vanrouter.sites.bench`): the target, the load, how busy both ends are,
the verdict. Standard library only, so that the target's process begins at once. No module here knows a site or a router.
"""
