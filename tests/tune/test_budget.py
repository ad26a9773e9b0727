"""What ends a run before all is done: budgets, and failures that come alike."""

import pytest

from raysweep.errors import InputError
from raysweep.settings.stopping import Budget, budget_of
from raysweep.tune.scheduling.budgets import ALIKE, End, Meter


class Clock:
    """A clock that is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def meter(gpu: float = 0.25, **budget: float) -> tuple[Meter, Clock]:
    clock = Clock()
    return Meter(Budget(**budget), gpu, clock.now, clock), clock  # type: ignore[arg-type]


def test_gpu_hours_are_the_share_of_each_pack_times_the_time_it_had_its_slot() -> None:
    made, clock = meter(gpu_h=1.0)
    made.note_start("a")
    clock.now += 3600
    made.note_start("b")
    clock.now += 1800
    made.note_end("a")
    made.note_end("a")  # as where a pack ends that was settled before
    assert made.gpu_h == pytest.approx(0.25 * (1.5 + 0.5))
    assert made.end() is None
    clock.now += 3600
    assert made.gpu_h == pytest.approx(0.25 * (1.5 + 1.5))
    clock.now += 3601
    assert made.end() == End("max_gpu_hours of 1 used up")


def test_a_time_budget_counts_from_the_start_of_the_command() -> None:
    made, clock = meter(time_s=5400)
    clock.now += 5399
    assert made.end() is None
    clock.now += 1
    assert made.end() == End("time_budget of 1 h 30 min used up")


def test_without_a_budget_nothing_ends_a_run() -> None:
    made, clock = meter()
    made.note_start("a")
    clock.now += 1e9
    assert made.end() is None


@pytest.mark.parametrize(
    ("errors", "is_over"),
    [
        (["no GPU"] * ALIKE, True),
        (["no GPU"] * (ALIKE - 1), False),
        (["no GPU", "no GPU", None, "no GPU"], False),
        (["no GPU", "no GPU", "other", "no GPU", "no GPU"], False),
        ([None, "other", *["no GPU"] * ALIKE], True),
        ([None] * 5, False),
    ],
)
def test_only_failures_in_a_row_with_one_message_end_a_run(
    errors: list[str | None], is_over: bool
) -> None:
    made, _ = meter()
    for error in errors:
        made.note_outcome(error)
    assert made.end() == (End(common_error="no GPU") if is_over else None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30 min", 1800), ("1.5h", 5400), ("2d", 172800), (90, 90), ("1e3", 1000)],
)
def test_a_time_budget_has_a_unit_or_is_in_seconds(text: object, seconds: float) -> None:
    assert budget_of(text, None, None) == Budget(time_s=seconds)


@pytest.mark.parametrize("wrong", ["0", "8 hours", "1h30", "-1h", True, [1], "nan", "inf"])
def test_what_is_no_duration_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="time_budget: expected"):
        budget_of(wrong, None, None)
