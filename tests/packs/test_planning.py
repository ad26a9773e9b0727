"""Each config is planned once, and stages are shared exactly where the rules allow it."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from raysweep.learning import stage_graph
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.stage_graph import stages_of
from raysweep.packs.pack import Pack, pack_key
from raysweep.packs.planning import packing
from raysweep.packs.planning.estimates import cost, memory_bytes, slots_on
from raysweep.packs.planning.packing import LANES_CPU, LANES_GPU, Plan, make_plan, memory_of
from raysweep.packs.run import PackRun
from raysweep.settings.execution import Resources
from raysweep.settings.sweep import load_sweep
from tests.draws import draw_of

SEARCH_SPACES = Path(__file__).parents[2] / "search_spaces"


def grid(**choices: Any) -> list[Config]:
    """Return the product of the choices, the first name slowest; a single value is fixed."""
    lists = [value if isinstance(value, list) else [value] for value in choices.values()]
    return [
        Config.model_validate(dict(zip(choices, values, strict=True)))
        for values in itertools.product(*lists)
    ]


PUBLISHED = grid(
    source="mnist",
    epochs=10,
    model=["vib", "comparison"],
    lr=1e-4,
    beta_1=-10,
    beta_2=[0, 0.001, 0.01, 0.1, 1, 10],
    n_bottleneck=[10, 100, 1000],
    replay="generative",
    n_replay=1000,
    replay_weight=0.999,
)

LANE_CHOICES: dict[str, list[Any]] = {
    "lr": [1e-3, 1e-2],
    "weight_decay": [0.0, 0.5],
    "loss_above": [1e5, 1e6],
    "loss_factor": [0.0, 2.0],
    "loss_patience": [1, 3],
    # Binary fractions: 0.25 + 0.5 and 0.5 + 0.25 are one sum.
    "beta_1": [-2.0, -1.0, 0.0, 0.25, 0.5, 0.75],
    "beta_2": [0.0, 0.25, 0.5, 0.75],
    "optimizer_state": ["auto", "reset", "keep"],
    "freeze_encoder": [False, True],
    "replay": ["none", "simple", "generative"],
    "n_replay": [100, 200],
    "replay_weight": [0.0, 0.5, 0.9],
    "replay_labels": ["soft", "hard"],
}
PACK_CHOICES: dict[str, list[Any]] = {
    "model": ["vib", "comparison"],
    "n_bottleneck": [5, 6],
    "seed": [0, 1],
    "epochs": [1, 2],
}


def random_grid(number: int, n_most: int = 60) -> list[Config]:
    """Return up to ``n_most`` distinct points of a random grid, in random order."""
    n_tasks = draw_of(number, "n_tasks").choice([1, 2, 2, 2, 3])
    tasks = draw_of(number, "tasks").choice(["perm_mnist", "split_mnist"])
    fixed = {"n_tasks": n_tasks, "tasks": tasks}
    possible = {**LANE_CHOICES, **PACK_CHOICES}
    if n_tasks > 2:
        possible["replay"] = ["none", "simple"]
    draws = {name: draw_of(number, name) for name in possible}
    choices = {
        name: draws[name].sample(values, draws[name].randint(1, min(3, len(values))))
        for name, values in possible.items()
    }
    configs = [
        Config.model_validate(fixed | {name: draws[name].choice(v) for name, v in choices.items()})
        for _ in range(n_most)
    ]
    return list({config.id: config for config in configs}.values())


GRIDS = [random_grid(number) for number in range(60)]


def rules(config: Config) -> dict[str, tuple[Any, ...]]:
    """Return what each stage's result depends on, written from design.md, decision 3."""
    data = (config.tasks, config.n_tasks, config.seed)
    limits = (config.loss_above, config.loss_factor, config.loss_patience)
    every_step = (*data, config.epochs, config.lr, config.weight_decay, limits)
    if config.model == "comparison":
        weights = (0.0, config.beta_2)
    elif config.beta_1 > 0:
        weights = (0.0, config.beta_1 + config.beta_2)
    else:
        weights = (-config.beta_1, config.beta_2)
    model = (config.model, config.n_bottleneck)
    previous: tuple[Any, ...] = ("task 1", every_step, model, weights)
    stages = {"train_task_1": previous}
    has_vae = config.model == "comparison" and config.replay == "generative"
    for task in range(1, config.n_tasks):
        buffer: tuple[Any, ...] = ()
        if config.replay == "simple":
            buffer = ("real", task, data, config.n_replay)
        elif config.replay == "generative":
            vae = ("vae", task, every_step, config.n_bottleneck) if has_vae else ()
            buffer = ("generated", task, previous, vae, config.n_replay, config.replay_labels)
            if has_vae:
                stages[f"train_generator_{task}"] = vae
        if buffer:
            stages[f"fill_buffer_{task}"] = buffer
        state = "reset" if config.freeze_encoder else config.optimizer_state
        seen = (config.beta_2, config.freeze_encoder, state)
        replayed = (buffer, config.replay_weight) if buffer else ()
        previous = (f"task {task + 1}", previous, every_step, seen, replayed)
        stages[f"train_task_{task + 1}"] = previous
    return stages


