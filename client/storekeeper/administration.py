"""Commands on the store as a whole, not on single objects: its namespaces, how much they hold, what became of it,
how the daemon is.

Owns what users type for these and what of the answers is shown; cli.py puts them under `storekeeper`.
"""

from __future__ import annotations

import json
import time
from typing import Any

import click

from storekeeper import wire
from storekeeper.amounts import DURATION, SIZE
from storekeeper.client import Client
from storekeeper.events import Event
from storekeeper.terminal import as_json, complain, moment, print_json, reports, user

FOLLOW_S = 1.0
"""How often `events --follow` asks."""


@click.group()
def namespace() -> None:
    """Make, remove and list namespaces."""


@namespace.command("ls")
@as_json
@click.pass_obj
@reports
def list_namespaces(client: Client, as_json: bool) -> None:
    """List the namespaces that you may read, and what you may do there."""
    found = client.namespaces()
    if as_json:
        print_json(found)
        return
    width = max(map(len, found), default=0)
    for name, told in found.items():
        may = ", ".join(told.pop("you_may"))
        settings = " ".join(f"{setting}={json.dumps(value)}" for setting, value in told.items())
        click.echo(f"{name:<{width}}  you may {may}  {settings}".rstrip())


@namespace.command()
@click.argument("name")
@click.option("--read", multiple=True, metavar="WHO", help="User, @group or * who may read. Repeatable. Default: you.")
@click.option("--write", multiple=True, metavar="WHO", help="Who may write, too. Repeatable. Default: you.")
@click.option("--manage", multiple=True, metavar="WHO", help="Who may manage it, too. Repeatable. Default: you.")
@click.option("--shared", is_flag=True, help="Who may write may evict and replace what others put, too.")
@click.option("--bytes-max", type=SIZE, help="Bytes it may hold: 4096, 64K, 10M, 2G.")
@click.option("--objects-max", type=click.IntRange(min=1), help="Objects it may hold.")
@click.option("--user-bytes-max", type=SIZE, help="Bytes each user may hold in it.")
@click.option("--user-objects-max", type=click.IntRange(min=1), help="Objects each user may hold in it.")
@click.option("--object-bytes-max", type=SIZE, help="Bytes of one object.")
@click.option("--ttl", "ttl_s", type=DURATION, help="Objects expire after so long: 90, 30s, 15m, 12h, 7d.")
@click.option("--durability", type=click.Choice(wire.DURABILITIES), help="Of what is put without saying.")
@click.option(
    "--eviction",
    type=click.Choice(["refuse", "lru", "expired-first"]),
    help="What happens when it is full. Default: refuse.",
)
@click.pass_obj
@reports
def create(client: Client, /, name: str, shared: bool, **given: Any) -> None:
    """Make the namespace NAME, which you manage."""
    settings = {
        setting: list(value) if isinstance(value, tuple) else value for setting, value in given.items() if value
    }
    if shared:
        settings["owner_only"] = False
    client.create_namespace(name, **settings)


@namespace.command()
@click.argument("name")
@click.pass_obj
@reports
def drop(client: Client, name: str) -> None:
    """Remove the namespace NAME, which must be empty."""
    client.drop_namespace(name)


@click.command()
@click.option(
    "--by", type=click.Choice(wire.USAGES), help="Show it by user, or by namespace, of all that you may read."
)
@click.option("--fresh", is_flag=True, help="See all that was done to the directory before, and look at every object.")
@as_json
@click.pass_obj
@reports
def usage(client: Client, by: str | None, fresh: bool, as_json: bool) -> None:
    """Show how many objects and bytes the namespace holds, and what it and you may hold."""
    told = client.usage(fresh=fresh, by=by)
    if as_json:
        print_json(told)
        return
    if by is None:
        click.echo(_sum(told))
    else:
        parts = {user(int(owner)) if owner.isdigit() else owner: part for owner, part in told.get("users", {}).items()}
        parts = parts or told.get("namespaces", {})
        width = max(map(len, parts), default=0)
        for name, part in sorted(parts.items(), key=lambda item: -item[1]["charged_bytes"]):
            click.echo(f"{name:<{width}}  {_sum(part)}")
    for name, bound in told.get("bounds", {}).items():
        click.echo(f"{name}: {bound['used']} of {bound['bound']}")


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until interrupted.")
@as_json
@click.pass_obj
@reports
def events(client: Client, follow: bool, as_json: bool) -> None:
    """Show which objects the daemon, or another user than their owner, has evicted or replaced.

    Of each: when, what, why, size in bytes, owner, by whom or for whose put, and which object. Of the namespace; of all
    that you may read if that is the default one.
    """
    news = client.events()
    while True:
        for name in news.missed:
            complain(f"some events of namespace {name} are not kept any more")
        for event in news.events:
            if as_json:
                print_json(event._asdict())
            else:
                click.echo(_line(event))
        if not follow:
            return
        time.sleep(FOLLOW_S)
        news = client.events(news.marks)


@click.command()
@as_json
@click.pass_obj
@reports
def status(client: Client, as_json: bool) -> None:
    """Show what the daemon says of itself."""
    told = client.status()
    if as_json:
        print_json(told)
        return
    width = max(map(len, told))
    for name, value in told.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        click.echo(f"{name:<{width}}  {shown}")


def _sum(told: dict[str, Any]) -> str:
    unsized = told["objects_not_sized"]
    more = f" in {told['objects'] - unsized} of them, the others were not looked at yet" if unsized else ""
    return f"{told['objects']} objects, {told['bytes']} bytes{more}"


def _line(event: Event) -> str:
    size = "?" if event.size is None else event.size
    owner = "?" if event.owner is None else user(event.owner)
    by = "-" if event.by is None else user(event.by)
    name = event.key if event.namespace == "default" else f"{event.namespace}/{event.key}"
    return f"{moment(event.when)} {event.what:<8} {event.why:<7} {size:>12} {owner:<8} {by:<8} {name}"
