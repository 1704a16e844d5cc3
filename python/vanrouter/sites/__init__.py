"""
One running site: the composition root, where everything else is put together and driven.

    files ──▶ wanted ──▶ AddressTable, LinkSupervisor, accesses ──▶ Forwarding ──▶ data plane
                              ▲   what it observes                                  │
                              └──────────────── events ◀────────────────────────────┘

Nothing in this package decides anything that can be decided without a socket, a file or a clock: those decisions live in ``addresses``,
``links``, ``tokens`` and ``pki``. All state is touched from one trio task tree, by functions that do not wait, so that there are no locks.
Nothing here owns a signal or assumes the main thread, except ``process``.

    site       RunningSite: the parts, and the order in which they start and stop
    run        run_site: a directory to a running router, with lock and handover
    process    signals, logging, the exit code: what ``vanrouter run`` is
    operator   the admin methods
    wanted     resources to what is wanted (pure)
    forwarding entries to changes on a generation
"""

from vanrouter.sites.run import run_site

__all__ = ["run_site"]