def n_distinct(configs: Sequence[Config]) -> int:
    return len({result for config in configs for result in rules(config).values()})


def n_trainings(packs: Sequence[Pack], kind: str = "train_task") -> int:
    return sum(len(group) for pack in packs for group in pack.groups if group[0].kind == kind)


def ids_of(plan: Plan) -> list[str]:
    return [config.id for pack in plan.packs for config in pack.configs]


def packs_of(plan: Plan) -> dict[str, int]:
    return {config.id: k for k, pack in enumerate(plan.packs) for config in pack.configs}


# Packs

SLOTS_AND_LANES = [
    *itertools.product([1, 2, 3, 7, 64], [1, 2, 3, 5, 16, 1000]),
    *((n_slots, None) for n_slots in (1, 2, 3, 7, 64)),
]


@pytest.mark.parametrize(("n_slots", "max_lanes"), SLOTS_AND_LANES)
def test_each_config_is_planned_exactly_once(n_slots: int, max_lanes: int | None) -> None:
    for configs in (PUBLISHED, *GRIDS[:8]):
        plan = make_plan(configs, n_slots, max_lanes=max_lanes)
        assert Counter(ids_of(plan)) == Counter(config.id for config in configs)


@pytest.mark.parametrize(("n_slots", "max_lanes"), SLOTS_AND_LANES)
def test_a_pack_is_one_key_and_no_wider_than_asked(n_slots: int, max_lanes: int | None) -> None:
    for configs in (PUBLISHED, *GRIDS[:8]):
        for pack in make_plan(configs, n_slots, max_lanes=max_lanes).packs:
            assert 1 <= len(pack.configs) <= (max_lanes or LANES_CPU[1])
            assert len({pack_key(config) for config in pack.configs}) == 1


def test_no_configs_give_no_packs() -> None:
    assert make_plan([]) == Plan((), 0, 0, 0)


def test_configs_of_one_key_differ_in_lane_settings_only() -> None:
    base = Config()
    for name, values in LANE_CHOICES.items():
        assert {pack_key(base.model_copy(update={name: v})) for v in values} == {pack_key(base)}
    others = {"optimizer": "sgd", "encoder_widths": (9,), "batch_size": 9, "source": "mnist"}
    for name, value in {**{n: v[-1] for n, v in PACK_CHOICES.items()}, **others}.items():
        assert pack_key(Config.model_validate({name: value, "optimizer_state": "reset"})) != (
            pack_key(base)
        )


def test_one_pack_a_slot_is_wide_and_more_slots_make_it_narrower() -> None:
    configs = grid(lr=[1.0 * k for k in range(1, 13)])
    widths = {n: [len(p.configs) for p in make_plan(configs, n).packs] for n in (1, 2, 4, 12, 99)}
    assert widths == {1: [12], 2: [6] * 2, 4: [3] * 4, 12: [1] * 12, 99: [1] * 12}


def test_packs_start_with_the_longest() -> None:
    packs = make_plan(grid(epochs=[1, 3, 2], n_bottleneck=[5, 500]), max_lanes=1).packs
    for width in (5, 500):
        same = [pack.configs[0] for pack in packs if pack.configs[0].n_bottleneck == width]
        assert [config.epochs for config in same] == [3, 2, 1]
    assert packs[0].configs[0].n_bottleneck == 500
    costs = [cost(pack) for pack in packs]
    assert costs == sorted(costs, reverse=True)


