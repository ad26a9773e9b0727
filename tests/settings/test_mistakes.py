"""Several mistakes as one error, words of other programs, and hints that can be copied."""

import pickle
from pathlib import Path

import pytest

from raysweep.errors import InputError, all_of, together
from raysweep.learning.config import Config, section_of
from raysweep.settings.foreign import FOREIGN_WORDS, ours_for, ours_in_place_of
from raysweep.settings.grid import check_value, choices, example_of
from raysweep.settings.names import SECTIONS, TOP_KEYS
from raysweep.settings.sampling import METHODS, Domain
from raysweep.settings.sweep import load_sweep, sweep_from
from raysweep.settings.yaml_text import parse_yaml
from raysweep.user_text.values import reading, seconds_in


def refuse(text: str) -> str:
    raise InputError(f"{text}: expected another, got this")


def test_one_mistake_stays_as_it_is_and_equal_ones_are_one() -> None:
    assert all_of([]) == [] and all_of([lambda: 1, lambda: 2]) == [1, 2]
    with pytest.raises(InputError) as caught:
        all_of([lambda: "x", lambda: refuse("a"), lambda: refuse("a")])
    assert str(caught.value) == "a: expected another, got this"
    assert caught.value.mistakes == (caught.value,)


def test_several_mistakes_keep_what_each_says_also_in_another_process() -> None:
    mistakes = [InputError("a.b: expected x", "c.d", is_key=True), InputError("b: expected y")]
    error = together(mistakes, "vib.yaml")
    for same in (error, pickle.loads(pickle.dumps(error))):
        assert str(same) == "vib.yaml: 2 mistakes\n  a.b: expected x\n  b: expected y"
        assert [(m.place, m.is_key) for m in same.mistakes] == [("c.d", True), ("b", False)]
    nested = together([*error.mistakes, InputError("c: expected z")])
    assert str(nested).startswith("3 mistakes\n  a.b")


def test_each_mistake_of_a_file_has_its_name_and_place() -> None:
    with pytest.raises(InputError) as caught:
        sweep_from("vib.yaml", b"pack: 0\nspace:\n  lr: -1\n", ["space.beta_2=-1"])
    assert [str(mistake) for mistake in caught.value.mistakes] == [
        "vib.yaml: space.beta_2: expected a number >= 0, got -1",
        "vib.yaml: pack: expected auto or a whole number > 0, got 0 (line 1, column 7)",
        "vib.yaml: space.lr: expected a number > 0, got -1 (line 3, column 7)",
    ]
    assert [mistake.place for mistake in caught.value.mistakes][1:] == ["pack", "space.lr"]


def test_a_file_name_is_made_printable_and_the_lines_stay() -> None:
    with pytest.raises(InputError) as caught:
        sweep_from("a\nb.yaml", b"pack: 0\nspace: {lr: -1}\n")
    assert str(caught.value).split("\n")[0] == "a\\nb.yaml: 2 mistakes"
    assert len(str(caught.value).split("\n")) == 3


@pytest.mark.parametrize("name", FOREIGN_WORDS)
def test_what_is_written_for_a_foreign_word_is_accepted_here(name: str) -> None:
    assert name not in Config.model_fields and name not in TOP_KEYS
    ours = FOREIGN_WORDS[name]
    assert ours_for(name) == ours
    if ours in Config.model_fields:
        assert section_of(ours) in SECTIONS
        return
    head = ours.partition(":")[0]
    if head in TOP_KEYS and not ours.endswith(":") and "[...]" not in ours:
        lr = "space: {lr: {loguniform: [1e-4, 1e-1]}}\n" if head == "search" else ""
        sweep_from("x", f"{lr}{ours}\n".encode())
    elif ours.startswith("{"):
        (kind, values), *_ = parse_yaml(ours).items()
        assert kind in ("grid_search", "choice") or choices("beta_1", {kind: values}, "x")
    else:
        assert head in (*TOP_KEYS, "mode") or ours in (*METHODS, "max", "min")


def test_words_are_found_however_they_are_spelt() -> None:
    assert {ours_for(w) for w in ("learning_rate", "learningRate", "learning-rate", "--lr")} == {
        "lr",
        "",
    }
    assert ours_for("Learning Rate") == "lr" and ours_for(3) == ours_for(None) == ""


@pytest.mark.parametrize("name", [n for n in Config.model_fields if section_of(n) in SECTIONS])
def test_the_distribution_that_a_message_names_is_one_of_the_setting(name: str) -> None:
    assert isinstance(choices(name, parse_yaml(example_of(name)), "x"), Domain)
    with pytest.raises(InputError, match="or a distribution such as"):
        check_value(name, object(), "x", method="random")


