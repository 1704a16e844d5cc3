"""
The two entry points: ``van`` for people, ``vanrouter`` for containers.

The tables below are all that help needs; a command's file is imported when the command is called.
"""

from __future__ import annotations

from vanrouter.cli import interrupts  # before all that takes time to load

# isort: split

import click

from vanrouter.cli.base import Root

__all__ = ["van", "vanrouter"]

EVERYDAY = {
    "init": ("site", "init", "Create a site and start it."),
    "status": ("site", "status", "Say how the site is, what is wrong and what to do."),
    "token": ("token", "token", "Let another site link to this one."),
    "link": ("link", "link", "Link this site to others."),
    "expose": ("expose", "expose", "Offer a local service to the network."),
    "unexpose": ("expose", "unexpose", "Take back what was exposed."),
    "service": ("service", "service", "See the services of the network."),
    "network": ("network", "network", "See the sites of the network."),
    "trace": ("trace", "trace", "Show where the next connection to a routing key would go."),
    "simulate": ("simulate", "simulate", "Say what would be lost if sites or links were down."),
    "bench": ("bench", "bench", "Measure what this site and another one carry between them."),
    "doctor": ("doctor", "doctor", "Look at everything the site needs and say what is wrong and what to do."),
    "hosts": ("hosts", "hosts", "Print lines for /etc/hosts, one for each service."),
    "update": ("site", "update", "Change settings of the site; only those that are named."),
    "apply": ("apply", "apply", "Create or change resources as files say; of vanrouter.io/v1alpha1 or of skupper.io/v2alpha1."),
    "manifest": ("site", "manifest", "Print every object that init or update would apply; change nothing."),
    "delete": ("site", "delete", "Stop the site and remove everything it kept."),
    "demo": ("demo", "demo", "Two sites and a service on this machine, in seconds."),
}
RESOURCES = {
    "site": ("site", "site", "The site as a resource."),
    "listener": ("listener", "listener", "Local ports where clients connect."),
    "multikeylistener": ("multikeylistener", "multikeylistener", "Local ports that stand for several routing keys."),
    "connector": ("connector", "connector", "Local servers that the network may reach."),
}
OTHER = {
    "completion": ("completion", "completion", "Print the completion script of a shell."),
    "version": ("versions", "version", "Print the versions of this program and of what runs at the site, and say when they differ."),
}
HIDDEN = {
    "run": ("run", "run", "Run a site in the foreground."),
}
CONTROLLER = {
    "controller": ("controller", "controller", "Run the controller of a site in a Kubernetes namespace."),
    "version": ("version", "version", "Print the version."),
}

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

van = Root(
    "van",
    sections={"Everyday": EVERYDAY, "Resources": RESOURCES, "Other": OTHER, "": HIDDEN},
    context_settings=_SETTINGS,
    help="""Virtual Application Networks: services across clusters, hosts and clouds, as if they were local.

    \b
    Start:  van -p linux init --site-name north --link-access HOST:7001
            van -p linux token create north.yaml            (take the file to the other site)
            van -p linux link create north.yaml             (there)
            van -p linux expose host 127.0.0.1:8080 --port 9090 --address hello
    Try it: van demo
    """,
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 not ready, 4 timed out.",
)

vanrouter = Root(
    "vanrouter",
    sections={"Commands": {**HIDDEN, **CONTROLLER}},
    context_settings=_SETTINGS,
    help="The router as a process: what containers and service managers start.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 not ready, 4 timed out.",
)


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from vanrouter import __version__

        click.echo(__version__)
        ctx.exit()


for _root in (van, vanrouter):
    _root.params.append(
        click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version.")
    )

interrupts.loaded()