def test_plans_are_the_same_each_time() -> None:
    for configs in GRIDS[:10]:
        assert make_plan(configs, 2, max_lanes=4) == make_plan(configs, 2, max_lanes=4)


UNEQUAL = [
    grid(n_bottleneck=[5, 1000], lr=[1.0 * k for k in range(1, 8)], replay=["none", "simple"]),
    grid(seed=list(range(5)), replay_weight=[k / 32 for k in range(33)], replay="simple"),
    grid(epochs=[1, 9], encoder_widths=[[10], [400, 400]], beta_2=[k / 8 for k in range(30)]),
    grid(seed=list(range(40)), epochs=[1, 2], lr=[1, 2, 3], replay="none"),
]


@pytest.mark.slow
@pytest.mark.parametrize("n_slots", range(1, 17))
def test_no_slot_idles_at_the_end_longer_than_one_pack(n_slots: int) -> None:
    for configs in (PUBLISHED, *UNEQUAL, *GRIDS):
        plan = make_plan(configs, n_slots)
        # A simulation of its own: each slot, once free, takes the next pack of the plan.
        slots: list[list[float]] = [[] for _ in range(n_slots)]
        for pack in plan.packs:
            min(slots, key=sum).append(cost(pack))
        last = max(slots, key=sum)
        length, first_end = sum(last), min(map(sum, slots))
        assert plan.length_s == pytest.approx(length)
        assert plan.idle_s == pytest.approx(length - first_end)
        assert length - first_end <= last[-1] * (1 + 1e-9)


@pytest.mark.parametrize("n_slots", [2, 3, 4, 7, 16])
def test_packs_are_cut_where_slots_would_idle_at_the_end(n_slots: int) -> None:
    for configs in (PUBLISHED, *UNEQUAL):
        plan = make_plan(configs, n_slots)
        single = make_plan(configs, n_slots, max_lanes=1)
        wide = make_plan(configs, n_slots, max_lanes=LANES_CPU[1])
        # Where a slot idles for long, neither wide packs nor single configurations end earlier.
        if plan.idle_s > 0.05 * plan.length_s:
            assert plan.length_s <= 1.05 * min(single.length_s, wide.length_s)


def test_a_cut_that_repeats_more_than_it_balances_is_not_made() -> None:
    # One prefix of many epochs, two short ends: two slots would both train the prefix.
    configs = grid(replay_weight=[0.25, 0.5], replay="simple", n_tasks=2)
    (pack,) = make_plan(configs, 1).packs
    assert len(pack.configs) == 2
    many = grid(replay_weight=[k / 16 for k in range(8)], seed=[0, 1], replay="simple")
    assert [len(pack.configs) for pack in make_plan(many, 2).packs] == [8, 8]


def test_small_shapes_get_wide_packs_and_large_ones_do_not_grow() -> None:
    lr = [1.0 * k for k in range(1, 300)]
    tiny = {"encoder_widths": [[2]], "rec_decoder_widths": [[2]], "n_bottleneck": 2}
    widths = {}
    for name, shape in {"tiny": tiny, "large": {"encoder_widths": [[1000, 1000]]}}.items():
        widths[name] = max(len(pack.configs) for pack in make_plan(grid(lr=lr, **shape)).packs)
    assert LANES_CPU[0] == widths["large"] < widths["tiny"] <= LANES_CPU[1]
    on_cpu, on_gpu = (
        max(len(pack.configs) for pack in make_plan(grid(lr=lr), has_gpu=has_gpu).packs)
        for has_gpu in (False, True)
    )
    assert on_cpu < on_gpu and LANES_GPU[0] <= on_gpu <= LANES_GPU[1]


@pytest.mark.parametrize("n_megabytes", [60, 100, 300, 1000])
def test_packs_fit_into_the_memory_that_there_is(n_megabytes: int) -> None:
    for configs in (grid(lr=[1.0 * k for k in range(1, 40)], replay=["none", "simple"]), *GRIDS):
        for pack in make_plan(configs, memory=n_megabytes * 10**6).packs:
            assert len(pack.configs) == 1 or memory_bytes(pack) <= n_megabytes * 10**6


