"""A limit on processes that leaves Ray no room is one line before Ray starts."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from raysweep.errors import NothingRunsError
from raysweep.tune.cluster import process_limits
from raysweep.tune.cluster.process_limits import expect_room_for_ray


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Return a function that puts this process into a group with a limit, and so many used."""
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True)
    monkeypatch.setattr(process_limits, "_MOUNTS", {"": str(tmp_path)})
    monkeypatch.setattr(Path, "read_text", _reading(Path.read_text, "0::/outer/inner\n"))

    def limit(most: str, used: int) -> None:
        (outer / "pids.max").write_text(f"{most}\n")
        (outer / "pids.current").write_text(f"{used}\n")

    return limit


def _reading(read: Callable[..., str], line: str) -> Callable[..., str]:
    def text(path: Path, *args: object) -> str:
        return line if str(path) == "/proc/self/cgroup" else read(path, *args)

    return text


def test_a_group_above_that_is_nearly_full_is_refused_and_one_with_room_is_not(
    group: Callable[[str, int], None],
) -> None:
    group("1000", 900)
    with pytest.raises(NothingRunsError, match=r"at least 244 .* \(2\), got 100; raise the limit"):
        expect_room_for_ray(2)
    for most, used in (("1000", 700), ("max", 900)):
        group(most, used)
        expect_room_for_ray(2)


def test_a_users_limit_counts_but_not_for_root(
    group: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    group("max", 1)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (50, 50))
    monkeypatch.setattr(process_limits.os, "getuid", lambda: 0)
    expect_room_for_ray(2)
    monkeypatch.setattr(process_limits.os, "getuid", lambda: 12345)  # runs nothing here
    with pytest.raises(NothingRunsError, match=r"got 50; raise the limit \(ulimit -u"):
        expect_room_for_ray(2)
