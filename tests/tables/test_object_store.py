"""Results in an object store: the same tables, one driver at a time, errors in one line."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import pyarrow.fs
import pytest
from gs_server import gs_credentials, serve_gs
from s3_server import KEY, SECRET, S3Server, StoreServer, only_credentials, serve
from table_rows import accuracy_rows, read_while_flushed, trial_row

from raysweep.errors import InputError
from raysweep.learning.config import Config
from raysweep.tables import conditions, lease, object_store, paths, writer
from raysweep.tables.folder import ResultsFolder, WriteError
from raysweep.tables.object_store import StoreError
from raysweep.tables.pareto import pareto_settings, read_pareto, write_pareto
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import read_accuracy, read_epochs, read_files, read_trials, statuses
from raysweep.tables.writer import Writer

pytestmark = pytest.mark.slow

_NUMBERS = count()
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(request: pytest.FixtureRequest) -> Iterator[StoreServer]:
    with serve() if request.param == "s3" else serve_gs() as server:
        yield server


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    with serve() as server:
        yield server


@pytest.fixture(scope="module")
def gs_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return gs_credentials(tmp_path_factory.mktemp("gs"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: Patch, tmp_path: Path, gs_environment: dict[str, str]) -> None:
    only_credentials(monkeypatch, gs_environment)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(conditions, "_SETTLE_S", 0.05)
    monkeypatch.setattr(lease, "_LOOK_S", 0.1)


@pytest.fixture
def address(server: StoreServer) -> str:
    return server.address(f"results/sweep_{next(_NUMBERS)}")


@pytest.fixture
def folder(address: str) -> Iterator[ResultsFolder]:
    folder = ResultsFolder(address)
    folder.open()
    yield folder
    folder.close()


def trial(status: str = "finished", **settings: object) -> dict[str, object]:
    return trial_row(Config.model_validate(settings), status)


def values(address: str) -> dict[str, float]:
    frame = read_accuracy(address)
    assert frame["config_id"].is_unique
    return dict(zip(frame["config_id"], frame["accuracy"], strict=True))


# The tables


def test_rows_are_read_back_from_a_store_as_written(folder: ResultsFolder, address: str) -> None:
    writer = Writer(folder)
    writer.add("trials", [trial(), trial("diverged", lr=0.5)])
    writer.add("epochs", [{"config_id": Config().id, "stage": "train_task_1", "epoch": 1}])
    writer.add("accuracy", accuracy_rows(0, 3))
    writer.flush()
    parts = folder.location.tree()
    for _ in range(2):
        assert len(read_accuracy(address)) == 3
        assert list(read_epochs(address)["stage"]) == ["train_task_1"]
        assert sorted(read_trials(address)["status"]) == ["diverged", "finished"]
        assert statuses(address)[Config().id] == ("finished", 1)
        writer.fold()
    assert sum("part-" in name for name in parts) == 3
    assert folder.location.tree() == [
        ".lock",
        "accuracy.parquet",
        "epochs.parquet",
        "trials.parquet",
    ]


def test_the_leaderboard_takes_an_address(folder: ResultsFolder, address: str) -> None:
    writer = Writer(folder)
    writer.add("trials", [trial(lr=lr) | {"average_accuracy": lr} for lr in (0.25, 0.125)])
    writer.flush()
    words = [sys.executable, "-m", "analysis.leaderboard", address]
    shown = subprocess.run(words, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "0.2500" in shown.stdout.splitlines()[1]


def test_a_front_is_kept_replaced_and_deleted_in_a_store(
    folder: ResultsFolder, address: str
) -> None:
    def front(accuracies: dict[float, float]) -> list[float]:
        writer = Writer(folder)
        for lr, value in accuracies.items():
            measured = {"average_accuracy": value, "forgetting": value}
            writer.add("trials", [trial(lr=lr) | measured])
        writer.flush()
        metrics = ["average_accuracy", "forgetting"]
        write_pareto(folder, pareto_settings(read_trials(address), metrics))
        found: list[float] = read_pareto(address)["config/lr"].tolist()
        return found

    assert front({0.25: 0.5, 0.125: 0.25}) == [0.25, 0.125]
    assert front({0.5: 0.75, 0.25: 0.75}) == [0.5, 0.25, 0.125]
    for _ in range(2):
        write_pareto(folder, None)
        assert "pareto.parquet" not in folder.location.names()
    with pytest.raises(InputError, match="expected the Pareto front of a search"):
        read_pareto(address)
    (folder.location / ".lock").write_bytes(b'{"holder": "another", "token": "other"}')
    with pytest.raises(WriteError, match="another holds the folder now"):
        write_pareto(folder, read_trials(address))
    assert "pareto.parquet" not in folder.location.names()


def test_an_open_sweep_without_rows_has_empty_tables(folder: ResultsFolder, address: str) -> None:
    assert len(read_trials(address)) == 0
    assert statuses(address) == {}


def test_the_last_row_of_a_key_wins_in_a_store(folder: ResultsFolder, address: str) -> None:
    writer = Writer(folder)
    for value in (0.1, 0.2):
        writer.add("accuracy", accuracy_rows(0, 2, value))
        writer.flush()
    writer.fold()
    writer.add("accuracy", accuracy_rows(1, 1, 0.3))
    writer.flush()
    assert sorted(values(address).values()) == [0.2, 0.3]


def test_a_part_is_one_request(s3_server: S3Server) -> None:
    folder = ResultsFolder(s3_server.address("results/requests"))
    folder.open()
    writer = Writer(folder)
    writer.add("accuracy", accuracy_rows(0, 2000))
    with s3_server.recorded() as requests:
        writer.flush()
    assert [method for method, path in requests if "part-" in path] == ["PUT"]
    folder.close()
    assert len(requests) <= 3, requests  # and a look at the lease


def test_readers_miss_no_acknowledged_row_while_a_store_is_written(
    folder: ResultsFolder, address: str, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(writer, "_FOLD_AFTER_PARTS", 5)
    assert read_while_flushed(Writer(folder), 40, lambda: len(values(address))) > 3
    assert len(values(address)) == 400


@pytest.mark.parametrize("has_repeats", [False, True])
@pytest.mark.parametrize("n_deleted", [0, 1, 2])
def test_a_crash_while_folded_parts_are_deleted_changes_no_row(
    folder: ResultsFolder, address: str, monkeypatch: Patch, has_repeats: bool, n_deleted: int
) -> None:
    writer = Writer(folder)
    for i in range(4):
        writer.add("accuracy", accuracy_rows(0 if has_repeats else 2 * i, 2, i / 10))
        writer.flush()
    before = values(address)
    calls = count()
    delete = ResultsPath.delete

    def crash(location: ResultsPath) -> None:
        # The oldest takes longest, where several are deleted at once.
        time.sleep(0.1 * (5 - int(location.name[-9])))
        if next(calls) >= n_deleted:
            raise MemoryError
        delete(location)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(ResultsPath, "delete", crash)
        writer.fold()
    assert len((folder.location / "parts" / "accuracy").names()) == 4 - n_deleted
    assert values(address) == before


def test_a_later_run_wins_in_a_store_even_if_the_clock_was_set_back(
    folder: ResultsFolder, address: str, monkeypatch: Patch
) -> None:
    for clock, value in ((2_000, 0.1), (1_000, 0.2)):
        monkeypatch.setattr("raysweep.tables.writer.time.time_ns", lambda: clock)  # noqa: B023
        writer = Writer(folder)
        writer.add("accuracy", accuracy_rows(0, 1, value))
        writer.flush()
    assert list(values(address).values()) == [0.2]


# Kills, interrupts, losses of the network

_DRIVER = """
import sys
from raysweep.tables import writer
from raysweep.tables.folder import ResultsFolder
from raysweep.tables.writer import Writer
writer._FOLD_AFTER_PARTS = 4
folder = ResultsFolder(sys.argv[1])
folder.open()
results = Writer(folder)
print("open", flush=True)
for i in range(10**6):
    results.add("accuracy", [{"config_id": f"{i:016x}", "after_task": 1, "on_task": 1,
                              "accuracy": 0.5}])
    results.flush()
    print(i, flush=True)
