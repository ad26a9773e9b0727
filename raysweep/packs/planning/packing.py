"""Packing: choosing which configurations train together so that packs fill the slots evenly."""

import heapq
import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from raysweep.learning.config import Config, settings_that_vary
from raysweep.learning.declare import Varies
from raysweep.learning.stage_graph import stages_of
from raysweep.packs.pack import Pack, pack_key
from raysweep.packs.planning.estimates import (
    CPU,
    GPU,
    Speed,
    cost,
    lanes_within,
    memory_bytes,
    useful_lanes,
)

LANES_CPU = (16, 64)
"""Bounds on the planner's choice: up to the first, adding prefix mates costs nothing; beyond the
second, a pack has more rows, and more to lose with its worker, without any gain in speed."""
LANES_GPU = (32, 128)

_WAVES = (1, 2, 3, 4, 6, 8)
"""Numbers of packs per slot that the planner tries, the fewest first."""
_EVEN = 0.05
"""Slots count as well filled if they idle at the end for at most this share of the sweep."""
_GAIN = 0.02
"""More packs must shorten the sweep by this share, as they train shared stages repeatedly."""


@dataclass(frozen=True)
class Plan:
    """The packs a sweep will run, longest first, and counts of their stages.

    ``length_s`` estimates the total time if each free slot takes the longest remaining pack;
    ``idle_s`` estimates how long the first slot to finish waits for the last one. This is at most
    the length of one pack, the last to end.
    """

    packs: tuple[Pack, ...]
    n_stages: int
    n_distinct_stages: int
    n_run_stages: int
    length_s: float = 0.0
    idle_s: float = 0.0


def make_plan(
    configs: Sequence[Config],
    n_slots: int = 1,
    *,
    max_lanes: int | None = None,
    alone: Container[str] = (),
    memory: int | None = None,
    has_gpu: bool = False,
) -> Plan:
    """Put each configuration into exactly one pack.

    ``n_slots`` is how many packs can run at once, ``memory`` the bytes available to each (None: no
    limit), ``has_gpu`` whether they run on a GPU. ``max_lanes`` sets the largest number of
    configurations in a pack; with None the planner chooses as many lanes as shapes and memory make
    worthwhile, and more packs if slots would be idle. Configurations that share their first stages
    go into the same pack if there is room. Those with an id in ``alone`` get their own pack.
    """
    speed = GPU if has_gpu else CPU
    lone = [Pack((config,)) for config in configs if config.id in alone]
    keys = _by_key(config for config in configs if config.id not in alone)
    if max_lanes:
        packs = lone + [pack for families in keys for pack in _cut(families, max_lanes)]
    else:
        bounds = LANES_GPU if has_gpu else LANES_CPU
        limits = [_most_lanes(families, memory, speed, bounds) for families in keys]
        packs = _balance(keys, limits, lone, n_slots, speed)
    costs = {id(pack): cost(pack, speed) for pack in packs}
    packs.sort(key=lambda pack: costs[id(pack)], reverse=True)
    length_s, idle_s = simulate([costs[id(pack)] for pack in packs], n_slots)
    n_stages = sum(len(stages_of(config)) for config in configs)
    n_distinct = len({stage.fingerprint for config in configs for stage in stages_of(config)})
    n_run = sum(len(group) for pack in packs for group in pack.groups)
    return Plan(tuple(packs), n_stages, n_distinct, n_run, length_s, idle_s)


_Families = list[list[Config]]
"""The configurations with one pack key; prefix mates share a list."""

_SHARED_FIRST = ("train_generator_1", "train_task_1", "fill_buffer_1")
"""Shared stages that keep configurations together, starting with the most expensive to repeat."""


def _by_key(configs: Iterable[Config]) -> list[_Families]:
    keys: dict[str, list[Config]] = {}
    for config in configs:
        keys.setdefault(pack_key(config), []).append(config)
    return [_in_families(members) for members in keys.values()]


