"""
The verbs that every resource noun has: create, update, delete, status, generate. A noun names its fields; this makes the commands.

A field is one flag on ``create``, ``update`` and ``generate``. ``update`` changes only the fields that are named, and ``--unset`` gives
one its default back. ``generate`` prints what ``create`` would write, and needs no site.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from vanrouter.cli.base import ALL_OUTPUTS, BOTH, Group, Invocation, pass_invocation
from vanrouter.cli.output import dump, explain, say, table, warn
from vanrouter.cli.running import Site, condition, open_site, worst
from vanrouter.cli.values import KEY, NAME, PORT, timeout_option, wait_option
from vanrouter.errors import VanrouterError

if TYPE_CHECKING:
    from vanrouter.resources import Resource

__all__ = ["KEYS", "WEIGHTS", "Field", "Noun", "make", "named", "with_fields"]

Doc = dict[str, Any]


KEYS: Final = object()  # types of a field: routing keys in an order
WEIGHTS: Final = object()  # and routing keys with a number each


class Field(NamedTuple):
    """One field of a spec: ``key`` is its path (``expose.port``), ``flag`` its name on the command line."""

    key: str
    flag: str
    type: Any
    help: str

    @property
    def parameter(self) -> str:
        return self.flag.lstrip("-").replace("-", "_")

    @property
    def is_switch(self) -> bool:
        return self.type is bool

    def option(self) -> Callable[[Any], Any]:
        if self.is_switch:
            return click.option(f"{self.flag}/--no-{self.flag.removeprefix('--')}", self.parameter, default=None, help=self.help)
        if self.type is dict:
            return click.option(self.flag, self.parameter, metavar="KEY=VALUE", multiple=True, help=self.help)
        if self.type is KEYS:
            return click.option(self.flag, self.parameter, type=KEY, metavar="KEY", multiple=True, help=self.help)
        if self.type is WEIGHTS:
            return click.option(self.flag, self.parameter, metavar="KEY=NUMBER", multiple=True, help=self.help)
        return click.option(self.flag, self.parameter, type=self.type, help=self.help)


class Noun(NamedTuple):
    kind: str
    help: str
    fields: Sequence[Field]
    wide: Sequence[str]
    more: Callable[[Doc], list[object]]  # the cells of the wide columns
    defaults: Callable[[str, Doc], Doc]  # fields that create fills in, from the name and what was named
    listens: bool = False  # at the service address of its site, unless a host is named
    listed: str = ""  # where the status document has them; default: the plural
    keys: Callable[[Doc], str] = lambda found: str(found["routingKey"])  # how its routing keys stand in a table
    settle: Callable[[Doc], Doc] = lambda fields: fields  # what an update sets besides what is named
    has_workload: bool = False  # its pods may be named by their workload

    @property
    def word(self) -> str:
        return self.kind.lower()

    @property
    def plural(self) -> str:
        return f"{self.word}s"

    @property
    def list_name(self) -> str:
        return self.listed or self.plural


def make(noun: Noun) -> Group:
    """The group of a noun, with its verbs."""
    group = Group(noun.word, help=noun.help)
    for add in (_add_create, _add_update, _add_delete, _add_status, _add_generate):
        add(group, noun)
    return group


def with_fields(fields: Sequence[Field], *, skip: Sequence[str] = ()) -> Callable[[Any], Any]:
    """A flag for each field."""

    def decorate(function: Any) -> Any:
        for field in reversed(fields):
            if field.key not in skip:
                function = field.option()(function)
        return function

    return decorate


def named(fields: Sequence[Field], values: Doc) -> Doc:
    """The fields that the command line named, by key."""
    found: Doc = {}
    for field in fields:
        value = values.get(field.parameter)
        if field.type is dict:
            value = dict(_pair(field, item) for item in value) if value else None
        elif field.type is KEYS:
            value = list(value) if value else None
        elif field.type is WEIGHTS:
            value = _weights(field, value) if value else None
        if value is not None:
            found[field.key] = value
    return found


def _complete(noun: Noun, name: str, port: int, values: Doc, *, on_kubernetes: bool) -> Doc:
    """As ``create`` and ``generate`` fill it in. In a namespace a listener's host is a Service's name; no server is in a router's pod."""
    given = named(noun.fields, values)
    spec = noun.defaults(name, given) | {"port": port} | given
    if on_kubernetes and "host" in spec and "host" not in given:
        if not noun.listens:
            raise click.UsageError("the server is not named: --selector LABELS, or --host HOST that the router's pods reach")
        spec["host"] = name
    return spec


def _weights(field: Field, items: Sequence[str]) -> dict[str, int]:
    weights: dict[str, int] = {}
    for item in items:
        key, _, number = item.rpartition("=")
        if not key or not number.isdecimal():
            raise click.UsageError(f"{field.flag}: {item!r} is not KEY=NUMBER")
        if key in weights:
            raise click.UsageError(f"{field.flag}: {key!r} is given twice")
        weights[key] = int(number)
    return weights