@pytest.mark.parametrize(
    "text",
    [
        *("tune.sample_from(lambda: 1)", "choice()", "f(", "(" * 400, "a(b(c))", "range(0)"),
        *("tag(log)", "tag()", "suggest_float()", "suggest_float('lr', 'a', 'b')", "hp.x('a')"),
        *("tune.choice(*a)", "range(1, 2, 0)", "tag(log, interval(-1, 1))", "uniform(1)"),
    ],
)
def test_a_call_that_is_none_of_theirs_has_no_hint(text: str) -> None:
    assert ours_in_place_of(text, is_whole=False, is_drawn=False) == ""
    assert ours_in_place_of({text: text}, is_whole=True, is_drawn=True) == ""


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("space: {lr: {grid: [0.1, 0.2]}}", "; write {grid_search: [0.1, 0.2]}"),
        ("space: {lr: {list: [0.1, 0.2]}}", "; write {grid_search: [0.1, 0.2]}"),
        ("space: {lr: {values: [0.1, 0.2]}}", "; write {grid_search: [0.1, 0.2]}"),
        ("space: {lr: {value: 0.1}}", "; write 0.1"),
        ("space: {grid: [1, 2]}", "; write `{grid_search: [1, 2]}` after a setting's name"),
        ("grid: [1, 2]", "; write `{grid_search: [1, 2]}`"),
        ("value: 0.1", "; write 0.1 itself after a setting's name"),
        (
            "search: {method: random, n_samples: 3}\nspace: {lr: {grid: [0.1, 0.2]}}",
            "; write {grid_search: [0.1, 0.2]}",
        ),
        (
            "search: {method: optuna, n_samples: 3}\nspace: {lr: {grid: [0.1, 0.2]}}",
            "; write {choice: [0.1, 0.2]}",
        ),
        (
            "early_terminate: {type: hyperband, min_iter: 3}",
            "; write `early_stopping: {method: asha}`",
        ),
        (
            "early_stopping: {metric: val_acc}",
            "or class_loss, got 'val_acc' (did you mean average_accuracy?)",
        ),
        ("early_stopping: {metric: loss}", "or class_loss, got 'loss'"),
    ],
)
def test_other_programs_forms_have_a_hint_at_ours(text: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        sweep_from("x", text.encode())
    assert f"{hint} (line" in str(caught.value)


def test_long_lists_are_cut() -> None:
    ours = ours_in_place_of({"values": list(range(1000))}, is_whole=True, is_drawn=False)
    assert ours == "{grid_search: [...]}"


@pytest.mark.parametrize(
    ("value", "kind", "hint"),
    [
        ("10,000", "whole", "; write 10000"),
        ("1,000", "whole", "; write 1000"),
        ("1,000,000", "real", "; write 1000000"),
        ("10'000", "whole", "; write 10000"),
        ("1,5", "whole", ""),
        ("1,5", "real", "; write 1.5"),
        ("1,000", "real", "; write 1000, or 1.000"),
        ("400,400", "list", "; write [400, 400]"),
        ("(400, 200)", "list", "; write [400, 200]"),
        ("[400]", "list", "; write [400]"),
        (400, "list", "; write [400]"),
        (0, "list", ""),
        (True, "list", ""),
        ("3*10^-4", "real", "; write 0.0003"),
        ("2**10", "whole", "; write 1024"),
        ("1.5k", "whole", "; write 1500"),
        ("1.5k", "list", ""),
        ("", "list", ""),
        ("x" * 1000, "list", ""),
        (0, "flag", "; write false"),
        (2, "flag", ""),
    ],
)
def test_how_a_number_is_written(value: object, kind: str, hint: str) -> None:
    assert reading(value, kind) == hint


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h30m", 5400),
        ("1h 30min", 5400),
        ("2d12h", 216_000),
        ("1.5h", 5400),
        ("1e3s", 1000),
        ("90m", 5400),
        (" 1h ", 3600),
        *((text, 0) for text in ("30m1h", "1h1h", "h", "1h30", "-1h", "", "1hour", "1 h x", "1x")),
    ],
)
def test_a_duration_has_units_from_large_to_small(text: str, seconds: float) -> None:
    assert seconds_in(text) == seconds


def test_durations_are_accepted_wherever_there_are_some() -> None:
    text = b"time_budget: 1h30m\nmax_seconds: 10min\nmax_gpu_hours: 1h30m\n"
    sweep = sweep_from("vib.yaml", text)
    assert (sweep.budget.time_s, sweep.max_seconds, sweep.budget.gpu_h) == (5400, 600, 1.5)


def test_a_missing_file_is_looked_for_one_folder_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "search_spaces", "b/c"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "vib.yaml").write_text("")
    (tmp_path / "other.yaml").write_text("")

    def hint(name: str) -> str:
        with pytest.raises(InputError) as caught:
            load_sweep(Path(name))
        return str(caught.value).partition("found none")[2]

    assert hint("vib.yaml") == "; did you mean search_spaces/vib.yaml, a/vib.yaml?"
    assert hint("vib") == "; did you mean search_spaces/vib.yaml, a/vib.yaml?"
    assert hint("other") == "; did you mean other.yaml?"
    assert hint("othr.yaml") == " (did you mean other.yaml?)"
    assert hint("q.yml") == "; available: other.yaml"
    assert hint("nowhere/vib.yaml") == ""
