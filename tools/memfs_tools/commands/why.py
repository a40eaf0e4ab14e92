"""`memfs why`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from memfs.client.placement import read as read_placement
from memfs.sizes import format_duration, format_size
from memfs_tools.arguments import AS_JSON, GivenPath
from memfs_tools.commands.snapshot.options import show_instant
from memfs_tools.terminal import tell, tell_json

if TYPE_CHECKING:
    from pathlib import Path

    from memfs.client.placement import Placement


@click.command()
@click.argument("path", type=GivenPath())
@AS_JSON
def why(path: Path, as_json: bool) -> None:
    """Tell where a file is, and the decision that brought it there.

    \b
    memfs why /mnt/data/model.safetensors
    memfs why /mnt/data/.memfs/snapshots/monday/report.txt    which bytes these are, until when kept
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    placement = read_placement(path)
    if as_json:
        tell_json(placement._asdict(), indent=None)
        return
    lines = _past_lines if "snapshot" in placement.why else _lines
    for line in lines(placement):
        tell(line)


def _past_lines(placement: Placement) -> list[str]:
    why = placement.why
    lines = [f"snapshot {why['snapshot']}, of {show_instant(why['time_ns'])}"]
    if placement.state:
        lines += [f"tier     {placement.tier}", f"state    {placement.state}"]
    lines.append(f"why      {why['detail']}")
    if len(shown := why.get("snapshots", ())) > 1:
        lines.append(
            f"         also in {', '.join(each for each in shown if each != why['snapshot'])}"
        )
    ends = "a rule removes it, or you do" if why["automatic"] else "you delete it"
    until_ns = why["kept_until_ns"]
    guarded = "" if until_ns is None else f"; no rule does before {show_instant(until_ns)}"
    lines.append(f"kept     until {ends}{guarded}")
    return lines


def _lines(placement: Placement) -> list[str]:
    why = placement.why
    lines = [
        f"tier     {placement.tier}",
        f"pin      {placement.pin}",
        f"state    {placement.state}",
        f"why      {why.get('rule', 'none')}: {why.get('detail', '')}",
    ]
    if "trigger" in why:
        lines.append(f"         because {why['trigger']}")
    if isinstance(decided_ns := why.get("time_ns"), int):
        age_s = max(0.0, time.time() - decided_ns / 1e9)
        moved = why.get("bytes")
        size = f", {format_size(moved)} moved" if isinstance(moved, int) and moved else ""
        lines.append(f"         {format_duration(age_s)} ago{size}")
    score = why.get("score")
    if isinstance(score, dict):
        pool = f", pool {score['pool']}" if score["pool"] else ""
        lines.append(f"score    priority {score['priority']}, {score['uses']} uses known{pool}")
    if "outlook" in why:
        lines.append(f"outlook  {why['outlook']}")
    if "names" in why:
        lines.append(f"names    {why['names']}")
    if "content" in why:
        lines.append(f"content  {why['content']}")
    if "writer" in why:
        lines.append(f"writer   {why['writer']}, what it changes is read here")
    if "hot" in why:
        lines.append(f"not hot  {why['hot']}")
    if "hot_tier" in why:
        lines.append(f"hot tier does not serve at present: {why['hot_tier']}")
    if "frozen" in why:
        lines.append(f"frozen   {why['frozen']}")
    if "ram" in why:
        lines.append(f"ram      cached and not locked: {why['ram']}")
    if "room" in why:
        lines.append(f"room     {why['room']}")
    if "unpublished" in why:
        lines.append(f"publish  not yet: {why['unpublished']}")
    source = why.get("source")
    if isinstance(source, dict):
        lines.append(f"source   {source['url']}")
        if "reason" in source:
            lines.append(f"         {source['reason']}")
        if "waits" in source:
            lines.append(f"         it is not listed again yet: {source['waits']}")
    placed = why.get("object_store")
    if isinstance(placed, dict):
        lies = f", its object is in {placed['lies']}" if "lies" in placed else ""
        reason = f": {placed['reason']}" if "reason" in placed else ""
        lines.append(f"store    belongs in {placed['belongs']}{lies}{reason}")
    store = why.get("store")
    if isinstance(store, dict):
        lines.append(f"store    fails for {format_duration(store['fails_s'])}: {store['reason']}")
    pending = why.get("pending")
    if isinstance(pending, dict):
        lines.append(f"pending  {pending['wanted']}: {pending['reason']}")
        # 0: it waits for a program and not for a time.
        if retry_ns := pending["retry_ns"]:
            wait_s = max(0.0, float(retry_ns) / 1e9 - time.time())
            # 0: nothing has failed; it is only kept for a while.
            tried = f"tried {count} times, again" if (count := pending["attempts"]) else "due"
            lines.append(f"         {tried} in {format_duration(wait_s)}")
    return lines