def _in_families(configs: Sequence[Config]) -> _Families:
    families: dict[str, list[Config]] = {}
    rank: dict[str, int] = {}
    for config in configs:
        for stage in stages_of(config):
            rank.setdefault(stage.fingerprint, len(rank))

    def shared(config: Config) -> list[int]:
        by_name = {stage.name: rank[stage.fingerprint] for stage in stages_of(config)}
        return [by_name.get(name, -1) for name in _SHARED_FIRST]

    for config in sorted(configs, key=shared):
        families.setdefault(stages_of(config)[0].fingerprint, []).append(config)
    return list(families.values())


def _cut(families: _Families, limit: int) -> list[Pack]:
    """Cut into packs of at most ``limit``, avoiding cuts between prefix mates if possible."""
    chunks: list[list[Config]] = [[]]
    for family in families:
        size = math.ceil(len(family) / math.ceil(len(family) / limit))
        for start in range(0, len(family), size):
            piece = family[start : start + size]
            if len(chunks[-1]) + len(piece) > limit and chunks[-1]:
                chunks.append([])
            chunks[-1].extend(piece)
    return [Pack(tuple(chunk)) for chunk in chunks]


_SIZE_SETTINGS = sorted(settings_that_vary(Varies.BY_LANE_SIZE))
"""Lane settings that affect a lane's memory."""


def _most_lanes(
    families: _Families, memory: int | None, speed: Speed, bounds: tuple[int, int]
) -> int:
    least, most = bounds
    # One member of each kind that differs in memory use, the one with the most stages first.
    members = (config for family in families for config in family)
    # If one configuration keeps its moments between tasks, the pack keeps everyone's.
    kinds = {
        (c.keeps_optimizer_state, *(getattr(c, name) for name in _SIZE_SETTINGS)): c
        for c in members
    }
    packs = sorted((Pack((c,)) for c in kinds.values()), key=lambda pack: -pack.n_epochs)
    lanes = min(max(useful_lanes(packs[0], speed), least), most)
    if memory is None:
        return lanes
    return min(lanes, *(lanes_within(memory, pack) for pack in packs))


def _balance(
    keys: Sequence[_Families],
    limits: Sequence[int],
    lone: Sequence[Pack],
    n_slots: int,
    speed: Speed,
) -> list[Pack]:
    """Cut each key into packs of at most its limit so that the slots end together.

    Try larger numbers of packs only while slots would be idle at the end. Keep a cut if it shortens
    the sweep, including the stages that it causes to be trained twice.
    """
    sizes = [sum(map(len, families)) for families in keys]
    whole = [cost(Pack(tuple(c for f in families for c in f)), speed) for families in keys]
    lone_costs = [cost(pack, speed) for pack in lone]
    best: list[Pack] = []
    best_length = math.inf
    for waves in _WAVES:
        share = (sum(whole) + sum(lone_costs)) / (n_slots * waves)
        packs = list(lone)
        for families, limit, size, seconds in zip(keys, limits, sizes, whole, strict=True):
            n_packs = min(size, max(math.ceil(size / limit), math.ceil(seconds / share - 1e-6)))
            packs += _cut(families, math.ceil(size / n_packs))
        costs = lone_costs + [cost(pack, speed) for pack in packs[len(lone) :]]
        length, idle = simulate(costs, n_slots)
        if length < (1 - _GAIN) * best_length:
            best, best_length = packs, length
        if idle <= _EVEN * length or len(packs) == sum(sizes) + len(lone):
            break
    return best


def simulate(costs: Sequence[float], n_slots: int) -> tuple[float, float]:
    """Assign packs, the longest first, to the slot that is free first.

    Return when the last slot ends, and how long before that the first one ends (a slot without a
    pack ends at 0), in the unit of ``costs``.
    """
    ends = [0.0] * n_slots
    for seconds in sorted(costs, reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends), max(ends) - min(ends)


def memory_of(plan: Plan, n_slots: int) -> tuple[int, int]:
    """Return the memory of the largest pack and of the ``n_slots`` largest together, in bytes."""
    sizes = sorted((memory_bytes(pack) for pack in plan.packs), reverse=True)
    return (sizes[0] if sizes else 0), sum(sizes[:n_slots])
