"""When a lane counts as exploded: limits, a factor over its best loss, patience; in any company.

The rules are written once more below in plain Python, over a stage's whole list of losses, and
held against ``LossMonitor`` on drawn losses and against packs on the losses that they train with.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_configs import configure

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.learning.stage_graph import LANE_SETTINGS, stages_of
from raysweep.learning.training.loss_monitor import LossMonitor
from raysweep.packs.pack import pack_key
from raysweep.packs.run import PackRun
from raysweep.packs.stage_cache.entries import StageCache
from raysweep.settings.sweep import load_sweep
from tests.learning.test_step import Recorded, guarded
from tests.packs.test_lanes import (
    Rows,
    assert_same,
    check_diverged,
    check_resume,
    run_alone,
    run_pack,
)

F32, F64 = torch.float32, torch.float64
NUMBER = {F32: np.float32, F64: np.float64}


@dataclass(frozen=True)
class Rule:
    """What a lane is held against."""

    above: float = 1e6
    factor: float = 0.0
    patience: int = 1


def buried_at(losses: Sequence[Any], rule: Rule, best_of: str = "all") -> int | None:
    """Return the step, from 1, that buries a lane with a stage's ``losses``; None if none does.

    ``losses`` are numpy's numbers of the precision that is compared in.
    """
    n_bad, before = 0, list[Any]()
    for step, loss in enumerate(losses, 1):
        if math.isnan(loss) or loss == math.inf:
            return step
        best = min(before, default=None)
        with np.errstate(over="ignore"):
            is_bad = bool(loss > type(loss)(rule.above))
            if rule.factor and best is not None and best > 0:
                is_bad = is_bad or bool(loss > type(loss)(rule.factor) * best)
        n_bad = n_bad + 1 if is_bad else 0
        if n_bad == rule.patience:
            return step
        if best_of == "all" or not is_bad:
            before.append(loss)
    return None


def last_finite(losses: Sequence[Any], step: int | None) -> float:
    """Return the last finite loss up to a step, or of all; NaN if there is none."""
    return next((float(x) for x in reversed(losses[:step]) if math.isfinite(x)), math.nan)


# --- the tally on drawn losses --------------------------------------------------------------------

RULES = [
    Rule(above, factor, patience)
    for above in (2.0, 40.0, 1e300)
    for factor, patience in (
        *((0.0, 1), (0.0, 2), (0.0, 4), (0.0, 300)),
        *((1.5, 1), (1.5, 3), (3.0, 1), (3.0, 2), (1e300, 2)),
        *((1.0 + 1e-9, 5), (1.1, 20), (1.1, 290)),
    )
]


def drawn_losses(draw: random.Random, n_steps: int) -> list[float]:
    """Draw losses that fall, with bursts of high ones; some explode, some go below 0."""
    level, losses = draw.choice([0.9, 5.0, 60.0]), list[float]()
    end = draw.choice([math.nan, math.inf, None, None, None])
    burst_rate = draw.choice([0.0, 0.003, 0.02])
    while len(losses) < n_steps:
        noise = draw.choice([0.02, 0.3])
        losses += [level * (1 + noise * draw.random()) for _ in range(draw.randrange(1, 40))]
        level *= draw.choice([1.0, 0.9, 0.5])
        if draw.random() < 40 * burst_rate:
            length = draw.choice([1, 1, 2, 3, 4, 5, 25, 350])
            losses += [level * draw.choice([1.4, 2.0, 4.0, 50.0])] * length
        if draw.random() < 0.01:
            losses.append(-level)
    if end is not None and draw.random() < 0.5:
        losses[draw.randrange(n_steps)] = end
    return losses[:n_steps]


@dataclass
class Lane:
    """A lane of a tally in a test: its rule, its losses, and what became of it."""

    rule: Rule
    losses: list[Any]
    died_at: int | None = None
    last_finite: float = math.nan


def new_tally(lanes: Sequence[Lane], dtype: torch.dtype) -> LossMonitor:
    rules = [lane.rule for lane in lanes]
    above, factor = (
        torch.tensor([getattr(rule, name) for rule in rules], dtype=dtype)
        for name in ("above", "factor")
    )
    return LossMonitor(["part"], above, factor, torch.tensor([rule.patience for rule in rules]))


def batches(
    monitor: LossMonitor,
    lanes: Sequence[Lane],
    steps: range,
    note: Callable[[], None],
    each: Callable[[int], None] = lambda step: None,
) -> None:
    """Return a tally one epoch of the lanes' losses, ``steps`` counted from 0 in the stage."""
    monitor.begin([lane.last_finite for lane in lanes], steps.start)
    for i in steps:
        monitor.begin_step(3)
        monitor.mean.copy_(torch.tensor([float(lane.losses[i]) for lane in lanes], dtype=F64))
        note()
        each(i + 1)
    monitor.close(torch.ones(len(lanes), dtype=torch.bool))
    for lane, value, gone in zip(
        lanes, monitor.last_finite, monitor.divergences("", 1), strict=True
    ):
        lane.last_finite = value
        lane.died_at = gone.step if gone else lane.died_at


