"""Runs that stand at one epoch become one: their lanes fill the seats of those that stopped.

A lane's numbers do not depend on its company, so runs of one pack key that have done the same
epochs of the same group go on together as if they had been one from the start.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from raysweep.plan import group_stages, stages_of, turn_of
from raysweep.settings import Config

State = dict[str, Any]
_LISTS = ("lanes", "last_finite", "optimizer_steps")


def joined(states: Sequence[State], configs: Sequence[Config]) -> State:
    """Join what ``PackRun.state`` gave of several runs into the state of a run of ``configs``.

    ``configs`` are those of the runs that have not ended. All runs have the same ``turn``.
    """
    assert len({state["turn"] for state in states}) == 1
    needed = {stage.fingerprint for config in configs for stage in stages_of(config)}
    turns = [turn_of(group[0]) for group in group_stages(configs)]
    turn = tuple(json.loads(states[0]["turn"])[0])
    groups = [state["group"] for state in states if state["group"]]
    return {
        "configs": [config.id for config in configs],
        "position": next(i for i, other in enumerate(turns) if other >= turn),
        "turn": states[0]["turn"],
        "group": _joined_groups(groups, needed) if groups else None,
        **{
            name: _united([state[name] for state in states], needed)
            for name in ("served", "records", "models", "buffers")
        },
        "reported": [],
        "stops": {},
    }


def _united(parts: Sequence[Mapping[str, Any]], needed: set[str]) -> dict[str, Any]:
    """Unite what is kept by stage; of a stage that several have, the first."""
    return {f: x for part in reversed(parts) for f, x in part.items() if f in needed}


def _joined_groups(groups: Sequence[State], needed: set[str]) -> State:
    """Put the rows of each lane below one another; a stage that several runs have comes once."""
    rows, seen = [], set[str]()
    for group in groups:
        new = [f in needed and f not in seen for f in group["lanes"]]
        seen |= set(group["lanes"])
        rows.append([k for k, is_new in enumerate(new) if is_new])

    def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([t[kept] for t, kept in zip(tensors, rows, strict=True)])

    first = groups[0]
    return {
        **{
            name: [g[name][k] for g, kept in zip(groups, rows, strict=True) for k in kept]
            for name in _LISTS
        },
        "epochs": first["epochs"],
        "steps": first["steps"],
        "flat": stacked([group["flat"] for group in groups]),
        **{
            name: {key: stacked([group[name][key] for group in groups]) for key in first[name]}
            for name in ("history", "moments")
        },
        "average": None
        if first["average"] is None
        else stacked([group["average"] for group in groups]),
    }