"""


def start_driver(address: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", _DRIVER, address]
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert driver.stdout
    assert driver.stdout.readline() == "open\n"
    return driver


def test_a_killed_driver_leaves_whole_files_and_another_goes_on(address: str) -> None:
    driver = start_driver(address)
    assert driver.stdout
    seen = [driver.stdout.readline() for _ in range(15)]
    driver.kill()
    seen += driver.stdout.readlines()
    driver.wait(timeout=30)
    n_acknowledged = sum(line.endswith("\n") for line in seen)
    assert n_acknowledged <= len(values(address)) <= n_acknowledged + 1
    said: list[str] = []
    folder = ResultsFolder(address)
    folder.open(say=said.append)  # at once: the process is gone
    folder.close()
    assert said == []


def test_an_interrupt_leaves_a_whole_file(folder: ResultsFolder, monkeypatch: Patch) -> None:
    put = ResultsPath._put
    begun = threading.Event()

    def slow(location: ResultsPath, content: bytes) -> None:
        begun.set()
        time.sleep(0.5)
        put(location, content)

    monkeypatch.setattr(ResultsPath, "_put", slow)
    location = folder.location / "parts" / "x"
    interrupt = threading.Thread(target=lambda: (begun.wait(), os.kill(os.getpid(), signal.SIGINT)))
    # A shell starts what runs in its background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            location.write_bytes(b"content")
    finally:
        interrupt.join()
        signal.signal(signal.SIGINT, before)
    wait_until(location.exists)
    assert location.read_bytes() == b"content"


def wait_until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_short_loss_of_the_network_loses_no_row_and_ends_no_sweep(
    folder: ResultsFolder, address: str, monkeypatch: Patch
) -> None:
    put = ResultsPath._put
    losses = iter([True, True])

    def lossy(location: ResultsPath, content: bytes) -> None:
        if "part-" in location.name and next(losses, False):
            raise StoreError("no connection to the store", is_passing=True)
        put(location, content)

    monkeypatch.setattr(ResultsPath, "_put", lossy)
    monkeypatch.setattr("raysweep.tables.object_store.time.sleep", lambda s: None)
    writer = Writer(folder)
    writer.add("accuracy", accuracy_rows(0, 3))
    writer.flush()
    assert len(values(address)) == 3


def test_a_write_that_is_refused_is_told_at_once_and_keeps_the_rows(
    folder: ResultsFolder, address: str, monkeypatch: Patch
) -> None:
    attempts: list[ResultsPath] = []

    def refused(location: ResultsPath, content: bytes) -> None:
        attempts.append(location)
        raise StoreError("the store refuses the credentials")

    writer = Writer(folder)
    writer.add("accuracy", accuracy_rows(0, 3))
    with monkeypatch.context() as patch:
        patch.setattr(ResultsPath, "_put", refused)
        with pytest.raises(WriteError, match="expected to write results, got: the store refuses"):
            writer.flush()
    assert len(attempts) == 1
    writer.flush()
    assert len(values(address)) == 3


# One driver at a time


def test_a_second_driver_is_refused_as_soon_as_the_first_renews_its_lease(
    address: str, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.3)
    first = ResultsFolder(address)
    first.open()
    said: list[str] = []
    with pytest.raises(InputError) as refusal:
        ResultsFolder(address).open(say=said.append)
    assert len(said) == 1
    assert f"process {os.getpid()} on {socket.gethostname()} holds it" in str(refusal.value)
    assert "wait for it, or use another --name" in str(refusal.value)
    first.close()
    second = ResultsFolder(address)
    second.open(say=said.append)  # at once: nobody holds it
    second.close()
    assert len(said) == 1
    assert [name for name in second.location.names() if name.startswith(".lock")] == [".lock"]


def test_a_lease_that_nobody_renews_is_taken_after_a_while(
    address: str, monkeypatch: Patch
) -> None:
    left = ResultsFolder(address)
    (left.location / ".lock").write_bytes(b'{"holder": "process 1 on gone", "token": "x"}')
    monkeypatch.setattr(lease, "STALE_S", 0.5)
    said: list[str] = []
    left.open(say=said.append)
    left.close()
    (line,) = said
    assert "process 1 on gone holds it" in line
    assert "unless it is still alive" in line


def test_a_driver_whose_lease_was_taken_writes_no_more_and_leaves_the_other_its_files(
    folder: ResultsFolder, address: str
) -> None:
    writer = Writer(folder)
    writer.add("accuracy", accuracy_rows(0, 3))
    lease = json.dumps({"holder": "process 7 on elsewhere", "token": "other"}).encode()
    (folder.location / ".lock").write_bytes(lease)
    (folder.location / ".tune" / "checkpoint").write_bytes(b"of the other driver")
    for write in (writer.flush, writer.fold):
        with pytest.raises(WriteError, match="process 7 on elsewhere holds the folder now"):
            write()
    folder.close()
    assert folder.location.tree() == [".lock", ".tune/checkpoint"]
    assert (folder.location / ".lock").read_bytes() == lease


def test_a_driver_that_lost_its_lease_while_it_folds_leaves_the_tables_alone(
    folder: ResultsFolder, address: str, monkeypatch: Patch
) -> None:
    writer = Writer(folder)
    writer.add("accuracy", accuracy_rows(0, 3))
    writer.flush()

    def lose(location: ResultsPath, table: str) -> object:
        found = read_files(location, table)
        (folder.location / ".lock").write_bytes(b'{"holder": "another", "token": "other"}')
        return found

    monkeypatch.setattr("raysweep.tables.writer.read_files", lose)
    with pytest.raises(WriteError, match="another holds the folder now"):
        writer.fold()
    assert not [name for name in folder.location.names() if name.endswith(".parquet")]
    assert len(values(address)) == 3


def test_a_driver_does_not_renew_a_lease_that_another_has(address: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.1)
    folder = ResultsFolder(address)
    folder.open()
    lock = folder.location / ".lock"
    first = lock.read_bytes()
    wait_until(lambda: lock.read_bytes() != first)  # it is renewed
    lock.write_bytes(b'{"holder": "another", "token": "other"}')
    # A renewal under way may still come; after it the thread sees the other's, which stays.
    time.sleep(0.3)
    lock.write_bytes(b'{"holder": "another", "token": "other"}')
    time.sleep(0.3)
    assert json.loads(lock.read_bytes())["token"] == "other"
    folder.close()


# Starting over


def fill(folder: ResultsFolder) -> list[str]:
    writer = Writer(folder)
    writer.add("accuracy", accuracy_rows(0, 3))
    writer.add("trials", [trial()])
    writer.fold()
    writer.add("trials", [trial(lr=0.5)])
    writer.flush()
    folder.write_text("sweep.yaml", "x: 1")
    folder.write_log("a.log", "trace")
    return [name for name in folder.location.tree() if name != ".lock"]


def test_fresh_moves_a_stores_folder_aside_and_loses_nothing(address: str) -> None:
    folder = ResultsFolder(address)
    folder.open()
    before = fill(folder)
    (folder.location / ".tune" / "x").write_bytes(b"Ray's")
    folder.close()
    moved = folder.open(is_fresh=True)
    folder.close()
    assert moved is not None
    assert moved.tree() == before
    assert len(read_trials(moved)) == 2
    assert len(read_accuracy(moved)) == 3
    assert folder.location.tree() == [".lock"]


@pytest.mark.parametrize("n_copied", [0, 3])
@pytest.mark.parametrize("n_deleted", [0, 2, 4])
def test_a_crash_while_a_folder_is_moved_aside_loses_nothing(
    address: str, monkeypatch: Patch, n_copied: int, n_deleted: int
) -> None:
    folder = ResultsFolder(address)
    folder.open()
    before = fill(folder)
    trials = set(read_trials(address)["config_id"])
    folder.close()

    def crash_after(patch: Patch, n: int, method: str) -> None:
        calls, real = count(), getattr(ResultsPath, method)

        def crash(location: ResultsPath, *more: ResultsPath) -> None:
            if not location.name.startswith(".lock") and next(calls) >= n:
                raise MemoryError
            real(location, *more)

        patch.setattr(ResultsPath, method, crash)

    again = ResultsFolder(address)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        crash_after(patch, n_copied if n_deleted == 0 else 1000, "copy")
        crash_after(patch, n_deleted, "delete")
        again.open(is_fresh=True)
    again.close()
    base = folder.location.with_name("")
    aside = [name for name in base.names() if name.startswith(f"{folder.location.name}.")]
    kept = folder.location.tree()
    if n_deleted:
        (name,) = aside
        assert folder.location.with_name(name).tree() == before
    else:
        assert [name for name in kept if name != ".lock"] == before
    left = set(read_trials(address)["config_id"]) if kept else set()
    assert left <= trials
    if left:  # a row of trials vouches for the others
        assert len(read_accuracy(address)) == 3


def test_a_manifest_and_logs_are_kept_in_a_store(folder: ResultsFolder) -> None:
    manifest = folder.location / "manifest.json"
    folder.add_run({"start": "1", "end": None})
    folder.add_run({"start": "1", "end": "2"})
    assert json.loads(manifest.read_bytes())["runs"] == [{"start": "1", "end": "2"}]
    manifest.write_bytes(b"{ damaged")
    folder.add_run({"start": "3"})
    assert json.loads(manifest.read_bytes())["runs"] == [{"start": "3"}]
    assert (folder.location / "manifest.json.damaged").read_bytes() == b"{ damaged"
    log = folder.write_log("x.log", "trace")
    assert str(log).startswith(f"{folder.location.address}/logs/x.log?")
    assert log.read_bytes() == b"trace"


def test_checkpoints_go_one_by_one_and_the_rest_at_the_end(folder: ResultsFolder) -> None:
    path, filesystem = folder.storage()
    assert isinstance(filesystem, pyarrow.fs.S3FileSystem | pyarrow.fs.GcsFileSystem)
    scratch = folder.location / ".tune"
    for name in ("1", "2", "3"):
        (scratch / "pack" / name / "state").write_bytes(b"x")
    folder.remove_tree(f"{path}/pack/1")
    wait_until(lambda: (scratch / "pack").names() == ["2", "3"])
    folder.remove_tree(f"{path}/pack/none")  # not there: no error
    with pytest.raises(AssertionError):
        folder.remove_tree(folder.location.key)
    folder.close()
    assert scratch.tree() == []


# What a user got wrong


@pytest.mark.parametrize("act", [lambda a: ResultsFolder(a).open(), read_trials])
def test_a_missing_bucket_is_named(server: StoreServer, act: Callable[[str], object]) -> None:
    address = server.address("x").replace("sweeps", "no-such-bucket")
    with pytest.raises(InputError, match="no bucket no-such-bucket in the store"):
        act(address)


def test_a_missing_sweep_in_a_store_is_named(address: str) -> None:
    with pytest.raises(InputError, match="expected a sweep's folder"):
        read_trials(address)


def test_wrong_credentials_are_told_in_one_line() -> None:
    with serve(INITIAL_NO_AUTH_ACTION_COUNT="1") as server:  # making the bucket is that one
        for act in (lambda a: ResultsFolder(a).open(), read_trials):
            with pytest.raises(InputError, match="refuses the credentials") as error:
                act(server.address("x"))
            assert "set AWS_ACCESS_KEY_ID" in str(error.value)
            assert "\n" not in str(error.value)
            assert KEY not in str(error.value) and SECRET not in str(error.value)


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_that_google_refuses_are_told_in_one_line(status: int) -> None:
    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "not you"}}')

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"gs://b{status}/x?endpoint_override=http://127.0.0.1:{server.server_port}"
        for act in (lambda a: ResultsFolder(a).open(), read_trials):
            with pytest.raises(InputError, match="refuses the credentials") as error:
                act(address)
            assert "not you" in str(error.value)
            assert "set GOOGLE_APPLICATION_CREDENTIALS" in str(error.value)
            assert "google::cloud" not in str(error.value) and "\n" not in str(error.value)
        server.shutdown()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_store_out_of_reach_is_told_in_one_line(scheme: str, monkeypatch: Patch) -> None:
    if scheme == "gs":
        monkeypatch.setattr(object_store, "CONNECT_S", 0.3)  # 5 s, three times: 23 s, measured
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for act in (lambda a: ResultsFolder(a).open(), read_trials):
        with pytest.raises(InputError, match="no connection to the store") as error:
            act(f"{scheme}://b/x?endpoint_override=http://127.0.0.1:{port}")
        assert "google::cloud" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_store_that_never_answers_is_told_in_one_line(scheme: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(object_store, "ANSWER_S", 1.0)  # 6 s, three times: 19 s, measured
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        port = silent.getsockname()[1]
        with pytest.raises(InputError, match="no connection to the store"):
            read_trials(f"{scheme}://b/x?endpoint_override=http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("foo://bucket/x", "starts with s3://, gs://, file://, got foo://"),
        ("https://bucket.s3.amazonaws.com/x", "got https://"),
        ("s3:///x", "expected s3://BUCKET/FOLDER"),
        ("s3://", "expected s3://BUCKET/FOLDER"),
        ("s3://bucket/x#y", "without '#'"),
        ("s3:/bucket/x", "two slashes after s3:"),
        ("s3://[bucket/x", "expected an address"),
        ("s3://bucket/x?regin=eu", "got regin (did you mean region?)"),
        ("s3://bucket/x?region=", "got region"),
        ("file://host/x", "expected file:///FOLDER"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused(address: str, text: str) -> None:
    with pytest.raises(InputError) as error:
        ResultsFolder(address)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIA:hidden@bucket/x",
        "s3://AKIA:hid/den@bucket/x",
        "s3://AKIA:hidden/x",
        "s3://bucket/x?secret_key=hidden",
        "s3://bucket/x?access_key=hidden&region=eu",
        "s3://bucket/x?endpoint_override=http://me:hidden@host",
        "gs://me:hidden@bucket/x",
        "foo://me:hidden@bucket/x",
        "s3://bucket/x?pw=hidden",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_shown(address: str) -> None:
    with pytest.raises(InputError) as error:
        ResultsFolder(address)
    assert "hid" not in str(error.value) and "den@" not in str(error.value)
    if "foo" not in address and "pw" not in address:
        assert "expected an address without credentials" in str(error.value)


def test_no_secret_is_stored_or_pickled(address: str) -> None:
    folder = ResultsFolder(address)
    folder.open()
    fill(folder)
    folder.add_run({"start": "1", "command": ["tune", address]})
    stored = b"".join((folder.location / name).read_bytes() for name in folder.location.tree())
    stored += pickle.dumps(folder.location) + pickle.dumps(folder.storage())
    folder.close()
    assert len(stored) > 1000
    assert SECRET.encode() not in stored and KEY.encode() not in stored


def test_something_foreign_in_a_store_is_refused(address: str) -> None:
    location = ResultsPath.of(address)
    (location / "thesis.tex").write_bytes(b"...")
    for foreign in (location, location / "thesis.tex"):
        with pytest.raises(InputError, match="expected no folder or a sweep's folder"):
            ResultsFolder(foreign).open()
    assert location.tree() == ["thesis.tex"]


# Places


def test_names_go_before_the_query_of_an_address() -> None:
    location = ResultsPath.of("s3://bucket/a/?endpoint_override=http://127.0.0.1:1&region=eu")
    inner = location / "b" / "c.txt"
    assert str(inner) == "s3://bucket/a/b/c.txt?endpoint_override=http://127.0.0.1:1&region=eu"
    assert (inner.key, inner.name, inner.local) == ("bucket/a/b/c.txt", "c.txt", None)
    assert str(inner.with_name("d")).startswith("s3://bucket/a/b/d?")
    assert pickle.loads(pickle.dumps(inner)) == inner
    assert str(ResultsPath.of("s3://bucket") / "vib") == "s3://bucket/vib"


def test_paths_stay_what_the_user_wrote(tmp_path: Path) -> None:
    assert ResultsPath.of("~/results").local == Path("~/results")
    assert str(ResultsPath.of("results") / "vib") == "results/vib"
    assert ResultsPath.of(f"file://{tmp_path}/a%20b").local == tmp_path / "a b"
    assert ResultsPath.of(tmp_path).local == tmp_path
    folder = ResultsFolder("results/vib")
    assert folder.storage() == (str(Path("results/vib/.tune").absolute()), None)
    with pytest.raises(AssertionError, match="has no local path"):
        _ = ResultsFolder("s3://bucket/x").path


def test_an_endpoint_from_the_environment_is_used(s3_server: S3Server, monkeypatch: Patch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    address = f"s3://{s3_server.bucket}/from_the_environment"
    object_store.connect.cache_clear()
    folder = ResultsFolder(address)
    folder.open()
    fill(folder)
    folder.close()
    assert len(read_trials(address)) == 2
    object_store.connect.cache_clear()


def test_many_files_are_read_at_once_and_in_order(address: str) -> None:
    files = [ResultsPath.of(address) / str(i) for i in range(40)]
    for i, file in enumerate(files):
        file.write_bytes(str(i).encode())
    assert paths.read_all(files) == [str(i).encode() for i in range(40)]
