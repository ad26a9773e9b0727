"""A sweep's folder that loses its lock, or is moved, while the sweep runs."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checks import Rows, acknowledged, assert_kept, assert_true_so_far, assert_whole
from conftest import Form, Note
from loads import Load
from runs import Run, assert_no_traceback, end_in_one_line


@pytest.mark.parametrize("n_seeds", [2, 4], ids=["short", "long"])
def test_a_lock_deleted_in_mid_run_loses_no_row(
    form: Form,
    undisturbed: Callable[[Load], Rows],
    note: Note,
    tmp_path: Path,
    n_seeds: int,
) -> None:
    if n_seeds > 2 and not form.is_long:
        pytest.skip("long form only")
    load = Load(n_seeds)
    reference = undisturbed(load)
    run = Run(load, tmp_path)
    run.wait_for_rows(10)
    deleted = time.monotonic()
    (run.folder / ".lock").unlink()
    # Another driver does not get in before the first has noticed and ended.
    other = Run(load, tmp_path)
    end_in_one_line(run, "its lock .lock was deleted or replaced during the run")
    note("lock deleted", load, "time to end, s", time.monotonic() - deleted)
    before = acknowledged(run.folder)
    if other.wait() == 2:
        other = Run(load, tmp_path)
    assert other.wait() == 0, other.output
    assert_no_traceback(other)
    assert_kept(before, run.folder)
    assert_whole(run.folder, load, reference)


def test_a_folder_moved_in_mid_run_keeps_its_rows_and_goes_on_when_it_is_back(
    undisturbed: Callable[[Load], Rows], note: Note, tmp_path: Path
) -> None:
    load = Load(2)
    reference = undisturbed(load)
    run = Run(load, tmp_path)
    run.wait_for_rows(10)
    moved = tmp_path / "elsewhere"
    start = time.monotonic()
    run.folder.rename(moved)
    # What was edited meanwhile counts for the next run only.
    (tmp_path / f"{load.name}.yaml").write_text("space: [")
    line = end_in_one_line(run, f"the folder was moved to {moved} during the run")
    note("folder moved", load, "time to end, s", time.monotonic() - start)
    assert "move it back" in line
    assert not run.folder.exists()
    before = acknowledged(moved)
    assert len(before["trials"]) >= 10
    assert_true_so_far(moved, reference)
    moved.rename(run.folder)
    again = Run(load, tmp_path)
    assert again.wait() == 0, again.output
    assert_kept(before, again.folder)
    assert_whole(again.folder, load, reference)