def run_tally(lanes: list[Lane], ends: Sequence[int], dtype: torch.dtype) -> None:
    """Train lanes through epochs up to ``ends``: those that died leave, as in a group."""
    expected = [buried_at(lane.losses, lane.rule) for lane in lanes]
    wanted = {id(lane): step or math.inf for lane, step in zip(lanes, expected, strict=True)}
    left, monitor = lanes, new_tally(lanes, dtype)
    for start, end in zip((0, *ends), ends, strict=False):

        def check(step: int, left: list[Lane] = left, monitor: LossMonitor = monitor) -> None:
            assert monitor.is_alive.tolist() == [step < wanted[id(lane)] for lane in left]

        batches(monitor, left, range(start, end), monitor.note, check)
        kept = [k for k, lane in enumerate(left) if lane.died_at is None]
        history = {name: values[kept] for name, values in monitor.history().items()}
        left = [left[k] for k in kept]
        monitor = new_tally(left, dtype)
        monitor.set_history(history)
    assert [lane.died_at for lane in lanes] == expected
    for lane in lanes:
        of_all = last_finite(lane.losses, lane.died_at)
        assert lane.last_finite == of_all or (math.isnan(lane.last_finite) and math.isnan(of_all))


def drawn_lanes(seed: int, n_steps: int, dtype: torch.dtype) -> list[Lane]:
    draw, lanes = random.Random(seed), []
    for rule in RULES:
        losses = [NUMBER[dtype](x) for x in drawn_losses(draw, n_steps)]
        lanes.append(Lane(rule, losses))
    return lanes


ENDS = [[640], [256, 512, 640], [7, 300, 301, 640], [255, 600, 640], [1, 2, 258, 640]]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("seed", range(len(ENDS)))
def test_lanes_of_all_rules_die_where_a_plain_loop_says(seed: int, dtype: torch.dtype) -> None:
    run_tally(drawn_lanes(seed, 640, dtype), ENDS[seed], dtype)


@pytest.mark.slow
def test_drawn_losses_try_each_rule() -> None:
    lanes = [lane for seed in range(len(ENDS)) for lane in drawn_lanes(seed, 640, F64)]
    died = [(lane, step) for lane in lanes if (step := buried_at(lane.losses, lane.rule))]
    assert 40 < len(died) < len(lanes) - 40
    assert sum(step > 256 for _, step in died) > 10
    assert sum(lane.losses[step - 1] < 0.9 * lane.rule.above for lane, step in died) > 20
    assert sum(lane.rule.patience > 1 for lane, _ in died) > 20
    assert sum(lane.rule.patience > 256 for lane, _ in died) > 2
    assert sum(not math.isfinite(lane.losses[step - 1]) for lane, step in died) > 5
    impatient = [buried_at(x.losses, replace(x.rule, patience=1)) for x in lanes]
    patient = [buried_at(x.losses, x.rule) for x in lanes]
    assert sum(a is not None and b is None for a, b in zip(impatient, patient, strict=True)) > 10


@pytest.mark.parametrize("seed", range(20, 30))
def test_it_makes_no_difference_whether_a_bad_steps_loss_may_be_the_best(seed: int) -> None:
    for lane in drawn_lanes(seed, 400, F32):
        ends = [buried_at(lane.losses, lane.rule, best_of) for best_of in ("all", "good")]
        assert ends[0] == ends[1]