def test_memory_counts_the_largest_buffer_of_any_kind_of_replay() -> None:
    def lane(replay: str, n_replay: int, lr: float) -> Config:
        return Config(source="mnist", model="comparison", replay=replay, n_replay=n_replay, lr=lr)

    configs = [lane("generative", 100, 1e-3)]
    configs += [lane("simple", 50_000, 1e-3 * (k + 1)) for k in range(8)]
    memory = 2 * 10**9
    plan = make_plan(configs, memory=memory)
    assert len(plan.packs) > 1
    assert all(memory_bytes(pack) <= memory for pack in plan.packs)


def test_a_fixed_pack_size_overrides_memory_and_balance() -> None:
    configs = grid(lr=[1.0 * k for k in range(1, 13)])
    plan = make_plan(configs, n_slots=12, max_lanes=12, memory=1)
    assert [len(pack.configs) for pack in plan.packs] == [12]


def test_a_family_too_large_for_a_pack_is_cut_evenly() -> None:
    configs = grid(replay_weight=[k / 32 for k in range(17)], replay="simple")
    assert [len(pack.configs) for pack in make_plan(configs, max_lanes=16).packs] == [9, 8]


def test_planning_looks_at_each_configuration_a_fixed_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n_calls = Counter[str]()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            n_calls[name] += 1
            return function(*arguments, **named)

        return call

    for module, name in (
        (stage_graph, "stages_of"),
        (packing, "stages_of"),
        (packing, "pack_key"),
        (packing, "cost"),
    ):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    n_per_config = []
    for n in (200, 2000):
        n_calls.clear()
        make_plan(grid(lr=[1.0 * k for k in range(1, n // 4 + 1)], seed=[0, 1, 2, 3]), n_slots=4)
        n_per_config.append(n_calls.total() / n)
    assert n_per_config[1] <= 1.1 * n_per_config[0] < 20


# Stages


@pytest.mark.parametrize("configs", GRIDS, ids=map(str, range(len(GRIDS))))
def test_stages_are_shared_exactly_where_the_rules_allow(configs: list[Config]) -> None:
    by_rule: dict[tuple[Any, ...], str] = {}
    by_fingerprint: dict[str, tuple[Any, ...]] = {}
    for config in configs:
        stages = {stage.name: stage.fingerprint for stage in stages_of(config)}
        expected = rules(config)
        assert set(stages) == set(expected)
        for name, fingerprint in stages.items():
            assert by_rule.setdefault(expected[name], fingerprint) == fingerprint
            assert by_fingerprint.setdefault(fingerprint, expected[name]) == expected[name]


def test_distinct_stages_equal_a_brute_force_count() -> None:
    n_shared = 0
    for configs, max_lanes in itertools.product(GRIDS, (None, 1, 3, 8)):
        plan = make_plan(configs, n_slots=2, max_lanes=max_lanes)
        assert plan.n_stages == sum(len(rules(config)) for config in configs)
        assert plan.n_distinct_stages == n_distinct(configs)
        assert plan.n_run_stages == sum(n_distinct(pack.configs) for pack in plan.packs)
        assert plan.n_distinct_stages <= plan.n_run_stages <= plan.n_stages
        n_shared += plan.n_stages - plan.n_distinct_stages
    assert n_shared > 1000  # the random grids do share


def test_a_packs_stages_run_once_each_after_their_parents_and_in_step() -> None:
    for configs in GRIDS:
        for pack in make_plan(configs, max_lanes=8).packs:
            done: set[str] = set()
            for group in pack.groups:
                for stage in group:
                    assert {fingerprint for _, fingerprint in stage.parents} <= done
                assert len({(stage.name, stage.group) for stage in group}) == 1
                fingerprints = {stage.fingerprint for stage in group}
                assert len(fingerprints) == len(group)
                assert not fingerprints & done
                done |= fingerprints
            assert done == {s.fingerprint for c in pack.configs for s in stages_of(c)}


def test_the_published_grid_trains_75_of_90_and_111_of_126_with_fills() -> None:
    assert len(PUBLISHED) == 36
    plan = make_plan(PUBLISHED)
    kinds = Counter(stage.kind for config in PUBLISHED for stage in stages_of(config))
    assert kinds == {"train_task": 72, "train_generator": 18, "fill_buffer": 36}
    assert (plan.n_distinct_stages, plan.n_stages) == (111, 126)
    assert n_trainings(plan.packs) + n_trainings(plan.packs, "train_generator") == 75
    assert plan.n_run_stages == 111  # no stage is run in two packs
    assert [len(pack.configs) for pack in plan.packs] == [6] * 6


def test_the_shipped_published_search_space_is_that_grid() -> None:
    configs = load_sweep(SEARCH_SPACES / "vib_published.yaml").configs
    rows = {(c.model, c.lr, c.beta_1, c.beta_2, c.n_bottleneck, c.replay_weight) for c in configs}
    assert rows == {
        (c.model, c.lr, c.beta_1, c.beta_2, c.n_bottleneck, c.replay_weight) for c in PUBLISHED
    }
    plan = make_plan(configs)
    assert (len(configs), plan.n_distinct_stages, plan.n_stages) == (36, 111, 126)


@pytest.mark.parametrize("replay", ["simple", "generative"])
@pytest.mark.parametrize(("n_weights", "n_prefixes"), [(1, 1), (5, 1), (1, 4), (5, 3), (4, 4)])
def test_r_replay_weights_over_n_prefixes_cost_n_times_1_plus_r_trainings(
    replay: str, n_weights: int, n_prefixes: int
) -> None:
    configs = grid(
        replay_weight=[k / 8 for k in range(n_weights)],
        lr=[1.0 + k for k in range(n_prefixes)],
        replay=replay,
    )
    plan = make_plan(configs)
    assert n_trainings(plan.packs) == n_prefixes * (1 + n_weights)
    n_fills = n_prefixes if replay == "generative" else 1  # real samples know no learning rate
    assert n_trainings(plan.packs, "fill_buffer") == n_fills


def test_a_pack_run_trains_each_shared_prefix_once(small: Source) -> None:
    n_weights, n_prefixes, epochs = 3, 2, 2
    configs = grid(
        replay_weight=[k / 8 for k in range(n_weights)],
        lr=[1e-3, 2e-3][:n_prefixes],
        replay="simple",
        n_replay=20,
        batch_size=100,
        epochs=epochs,
        encoder_widths=[[5]],
        rec_decoder_widths=[[5]],
        n_bottleneck=3,
    )
    n_lanes: list[int] = []
    (pack,) = make_plan(configs).packs
    run = PackRun(pack.configs, small)
    while not run.is_done:
        rows = run.advance().epochs
        # Rows of a shared lane divide its seconds, and are equal in all else.
        shared = {json.dumps({k: v for k, v in r.items() if k != "config_id"}) for r in rows}
        n_lanes.append(len(shared))
        assert len(rows) == len(configs)
    assert sum(n_lanes) == epochs * n_prefixes * (1 + n_weights)
    assert n_lanes == epochs * [n_prefixes] + epochs * [n_prefixes * n_weights]


@pytest.mark.parametrize("max_lanes", [2, 3, 5, 8, 16])
def test_prefix_mates_land_in_one_pack_when_there_is_room(max_lanes: int) -> None:
    n_families = 0
    for configs in GRIDS:
        pack = packs_of(make_plan(configs, max_lanes=max_lanes))
        families: dict[tuple[Any, ...], list[str]] = {}
        for config in configs:
            families.setdefault(rules(config)["train_task_1"], []).append(config.id)
        for family in families.values():
            if len(family) <= max_lanes:
                assert len({pack[config_id] for config_id in family}) == 1
                n_families += len(family) > 1
    assert n_families > 50


def test_prefix_mates_land_in_one_pack_wherever_they_stand_in_the_grid() -> None:
    configs = grid(replay_weight=[0.1, 0.2, 0.3], lr=[1, 2, 3, 4])  # mates are 4 apart
    plan = make_plan(configs, max_lanes=3)
    assert [{config.lr for config in pack.configs} for pack in plan.packs] == [
        {1.0},
        {2.0},
        {3.0},
        {4.0},
    ]
    assert plan.n_run_stages == plan.n_distinct_stages


@pytest.mark.parametrize(
    ("choices", "max_lanes"),
    [
        ({"model": "comparison", "lr": [1, 2, 3], "beta_2": [0, 1, 2]}, 3),  # share a VAE
        ({"n_replay": [100, 200], "replay_weight": [0.1, 0.2, 0.3, 0.4]}, 4),  # share a buffer
    ],
)
def test_what_is_run_does_not_depend_on_the_order_of_a_grids_settings(
    choices: dict[str, Any], max_lanes: int
) -> None:
    n_run = {
        make_plan(grid(**dict(order)), max_lanes=max_lanes).n_run_stages
        for order in itertools.permutations(choices.items())
    }
    assert len(n_run) == 1


# The rules, one at a time


def n_different(configs: Sequence[Config], stage: str) -> int:
    return len({s.fingerprint for config in configs for s in stages_of(config) if s.name == stage})


COMPARISON, VIB = {"model": "comparison"}, {"model": "vib"}
SIMPLE, NO_REPLAY = {"replay": "simple"}, {"replay": "none"}


@pytest.mark.parametrize(
    ("fixed", "varied", "stage", "n"),
    [
        (COMPARISON, {"beta_1": [-1, 0, 1]}, "train_task_1", 1),
        (COMPARISON, {"beta_1": [-1, 0, 1]}, "train_task_2", 1),
        (COMPARISON, {"beta_2": [0, 1, 2]}, "train_task_1", 3),
        (COMPARISON, {"beta_1": [-1, 1], "beta_2": [0, 1]}, "train_generator_1", 1),
        (COMPARISON, {"beta_2": [0, 1]}, "fill_buffer_1", 2),
        (COMPARISON, {"lr": [1, 2]}, "train_generator_1", 2),
        (COMPARISON, {"n_bottleneck": [5, 6]}, "train_generator_1", 2),
        (COMPARISON, {"n_replay": [5, 6]}, "train_generator_1", 1),
        (COMPARISON, {"encoder_widths": [[5], [6]]}, "train_generator_1", 1),
        (COMPARISON, {"rec_decoder_widths": [[5], [6]]}, "train_generator_1", 2),
        (COMPARISON, {"rec_decoder_widths": [[5], [6]]}, "train_task_1", 1),
        (COMPARISON, {"rec_decoder_widths": [[5], [6]]}, "fill_buffer_1", 2),
        (VIB, {"beta_1": [-2, -1, 0]}, "train_task_1", 3),
        (VIB, {"beta_1": [0.25, 0.5, 0.75], "beta_2": [0, 0.25, 0.5]}, "train_task_1", 5),
        (VIB, {"beta_1": [0.25, 0.5, 0.75], "beta_2": [0, 0.25, 0.5]}, "train_task_2", 9),
        (VIB, {"beta_1": [0, 0.5], "beta_2": [0.5, 0]}, "train_task_1", 3),
        (VIB | SIMPLE, {"beta_1": [-2, -1], "beta_2": [0, 1]}, "fill_buffer_1", 1),
        (VIB | SIMPLE, {"replay_labels": ["soft", "hard"]}, "fill_buffer_1", 1),
        (VIB | SIMPLE, {"replay_labels": ["soft", "hard"]}, "train_task_2", 1),
        (VIB, {"replay_labels": ["soft", "hard"]}, "train_task_1", 1),
        (VIB, {"replay_labels": ["soft", "hard"]}, "fill_buffer_1", 2),
        (VIB, {"n_replay": [5, 6]}, "train_task_1", 1),
        (VIB, {"n_replay": [5, 6]}, "fill_buffer_1", 2),
        (VIB, {"replay_weight": [0, 1]}, "fill_buffer_1", 1),
        (VIB, {"replay_weight": [0, 1]}, "train_task_2", 2),
        (VIB, {"replay": ["none", "simple", "generative"]}, "train_task_1", 1),
        (VIB, {"replay": ["none", "simple", "generative"]}, "train_task_2", 3),
        (VIB, {"freeze_encoder": [False, True]}, "train_task_1", 1),
        (VIB, {"freeze_encoder": [False, True]}, "train_task_2", 2),
        (VIB, {"optimizer_state": ["reset", "keep"]}, "train_task_1", 1),
        (VIB, {"optimizer_state": ["reset", "keep"]}, "train_task_2", 2),
        (
            COMPARISON | {"freeze_encoder": True},
            {"optimizer_state": ["reset", "keep"]},
            "train_task_2",
            1,
        ),
        (NO_REPLAY, {"replay_weight": [0, 1], "n_replay": [5, 6]}, "train_task_2", 1),
        (NO_REPLAY, {"replay_labels": ["soft", "hard"]}, "train_task_2", 1),
        (VIB, {"seed": [0, 1]}, "train_task_1", 2),
        (VIB, {"loss_above": [1, 2]}, "train_task_1", 2),
        (VIB, {"loss_factor": [0, 2], "loss_patience": [1, 2]}, "train_task_1", 4),
        (VIB, {"weight_decay": [0, 1]}, "train_task_1", 2),
    ],
)
def test_a_stage_sees_only_what_can_change_its_result(
    fixed: dict[str, Any], varied: dict[str, Any], stage: str, n: int
) -> None:
    assert n_different(grid(**fixed, **varied), stage) == n


def test_without_replay_its_settings_share_all_stages() -> None:
    configs = grid(
        model=["vib", "comparison"],
        replay="none",
        replay_weight=[0, 0.5, 1],
        n_replay=[5, 6],
        replay_labels=["soft", "hard"],
    )
    plan = make_plan(configs)
    assert (plan.n_stages, plan.n_distinct_stages, plan.n_run_stages) == (48, 4, 4)
    assert {stage.kind for config in configs for stage in stages_of(config)} == {"train_task"}


def test_with_one_task_there_is_no_buffer_and_no_generator() -> None:
    configs = grid(n_tasks=1, model=["vib", "comparison"], replay=["none", "simple", "generative"])
    assert {stage.name for config in configs for stage in stages_of(config)} == {"train_task_1"}
    assert make_plan(configs).n_run_stages == 2


@pytest.mark.parametrize(
    ("model", "replay", "roles"),
    [
        ("vib", "generative", {"model": "train_task_1"}),
        (
            "comparison",
            "generative",
            {"model": "train_task_1", "generator_1": "train_generator_1"},
        ),
        ("vib", "simple", {}),
        ("comparison", "simple", {}),
    ],
)
def test_a_buffer_is_made_of_what_generates_and_labels_it(
    model: str, replay: str, roles: dict[str, str]
) -> None:
    (config,) = grid(model=model, replay=replay)
    stages = {stage.name: stage for stage in stages_of(config)}
    expected = {role: stages[name].fingerprint for role, name in roles.items()}
    assert dict(stages["fill_buffer_1"].parents) == expected


def test_simple_buffers_of_later_tasks_hold_the_earlier_ones() -> None:
    (config,) = grid(n_tasks=4, replay="simple")
    stages = {stage.name: stage for stage in stages_of(config)}
    assert list(stages) == [
        "train_task_1",
        "fill_buffer_1",
        "train_task_2",
        "fill_buffer_2",
        "train_task_3",
        "fill_buffer_3",
        "train_task_4",
    ]
    for task in (2, 3):
        parent = stages[f"fill_buffer_{task}"].parent("buffer")
        assert parent == stages[f"fill_buffer_{task - 1}"].fingerprint
    for task in (2, 3, 4):
        assert dict(stages[f"train_task_{task}"].parents) == {
            "model": stages[f"train_task_{task - 1}"].fingerprint,
            "buffer": stages[f"fill_buffer_{task - 1}"].fingerprint,
        }


# Room


@pytest.mark.parametrize(
    ("resources", "n_cpus", "n_gpus", "n_slots"),
    [
        (Resources(1, 0), 2, 0, 2),
        (Resources(2, 0), 7, 1, 3),
        (Resources(0.1, 0), 1, 0, 10),
        (Resources(1, 0.25), 16, 1, 4),
        (Resources(1, 0.25), 2, 1, 2),
        (Resources(1, 0.1), 16, 1, 10),
        (Resources(1, 2), 16, 1, 0),
        (Resources(4, 0), 2, 0, 0),
    ],
)
def test_slots_are_limited_by_the_scarcer_resource(
    resources: Resources, n_cpus: float, n_gpus: float, n_slots: int
) -> None:
    assert slots_on(resources, n_cpus, n_gpus) == n_slots


def test_memory_grows_with_lanes_and_with_packs_at_once() -> None:
    configs = grid(lr=[1.0 + k for k in range(8)])
    narrow, wide = (make_plan(configs, max_lanes=lanes) for lanes in (2, 8))
    largest, four_at_once = memory_of(narrow, 4)
    assert four_at_once == 4 * largest
    assert memory_of(narrow, 9) == (largest, four_at_once)  # there are four packs
    assert largest < memory_of(wide, 1)[0] <= four_at_once
    assert memory_of(make_plan([]), 1) == (0, 0)
