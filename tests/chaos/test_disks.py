"""Results folders on disks that are full, or that nothing can be written to."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checks import Rows, acknowledged, assert_kept, assert_true_so_far, assert_whole
from conftest import Form, Note
from hosts import Mounts
from loads import Load
from runs import Run, assert_no_traceback, end_in_one_line

pytestmark = pytest.mark.usefixtures("root_and_namespaces")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Mounts, Path]]:
    """Return a disk of 64 MB: file systems in which it is mounted, and where."""
    location = tmp_path / "disk"
    location.mkdir()
    with Mounts() as mounts:
        mounts.run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(location))
        yield mounts, location


def _start(load: Load, mounts: Mounts, location: Path) -> Run:
    return Run(load, location, enter=mounts.words, seen=mounts.path)


@pytest.mark.parametrize("epochs", [2, 20], ids=["short", "with_checkpoints"])
def test_a_full_disk_is_one_line_and_after_making_room_the_sweep_goes_on(
    form: Form,
    undisturbed: Callable[[Load], Rows],
    note: Note,
    disk: tuple[Mounts, Path],
    epochs: int,
) -> None:
    if epochs > 2 and not form.is_long:
        pytest.skip("long form only")
    mounts, location = disk
    load = Load(form.pick(2, 4), epochs, pack=5 if epochs == 2 else 25)
    reference = undisturbed(load)
    run = _start(load, mounts, location)
    run.wait_for_rows(10, "trials" if epochs == 2 else "epochs")
    before = acknowledged(run.folder)
    ballast, filled = location / "ballast", time.monotonic()
    mounts.run("sh", "-c", f"head -c 65m /dev/zero > {ballast} 2>/dev/null; true")
    end_in_one_line(run, "No space left on device")
    note("disk full", load, "time to end, s", time.monotonic() - filled)
    assert_kept(before, run.folder)
    assert_true_so_far(run.folder, reference)
    if form.is_long:
        full = _start(load, mounts, location)
        assert full.wait() in (2, 3), full.output
        assert_no_traceback(full)
        assert len(full.error_lines) == 1, full.output
    mounts.run("rm", str(ballast))
    again = _start(load, mounts, location)
    assert again.wait() == 0, again.output
    assert_kept(before, again.folder)
    assert_whole(again.folder, load, reference)


def test_a_folder_that_turns_read_only_is_one_line_and_the_sweep_goes_on(
    undisturbed: Callable[[Load], Rows], note: Note, disk: tuple[Mounts, Path]
) -> None:
    mounts, location = disk
    load = Load(2)
    reference = undisturbed(load)
    run = _start(load, mounts, location)
    run.wait_for_rows(10)
    before = acknowledged(run.folder)
    folder, turned = str(location / "results" / load.name), time.monotonic()
    # A second mount of the folder on itself: the first one is in use and can't be changed.
    mounts.run("mount", "--bind", folder, folder)
    mounts.run("mount", "-o", "remount,bind,ro", folder)
    end_in_one_line(run, "Read-only file system")
    note("results folder read-only", load, "time to end, s", time.monotonic() - turned)
    assert_kept(before, run.folder)
    refused = _start(load, mounts, location)
    assert refused.wait() == 2, refused.output
    assert len(refused.error_lines) == 1, refused.output
    assert_no_traceback(refused)
    mounts.run("umount", folder)
    again = _start(load, mounts, location)
    assert again.wait() == 0, again.output
    assert_kept(before, again.folder)
    assert_whole(again.folder, load, reference)