def test_a_lane_with_patience_3_survives_two_spikes_and_dies_at_the_third_in_a_row() -> None:
    calm, spikes = [1.0] * 5, [9.0] * 2
    losses = [*calm, *spikes, *calm, *spikes, *calm, *spikes, 8.5, *calm]
    lanes = [Lane(Rule(factor=4.0, patience=p), losses) for p in (1, 2, 3, 4)]
    lanes += [Lane(Rule(above=8.0, patience=p), losses) for p in (1, 2, 3, 4)]
    monitor = new_tally(lanes, F64)
    batches(monitor, lanes, range(len(losses)), monitor.note)
    assert [lane.died_at for lane in lanes] == [6, 7, 22, None] * 2
    assert [lane.last_finite for lane in lanes] == [9.0, 9.0, 8.5, 1.0] * 2


def test_patience_forgives_no_loss_that_is_not_finite() -> None:
    lanes = [
        Lane(Rule(patience=100), [1.0, 1e7, bad, 2.0])
        for bad in (math.nan, math.inf, float(np.finfo(np.float32).max))
    ]
    monitor = new_tally(lanes, F32)
    batches(monitor, lanes, range(4), monitor.note)
    assert [lane.died_at for lane in lanes] == [3, 3, None]
    assert [lane.last_finite for lane in lanes] == [1e7, 1e7, 2.0]


def test_the_factor_is_silent_until_there_is_a_best_and_once_it_is_not_above_0() -> None:
    sequences = [[500.0, 999.0, 1001.0], [0.0, 1e5], [3.0, -1.0, 1e5], [-2.0, -0.5, 1e5]]
    for losses, died_at in zip(sequences, [3, None, None, None], strict=True):
        lane = Lane(Rule(factor=2.0), losses)
        monitor = new_tally([lane], F64)
        batches(monitor, [lane], range(len(losses)), monitor.note)
        assert lane.died_at == died_at, losses


def test_a_loss_at_a_limit_is_not_above_it() -> None:
    losses = [2.0, 3.0, 3.0, math.nextafter(3.0, 4.0)]
    for rule in (Rule(factor=1.5), Rule(above=3.0, patience=1), Rule(above=3.0, factor=1.5)):
        lane = Lane(rule, losses)
        monitor = new_tally([lane], F64)
        batches(monitor, [lane], range(4), monitor.note)
        assert lane.died_at == 4


def test_a_lane_without_rules_of_its_own_is_noted_as_in_a_tally_without_any() -> None:
    lanes = [lane for lane in drawn_lanes(40, 600, F32) if lane.rule.patience == 1]
    lanes = [Lane(Rule(lane.rule.above), [*lane.losses[1:], math.nan]) for lane in lanes]
    plain = [Lane(lane.rule, lane.losses) for lane in lanes]
    ruled = [*lanes, *drawn_lanes(41, 600, F32)]
    tallies = [
        LossMonitor(["part"], torch.tensor([x.rule.above for x in plain])),
        new_tally(ruled, F32),
    ]
    assert tallies[0].history() == {}
    for monitor, group in zip(tallies, (plain, ruled), strict=True):
        batches(monitor, group, range(600), monitor.note)
    n = len(plain)
    assert [(x.died_at, x.last_finite) for x in plain] == [
        (x.died_at, x.last_finite) for x in lanes
    ]
    assert len({x.died_at for x in plain}) > 2
    alive = [k for k in range(n) if plain[k].died_at is None or plain[k].died_at == 600]
    assert alive
    assert torch.equal(tallies[0]._sums[0, :n].isnan(), tallies[1]._sums[0, :n].isnan())
    assert torch.equal(
        tallies[0]._sums[:, :n].nan_to_num(7.0), tallies[1]._sums[:, :n].nan_to_num(7.0)
    )


def test_noting_reads_nothing_back_and_repeats_as_kernels_alone() -> None:
    lanes = drawn_lanes(50, 600, F32)
    other = [Lane(lane.rule, lane.losses) for lane in lanes]
    monitor, captured = new_tally(lanes, F32), new_tally(other, F32)
    for start, end in ((0, 290), (290, 600)):
        batches(monitor, lanes, range(start, end), monitor.note)
    note = Recorded(captured.note)
    kept = {name: value.data_ptr() for name, value in places_of(captured)}
    for start, end in ((0, 290), (290, 600)):
        batches(captured, other, range(start, end), note)
    assert {name: value.data_ptr() for name, value in places_of(captured)} == kept
    assert [lane.died_at for lane in other] == [lane.died_at for lane in lanes]
    assert any(lane.died_at for lane in lanes) and not all(lane.died_at for lane in lanes)
    for name, values in monitor.history().items():
        assert torch.equal(captured.history()[name], values)
    with pytest.raises(AssertionError), guarded([]):
        captured.history()["best"].tolist()