def _pair(field: Field, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.UsageError(f"{field.flag}: {text!r} is not KEY=VALUE")
    return key, value


def _names(noun: Noun) -> Any:
    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        from vanrouter.cli.running import element_names  # only while completing

        return element_names(ctx, noun.list_name, incomplete)

    return complete


def _in_force(noun: Noun, name: str, spec: Doc) -> Callable[[Doc], str]:
    """Whether the running site has this spec in force, or says why not."""

    def check(status: Doc) -> str:
        found = next((x for x in status[noun.list_name] if x["name"] == name), None)
        if found is None:
            return "the site has not taken it up"
        if found["spec"] != spec:
            return "the old settings are still in force"
        for kind in ("Configured", "Listening"):
            said = condition(found, kind)
            if said["status"] == "False":
                raise VanrouterError(f"{noun.word} {name}: {said['message']}", hint=said["next"])
        return "its port has not been tried yet" if condition(found, "Listening")["reason"] == "Pending" else ""

    return check


def _spec_of(resource: Any) -> Doc:
    from vanrouter.resources import to_dict

    spec: Doc = to_dict(resource)["spec"]
    return spec


def _warn_of(site: Site, resource: Resource) -> None:
    """In a namespace: what it would never do is refused before anything is written, what it does not do yet is said."""
    if not site.invocation.on_kubernetes:
        return
    from vanrouter.cli.fitting import check_fit
    from vanrouter.cli.namespace import NamespaceSite

    assert isinstance(site, NamespaceSite)
    for said, todo in check_fit(site, resource):
        warn(said, todo)


def _add_create(group: Group, noun: Noun) -> None:
    @group.command("create", platforms=BOTH, outputs=("json", "yaml", "name"), help=f"Create a {noun.word}: its name and its port.")
    @click.argument("name", type=NAME)
    @click.argument("port", type=PORT)
    @with_fields(noun.fields, skip=("port",))
    @_workload_option(noun)
    @click.option("--dry-run", is_flag=True, help="Print what would be written; change nothing.")
    @wait_option("it is in force")
    @timeout_option(30, "How long to wait.")
    @pass_invocation
    def create(invocation: Invocation, /, name: str, port: int, dry_run: bool, wait: bool, timeout: float, **values: Any) -> None:
        from vanrouter.cli import wanted

        workload, annotations = values.pop("workload", None), {}
        if workload and not invocation.on_kubernetes:
            raise click.UsageError("--workload is for Kubernetes; on a host say --host")
        site = open_site(invocation, timeout)
        site.require()
        if workload:
            annotations = _choose_pods(site, workload, port, values)
        spec = _complete(noun, name, port, values, on_kubernetes=invocation.on_kubernetes)
        if noun.listens and values["host"] is None and not invocation.on_kubernetes:
            spec["host"] = wanted.service_address(site)
        _warn_of(site, wanted.build(noun.kind, name, spec))
        change = wanted.create(site, noun.kind, name, spec, dry_run=dry_run, annotations=annotations)
        wanted.finish(site, change, wait=wait, check=_in_force(noun, name, _spec_of(change.resource)))


def _workload_option(noun: Noun) -> Callable[[Any], Any]:
    text = "Kubernetes: pods of deployment/NAME, statefulset/NAME, daemonset/NAME or service/NAME; instead of --selector."
    return click.option("--workload", metavar="KIND/NAME", help=text) if noun.has_workload else lambda function: function


def _choose_pods(site: Any, workload: str, port: int, values: Doc) -> dict[str, str]:
    """The workload's selector among the values; what marks its connector."""
    from vanrouter.cli.ports import Wanted
    from vanrouter.cli.workloads import find_target, spelled
    from vanrouter.controller.view import TARGET

    if spelled((workload,))[0] in ("", "pods", "host"):
        raise click.UsageError(f"--workload {workload}: write it like deployment/hello; pods are named with --selector, a host with --host")
    if values.get("selector") or values.get("host"):
        raise click.UsageError("say one of --workload, --selector and --host")
    found = find_target(site, (workload,), [Wanted(port, str(port))], include_not_ready=bool(values.get("include_not_ready_pods")))
    values["selector"] = found.where["selector"]
    return {TARGET: found.words}


def _add_update(group: Group, noun: Noun) -> None:
    @group.command(
        "update", platforms=BOTH, outputs=("json", "yaml", "name"), help=f"Change what is named of a {noun.word}; all else stays."
    )
    @click.argument("name", type=NAME, shell_complete=_names(noun))
    @with_fields(noun.fields)
    @click.option("--unset", multiple=True, metavar="FLAG", help="Give this field its default back: --unset tls-credentials")
    @click.option("--dry-run", is_flag=True, help="Print what would be written; change nothing.")
    @wait_option("the change is in force")
    @timeout_option(30, "How long to wait.")
    @pass_invocation
    def update(
        invocation: Invocation, /, name: str, unset: tuple[str, ...], dry_run: bool, wait: bool, timeout: float, **values: Any
    ) -> None:
        from vanrouter.cli import wanted

        by_flag = {field.flag.removeprefix("--"): field.key for field in noun.fields}
        fields = named(noun.fields, values)
        for flag in unset:
            if flag.removeprefix("--") not in by_flag:
                raise click.UsageError(f"--unset {flag}: not a field; fields are: {', '.join(by_flag)}")
            fields[by_flag[flag.removeprefix("--")]] = None
        if not fields:
            raise click.UsageError(f"nothing to change is named; name it: {', '.join(field.flag for field in noun.fields)}")
        site = open_site(invocation, timeout)
        _warn_of(site, wanted.update(site, noun.kind, name, noun.settle(fields), dry_run=True).resource)
        change = wanted.update(site, noun.kind, name, noun.settle(fields), dry_run=dry_run)
        wanted.finish(site, change, wait=wait, check=_in_force(noun, name, _spec_of(change.resource)))


def _add_delete(group: Group, noun: Noun) -> None:
    @group.command("delete", platforms=BOTH, outputs=("name",), help=f"Delete a {noun.word}, or all of them.")
    @click.argument("name", required=False, shell_complete=_names(noun))
    @click.option("--all", "everything", is_flag=True, help=f"All {noun.plural} of this site.")
    @click.option("--dry-run", is_flag=True, help="Say what would be deleted; change nothing.")
    @wait_option("it is gone")
    @timeout_option(30, "How long to wait.")
    @pass_invocation
    def delete(invocation: Invocation, name: str | None, everything: bool, dry_run: bool, wait: bool, timeout: float) -> None:
        from vanrouter.cli import wanted

        if (name is None) == (not everything):
            raise click.UsageError(f"name one {noun.word}, or say --all")
        site = open_site(invocation, timeout)
        doomed = [r.name for r in wanted.read_all(site, noun.kind) if not wanted.is_made(r)] if name is None else [name]
        changes = [wanted.delete(site, noun.kind, victim, dry_run=dry_run) for victim in doomed]
        if changes:
            effects = [wanted.Effect(change, wanted.is_gone(noun.list_name, change.resource.name)) for change in changes]
            wanted.finish_all(site, effects, wait=wait)
        else:
            say(f"No {noun.plural}; nothing to delete.")


def _add_status(group: Group, noun: Noun) -> None:
    @group.command("status", platforms=BOTH, outputs=ALL_OUTPUTS, help=f"Show the {noun.plural} of this site, or one of them.")
    @click.argument("name", required=False, shell_complete=_names(noun))
    @timeout_option(10)
    @pass_invocation
    def status(invocation: Invocation, name: str | None, timeout: float) -> None:
        elements = sorted(open_site(invocation, timeout).status()[noun.list_name], key=lambda x: x["name"])
        if name is not None:
            known = ", ".join(x["name"] for x in elements) or "none"
            elements = [x for x in elements if x["name"] == name]
            if not elements:
                raise VanrouterError(
                    f"there is no {noun.word} {name!r}; {noun.plural} of this site: {known}",
                    hint=f"see them: {invocation.van(f'{noun.word} status')}",
                )
        if invocation.output == "name":
            for found in elements:
                say(f"{noun.word}/{found['name']}")
        elif invocation.output in ("json", "yaml"):
            dump(elements[0] if name is not None else elements, invocation.output)
        elif not elements:
            say(f"No {noun.plural}.")
        else:
            wide = invocation.output == "wide"
            columns = ["name", "routing keys" if noun.listed else "routing key", "host", "port", "matched", "state"] + (
                list(noun.wide) if wide else []
            )
            table(columns, [_row(noun, found, wide=wide) for found in elements])
            explain((f"{noun.word} {found['name']}", worst(found)) for found in elements)


def _row(noun: Noun, found: Doc, *, wide: bool) -> list[object]:
    reason = worst(found)
    row: list[object] = [found["name"], noun.keys(found), found.get("host"), found.get("port"), bool(found["matched"])]
    row.append(reason["reason"] if reason else "ready")
    return row + noun.more(found) if wide else row


def _add_generate(group: Group, noun: Noun) -> None:
    @group.command(
        "generate", platforms=BOTH, outputs=("json", "yaml"), help=f"Print a {noun.word} as YAML, for a file or for git; needs no site."
    )
    @click.argument("name", type=NAME)
    @click.argument("port", type=PORT)
    @with_fields(noun.fields, skip=("port",))
    @pass_invocation
    def generate(invocation: Invocation, /, name: str, port: int, **values: Any) -> None:
        from vanrouter.cli import wanted
        from vanrouter.resources import to_dict

        resource = wanted.build(noun.kind, name, _complete(noun, name, port, values, on_kubernetes=invocation.on_kubernetes))
        dump(to_dict(resource), invocation.output or "yaml")
