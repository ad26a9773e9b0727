"""Runs that were set aside go on as one: to the last bit with the numbers of each alone."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from checkpoints import passed_through_a_file
from small_configs import configure

from raysweep.learning.config import Config
from raysweep.learning.data.sources import Source
from raysweep.packs.merging import _joined_groups, joined
from raysweep.packs.pack import pack_key
from raysweep.packs.run import PackRun
from raysweep.settings.stopping import Stop
from tests.packs.test_lanes import Rows, add, assert_same, empty, mixed, run_alone


def join_after(
    n_epochs: int,
    packs: Sequence[Sequence[Config]],
    source: Source,
    stopped: Sequence[Config] = (),
) -> dict[str, Rows]:
    """Train packs for some epochs, stop some of their configurations, go on with the rest as one.

    Gives the rows of all.
    """
    tables = empty([config for pack in packs for config in pack])
    states, left = [], []
    for pack in packs:
        run = PackRun(pack, source)
        for _ in range(n_epochs):
            add(run.advance(), tables)
        gone = {c.id: Stop(n_epochs, "behind") for c in stopped if c in pack}
        run.stop(gone)
        add(run.settle(), tables)
        assert not run.is_done
        ended = {i for i, rows in tables.items() if rows["trials"]}
        left += [config for config in pack if config.id not in ended]
        states.append(passed_through_a_file(run.state()))
    assert len({state["turn"] for state in states}) == 1
    whole = PackRun(left, source)
    whole.restore(joined(states, left))
    while not whole.is_done:
        add(whole.advance(), tables)
    return tables


def check(
    packs: Sequence[Sequence[Config]],
    source: Source,
    n_epochs: int,
    stopped: Sequence[Config] = (),
) -> None:
    """Hold the rows against those of each configuration alone."""
    tables = join_after(n_epochs, packs, source, stopped)
    alone = run_alone([config for pack in packs for config in pack], source)
    for config in stopped:
        rows = tables.pop(config.id)
        assert rows["epochs"] == alone[config.id]["epochs"][:n_epochs]
        assert [row["status"] for row in rows["trials"]] == ["stopped"]
    assert_same(tables, alone)


@pytest.mark.slow
@pytest.mark.parametrize("n_epochs", [1, 2, 3, 5])
@pytest.mark.parametrize("model", ["vib", "comparison"])
def test_lanes_of_several_runs_go_on_as_one_with_the_numbers_of_each_alone(
    model: str, n_epochs: int, small: Source
) -> None:
    # Epochs 2 and 4 end a group; a comparison's third belongs to its VAE.
    configs = mixed(model=model)
    others = [configure(**(c.model_dump() | {"lr": c.lr * 1.5})) for c in configs]
    assert len({pack_key(config) for config in [*configs, *others]}) == 1
    stopped = [configs[0], others[1]] if n_epochs <= 2 else []
    check([configs, others], small, n_epochs, stopped)


SETTINGS: dict[str, dict[str, Any]] = {
    "adagrad": {"optimizer": "adagrad"},
    "averaged weights": {"ema_decay": 0.9},
    "limits that follow the loss": {"loss_factor": 50.0, "loss_patience": 2},
    "a schedule": {"lr_schedule": "exponential", "lr_decay": 0.8},
    "a cosine": {"lr_schedule": "cosine", "epochs": 3},
    "momentum of sgd": {"optimizer": "sgd", "momentum": 0.9, "clip_norm": 2.0},
    "momentum of rmsprop, kept": {
        **{"optimizer": "rmsprop", "momentum": 0.5, "clip_norm": 20.0},
        **{"optimizer_state": "keep", "replay": "simple"},
    },
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "dropout": {"dropout": 0.3, "replay": "simple", "label_smoothing": 0.1},
    "three tasks": {"n_tasks": 3, "epochs": 1, "replay": "generative"},
    "moments that stay": {"optimizer_state": "keep", "replay": "simple"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_all_that_a_lane_carries_comes_along(name: str, small: Source) -> None:
    first, second = (
        [configure(**({"lr": lr} | SETTINGS[name])) for lr in rates]
        for rates in ((1e-3, 2e-3), (5e-4, 3e-3, 4e-3))
    )
    check([first, second], small, 1)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("optimizer_state", ["reset", "keep"])
def test_lanes_without_momentum_and_dropout_join_those_that_have_them(
    optimizer_state: str, order: int, small: Source
) -> None:
    base: dict[str, Any] = {"optimizer": "rmsprop", "lr": 1e-3, "replay": "simple"}
    base["optimizer_state"] = optimizer_state
    packs = [
        [configure(**base, beta_2=beta, momentum=m, dropout=p) for beta in (0.01, 0.02)]
        for m, p in ((0.0, 0.0), (0.5, 0.3))
    ]
    check(packs[::order], small, 1)
    check(packs[::order], small, 2)


def test_a_stage_that_several_runs_trained_goes_on_once(small: Source) -> None:
    first, second = (
        [configure(replay="simple", replay_weight=weight) for weight in weights]
        for weights in ((0.2, 0.4), (0.6, 0.8))
    )
    check([first, second], small, 1)
    check([first, second], small, 3)


def test_lanes_with_and_without_a_reconstruction_find_their_rows(small: Source) -> None:
    first, second = (
        [configure(beta_1=beta, lr=lr) for beta in (0.0, -0.02)] for lr in (1e-3, 2e-3)
    )
    check([first, second], small, 1, [first[1]])


@pytest.mark.parametrize("order", [1, -1])
def test_a_model_with_moments_takes_the_place_of_one_without(order: int, small: Source) -> None:
    # They share task 1; a run whose lanes all begin anew with their optimiser keeps no moments.
    packs = [
        [configure(optimizer_state=kind, replay="none", beta_2=beta) for beta in betas]
        for kind, betas in (("reset", (0.01, 0.02)), ("keep", (0.01, 0.02)))
    ]
    check(packs[::order], small, 2)


def test_a_decision_that_was_not_carried_out_goes_along(small: Source) -> None:
    configs = [configure(lr=lr) for lr in (1e-3, 2e-3)]
    run = PackRun(configs, small)
    for _ in range(3):
        run.advance()
    run.stop({configs[0].id: Stop(3, "behind")})
    state = passed_through_a_file(run.state())
    tables = empty(configs)
    again = PackRun(configs, small)
    again.restore(joined([state], configs))
    add(again.advance(), tables)
    (row,) = tables[configs[0].id]["trials"]
    assert (row["status"], row["stopped_rung"]) == ("stopped", 3)
    assert not tables[configs[0].id]["epochs"]
    assert len(tables[configs[1].id]["epochs"]) == 1


def test_runs_at_other_epochs_or_groups_have_other_turns(small: Source) -> None:
    run = PackRun([configure()], small)
    turns = [run.turn]
    while not run.is_done:
        run.advance()
        turns.append(run.turn)
    assert len(set(turns)) == len(turns)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("n_epochs", [3, 5])
def test_what_a_stopped_twin_left_of_a_stage_does_not_take_the_place_of_the_whole(
    n_epochs: int, order: int, small: Source
) -> None:
    # Two share the stage of task 1, in runs of their own; one of them stops in the midst of it.
    goes_on, twin = (
        configure(lr=0.01, epochs=4, replay="simple", replay_weight=weight) for weight in (0.3, 0.6)
    )
    mate, behind = (configure(lr=lr, epochs=4, replay="simple") for lr in (0.03, 0.02))
    tables, states = empty([goes_on, twin, mate, behind]), []
    for pack in [(goes_on, behind), (twin, mate)][::order]:
        run = PackRun(pack, small)
        for epoch in range(1, n_epochs + 1):
            add(run.advance(), tables)
            if epoch == 1:
                run.stop({twin.id: Stop(1, "behind")} if twin in pack else {})
        run.stop({behind.id: Stop(n_epochs, "behind")} if behind in pack else {})
        add(run.settle(), tables)
        states.append(passed_through_a_file(run.state()))
    left = [goes_on, mate]
    whole = PackRun(left, small)
    whole.restore(joined(states, left))
    while not whole.is_done:
        add(whole.advance(), tables)
    assert_same({c.id: tables[c.id] for c in left}, run_alone(left, small))


def test_groups_with_and_without_a_momentum_buffer_join() -> None:
    rows = torch.arange(12.0).view(4, 3) + 1

    def group(lanes: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
        return {
            "lanes": [str(k) for k in lanes],
            "last_finite": [0.0] * len(lanes),
            "optimizer_steps": [k + 5 for k in lanes],
            "epochs": 1,
            "steps": 5,
            "history": {},
            "flat": rows[lanes],
            "moments": dict.fromkeys(names, 10 * rows[lanes]),
            "average": None,
        }

    bare = group([0, 3], ["square_avg"])
    others = group([1, 2], ["square_avg", "momentum_buffer"])
    expected = torch.zeros_like(rows)
    expected[[1, 2]] = 10 * rows[[1, 2]]
    for groups in ([bare, others], [others, bare]):
        whole = _joined_groups(groups, [{"0", "1", "2"}] * 2)
        at = [int(name) for name in whole["lanes"]]
        assert sorted(at) == [0, 1, 2]
        assert torch.equal(whole["flat"], rows[at])
        assert torch.equal(whole["moments"]["square_avg"], 10 * rows[at])
        assert torch.equal(whole["moments"]["momentum_buffer"], expected[at])
        assert whole["optimizer_steps"] == [k + 5 for k in at]