def places_of(monitor: LossMonitor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors that a graph would hold by their address."""
    for owner in (monitor, monitor._rules):
        for name, value in vars(owner).items():
            if isinstance(value, torch.Tensor) and name not in ("_died_at", "_last_finite"):
                yield name, value


# --- packs ----------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "model": "comparison",
    "batch_size": 20,
    "encoder_widths": (12,),
    "rec_decoder_widths": (12,),
    "n_replay": 40,
}
N_STEPS = 400 // 20
"""Steps of an epoch on the data of the tests; a stage has two epochs."""


def lane_of(rule: Rule, **settings: Any) -> Config:
    return configure(
        **BASE | settings,
        loss_above=rule.above,
        loss_factor=rule.factor,
        loss_patience=rule.patience,
    )


@pytest.fixture
def losses_of(
    small: Source, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, list[Any]]]:
    """Return a function that trains a configuration alone and returns its losses by stage."""
    known: dict[str, dict[str, list[Any]]] = {}

    def train(**settings: Any) -> dict[str, list[Any]]:
        config = lane_of(Rule(), **settings)
        if config.id not in known:
            losses: list[Any] = []
            note = LossMonitor.note

            def record(monitor: LossMonitor) -> None:
                losses.extend(monitor.mean.numpy().copy())
                note(monitor)

            with monkeypatch.context() as patch:
                patch.setattr(LossMonitor, "note", record)
                run_pack([config], small)
            names = [stage.name for stage in stages_of(config) if stage.kind != "fill_buffer"]
            assert len(losses) == 2 * N_STEPS * len(names)
            starts = range(0, len(losses), 2 * N_STEPS)
            known[config.id] = {
                name: losses[start : start + 2 * N_STEPS]
                for name, start in zip(names, starts, strict=True)
            }
        return known[config.id]

    return train


def outcome_by_a_loop(losses: dict[str, list[Any]], rule: Rule) -> tuple[Any, ...]:
    """Return what a ``trials`` row says of the end of a lane that trains with ``losses``."""
    for stage, of_stage in losses.items():
        step = buried_at(of_stage, rule)
        if step is not None:
            epoch = (step - 1) // N_STEPS + 1
            return "diverged", stage, epoch, step, last_finite(of_stage, step)
    return ("finished", None, None, None, None)


def outcome(rows: Rows) -> tuple[Any, ...]:
    (trial,) = rows["trials"]
    names = ("diverged_stage", "diverged_epoch", "diverged_step", "last_finite_loss")
    return (trial["status"], *(trial.get(name) for name in names))


PACKED = [
    *(Rule(), Rule(2.8, patience=2), Rule(1.0, patience=N_STEPS + 5), Rule(600.0, 1.8, 2)),
    *(Rule(factor=factor) for factor in (1.05, 1.4, 3.0)),
    *(Rule(factor=1.2, patience=patience) for patience in (2, 3, 6)),
    *(Rule(factor=1.001, patience=patience) for patience in (4, 12)),
]
SHAKEN: dict[str, Any] = {"lr": 3e-2}


def pack_of_rules(losses_of: Callable[..., Any]) -> dict[Config, tuple[Any, ...]]:
    """Make lanes of one pack by their outcomes in a plain loop: each rule at two learning rates."""
    return {
        lane_of(rule, **settings): outcome_by_a_loop(losses_of(**settings), rule)
        for settings in ({}, SHAKEN)
        for rule in PACKED
    }


@pytest.mark.slow
def test_lanes_with_rules_of_their_own_end_in_one_pack_as_alone_where_a_loop_says(
    losses_of: Callable[..., Any], small: Source
) -> None:
    lanes = pack_of_rules(losses_of)
    tables = run_pack(list(lanes), small)
    assert {config: outcome(tables[config.id]) for config in lanes} == lanes
    for config, (status, stage, epoch, *_) in lanes.items():
        if status == "diverged":
            check_diverged(tables[config.id], stage, epoch)
    assert_same(tables, run_alone(list(lanes), small))
    assert_same(run_pack(list(lanes)[::-3], small), run_alone(list(lanes), small))
    # Without all of these the comparison would try little.
    ends = list(lanes.values())
    stages = {"train_task_1", "train_generator_1", "train_task_2"}
    assert {stage for _, stage, *_ in ends} == {None, *stages}
    assert {epoch for _, _, epoch, *_ in ends} == {None, 1, 2}
    assert len(set(ends)) > len(ends) // 2


def forgetful_outcome(losses: dict[str, list[Any]], rule: Rule) -> tuple[Any, ...]:
    """Return the stage and step of an end if each epoch began with a clean slate."""
    for stage, of_stage in losses.items():
        for start in (0, N_STEPS):
            step = buried_at(of_stage[start : start + N_STEPS], rule)
            if step is not None:
                return stage, start + step
    return None, None


def factors_of(losses: dict[str, list[Any]]) -> list[float]:
    """Return factors a little below those by which losses are above the lowest before them."""
    ratios = [
        float(loss / min(of_stage[:i]))
        for of_stage in losses.values()
        for i, loss in enumerate(of_stage[1:], 1)
    ]
    return sorted({round(0.999 * ratio, 4) for ratio in ratios if 0.999 * ratio > 1.001})


@pytest.mark.slow
def test_rules_are_carried_over_epochs_and_through_a_resume(
    losses_of: Callable[..., Any], small: Source
) -> None:
    # Only lanes that would end elsewhere if an epoch began with a clean slate can tell.
    tell = []
    for settings in ({}, SHAKEN):
        losses = losses_of(**settings)
        for patience in (1, 2, 5):
            found = []
            for factor in factors_of(losses):
                rule = Rule(factor=factor, patience=patience)
                _, stage, epoch, step, _ = outcome_by_a_loop(losses, rule)
                if epoch == 2 and forgetful_outcome(losses, rule) != (stage, step):
                    found.append((stage, lane_of(rule, **settings)))
            tell += list(dict(found).values())
    # Losses of the classifier stay between these two, the VAE's above both.
    tell += [lane_of(Rule(above, patience=N_STEPS + 5)) for above in (0.01, 50.0)]
    assert {c.loss_patience for c in tell if c.loss_factor} == {1, 2, 5}
    others = [lane_of(Rule()), lane_of(Rule(factor=1.05)), lane_of(Rule(factor=50.0, patience=3))]
    tables = run_pack([*tell, *others], small)
    assert {outcome(tables[c.id])[2] for c in tell} == {2}
    assert len({outcome(tables[c.id])[1] for c in tell}) > 1
    check_resume([*tell, *others], small)


def test_patience_3_outlives_two_bad_steps_in_a_row_in_training(
    losses_of: Callable[..., Any], small: Source
) -> None:
    losses = losses_of()
    factor, end = next(
        (factor, end)
        for factor in factors_of(losses)
        if (end := outcome_by_a_loop(losses, Rule(factor=factor, patience=2)))[0] == "diverged"
        and outcome_by_a_loop(losses, Rule(factor=factor, patience=3))[0] == "finished"
    )
    free, two, three = (
        lane_of(Rule(factor=f, patience=p)) for f, p in ((0, 1), (factor, 2), (factor, 3))
    )
    tables = run_pack([free, two, three], small)
    assert outcome(tables[two.id]) == end
    assert without_id(tables[three.id]) == without_id(tables[free.id])


def without_id(rows: Rows) -> Rows:
    return {
        table: [{n: v for n, v in row.items() if n != "config_id"} for row in of_table]
        for table, of_table in rows.items()
    }


def test_a_group_without_rules_notes_as_it_always_did(
    small: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a group without rules has none to note")

    monkeypatch.setattr("raysweep.learning.training.loss_monitor._Rules.note", fail)
    (rows,) = run_pack([lane_of(Rule(above=300.0))], small).values()
    assert outcome(rows)[:2] == ("diverged", "train_generator_1")
    with pytest.raises(AssertionError, match="none to note"):
        run_pack([lane_of(Rule(patience=2))], small)


def test_a_state_without_the_rules_history_is_refused_not_taken_for_a_fresh_start(
    small: Source,
) -> None:
    configs = [lane_of(Rule(factor=50.0, patience=2))]
    run = PackRun(configs, small)
    run.advance()
    state = run.state()
    del state["group"]["history"]
    with pytest.raises(KeyError, match="history"):
        PackRun(configs, small).restore(state)


def test_what_diverged_by_a_rule_comes_back_from_the_store_and_serves_no_other_rule(
    small: Source, tmp_path: Path
) -> None:
    store = StageCache(tmp_path / ".stages", 10**9)
    lost = lane_of(Rule(1.0, patience=N_STEPS + 5))
    others = [lane_of(Rule(1.0, patience=N_STEPS + 6)), lane_of(Rule()), lane_of(Rule(factor=50.0))]
    wanted = run_alone([lost, *others], small)

    def trials(configs: Sequence[Config]) -> dict[str, int]:
        run, n_stored = PackRun(configs, small, store=store), {}
        while not run.is_done:
            for row in run.advance().trials:
                n_stored[row["config_id"]] = row["n_stored_stages"]
                assert outcome({"trials": [row]}) == outcome(wanted[row["config_id"]])
        return n_stored

    assert trials([lost]) == {lost.id: 0}
    assert trials([lost]) == {lost.id: 1}
    assert trials([lost, *others]) == {lost.id: 1} | {config.id: 0 for config in others}


# --- settings and stages --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            "loss_factor: 0.5",
            "divergence.loss_factor: expected 0 (no such limit) or a number > 1, got 0.5",
        ),
        (
            "loss_factor: 1",
            "divergence.loss_factor: expected 0 (no such limit) or a number > 1, got 1.0",
        ),
        ("loss_factor: -2", "divergence.loss_factor: expected a number >= 0, got -2"),
        (
            "loss_patience: 0",
            "divergence.loss_patience: expected a whole number from 1 to 1000000, got 0",
        ),
        (
            "loss_patience: 1.5",
            "divergence.loss_patience: expected a whole number from 1 to 1000000, got 1.5",
        ),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_in_one_line(
    limits: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(f"divergence: {{{limits}}}\n")
    with pytest.raises(InputError) as caught:
        load_sweep(file)
    text = str(caught.value)
    assert text.removeprefix("sweep.yaml: ").partition(" (line ")[0] == message
    assert len(text.splitlines()) == 1


def test_rules_are_read_and_make_lanes_of_one_pack(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "divergence: {loss_above: 9, loss_factor: {grid_search: [0, 2, 3.5]}}\n"
        "space: {loss_patience: {grid_search: [1, 4]}}\n"
    )
    configs = load_sweep(file).configs
    assert {(c.loss_above, c.loss_factor, c.loss_patience) for c in configs} == {
        (9.0, factor, patience) for factor in (0.0, 2.0, 3.5) for patience in (1, 4)
    }
    assert {"loss_factor", "loss_patience"} <= LANE_SETTINGS
    assert len({pack_key(config) for config in configs}) == 1


def test_rules_are_part_of_all_that_trains_and_of_what_comes_from_it_and_of_no_more() -> None:
    def fingerprints(**more: Any) -> dict[str, str]:
        config = configure(model="comparison", **more)
        return {stage.name: stage.fingerprint for stage in stages_of(config)}

    plain = fingerprints()
    assert fingerprints(loss_factor=0.0, loss_patience=1) == plain
    for rule in ({"loss_factor": 2.0}, {"loss_patience": 2}):
        assert not set(fingerprints(**rule).values()) & set(plain.values())
        real = fingerprints(replay="simple", **rule)
        same = {n for n, f in fingerprints(replay="simple").items() if real[n] == f}
        assert same == {"fill_buffer_1"}  # real samples are drawn as ever


def test_a_lane_without_rules_of_its_own_has_the_numbers_of_a_pack_without_any(
    small: Source,
) -> None:
    plain = [configure(**BASE, lr=lr) for lr in (3e-3, 1e-2)]
    lost = configure(**BASE, lr=1e6)
    ruled = [lane_of(Rule(factor=1.3), lr=2e-3), lane_of(Rule(0.1, patience=30), lr=4e-3)]
    alone = run_alone([*plain, lost], small)
    tables = run_pack([ruled[0], plain[0], lost, ruled[1], plain[1]], small)
    assert_same({c.id: tables[c.id] for c in (*plain, lost)}, alone)
    assert all(outcome(tables[c.id])[0] == "diverged" for c in (lost, *ruled))
