"""Merging runs that are at the same epoch: their lanes fill the places of those that stopped.

A lane's numbers do not depend on other lanes, so runs with the same pack key that have done the
same epochs of the same group can continue as if they had been one run from the start.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from raysweep.learning.config import Config
from raysweep.learning.stage_graph import stages_of
from raysweep.packs.pack import group_stages, turn_of

State = dict[str, Any]
_LISTS = ("lanes", "last_finite", "optimizer_steps")


def joined(states: Sequence[State], configs: Sequence[Config]) -> State:
    """Join the ``PackRun.state`` of several runs into the state of one run of ``configs``.

    ``configs`` are the runs' configurations that have not ended. All runs have the same ``turn``.
    """
    assert len({state["turn"] for state in states}) == 1
    # Ignore results of configurations that have ended: if such a configuration shared a stage with
    # one that continues in another run, its own run has only a part of it.
    needed = [_open_stages(state, configs) for state in states]
    ids = {config.id for config in configs}
    turns = [turn_of(group[0]) for group in group_stages(configs)]
    turn = tuple(json.loads(states[0]["turn"])[0])
    groups, of_groups = [], []
    for state, names in zip(states, needed, strict=True):
        # Skip a group if all configurations it trained have ended since.
        if state["group"] and set(state["group"]["lanes"]) & names:
            groups.append(state["group"])
            of_groups.append(names)
    return {
        "configs": [config.id for config in configs],
        "position": next(i for i, other in enumerate(turns) if other >= turn),
        "turn": states[0]["turn"],
        "group": _joined_groups(groups, of_groups) if groups else None,
        **{
            name: _united([state[name] for state in states], needed)
            for name in ("served", "records", "models", "buffers")
        },
        "reported": [],
        # Stops decided after the state's epoch and not carried out yet.
        "stops": {i: stop for state in states for i, stop in state["stops"].items() if i in ids},
    }


def _open_stages(state: State, configs: Sequence[Config]) -> set[str]:
    """Return the stages (fingerprints) of a run's configurations that have not ended."""
    ids = set(state["configs"]) - set(state["reported"])
    return {stage.fingerprint for c in configs if c.id in ids for stage in stages_of(c)}


def _united(
    parts: Sequence[Mapping[str, Any]], needed: Sequence[Collection[str]]
) -> dict[str, Any]:
    """Unite mappings by stage; if several have a stage, keep the first complete one."""
    united: dict[str, Any] = {}
    for part, names in zip(parts, needed, strict=True):
        for fingerprint, kept in part.items():
            # A run drops a model's moments if none of its configurations continues with them.
            is_better = fingerprint not in united or _has_moments(kept, united[fingerprint])
            if fingerprint in names and is_better:
                united[fingerprint] = kept
    return united


def _has_moments(kept: Any, other: Any) -> bool:
    """Return whether a model has optimiser moments that the other one of its stage lacks."""
    return "moments" in kept and bool(kept["moments"]) and not other["moments"]


def _joined_groups(groups: Sequence[State], needed: Sequence[Collection[str]]) -> State:
    """Concatenate the rows of all lanes; a stage that several runs have appears once."""
    rows, seen = [], set[str]()
    for group, names in zip(groups, needed, strict=True):
        new = [f in names and f not in seen for f in group["lanes"]]
        seen |= set(group["lanes"]) & set(names)
        rows.append([k for k, is_new in enumerate(new) if is_new])

    def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([t[kept] for t, kept in zip(tensors, rows, strict=True)])

    def moment(name: str) -> torch.Tensor:
        # A momentum buffer exists only if some lane has momentum; for the others it is zero.
        return stacked([g["moments"].get(name, torch.zeros_like(g["flat"])) for g in groups])

    first = groups[0]
    return {
        **{
            name: [g[name][k] for g, kept in zip(groups, rows, strict=True) for k in kept]
            for name in _LISTS
        },
        "epochs": first["epochs"],
        "steps": first["steps"],
        "flat": stacked([group["flat"] for group in groups]),
        "history": {key: stacked([g["history"][key] for g in groups]) for key in first["history"]},
        "moments": {name: moment(name) for name in {n: None for g in groups for n in g["moments"]}},
        "average": None
        if first["average"] is None
        else stacked([group["average"] for group in groups]),
    }
