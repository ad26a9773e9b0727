"""The lease of a folder in an object store: one driver, whatever clocks, networks, stores do."""

import ipaddress
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from faulty_store import Fault, FaultyStore, faults_before
from gs_server import gs_credentials, serve_gs
from s3_server import S3Server, StoreServer, only_credentials, serve
from table_rows import accuracy_rows

from raysweep.errors import InputError
from raysweep.tables import checksums, conditions, lease, object_store, processes
from raysweep.tables.conditions import ConditionalObject, PlainObject, open_object
from raysweep.tables.credentials import CredentialsError, aws_provider, google_provider
from raysweep.tables.folder import ResultsFolder, WriteError
from raysweep.tables.holders import HolderWatch, find_holder
from raysweep.tables.lease import Lease
from raysweep.tables.locks import this_process
from raysweep.tables.object_store import StoreError
from raysweep.tables.paths import ResultsPath
from raysweep.tables.reader import read_accuracy, statuses
from raysweep.tables.writer import Writer

pytestmark = pytest.mark.slow

_NUMBERS = count()
_ELSEWHERE = b'{"holder": "process 1 on elsewhere", "token": "other"}'
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(request: pytest.FixtureRequest) -> Iterator[StoreServer]:
    with serve() if request.param == "s3" else serve_gs() as server:
        yield server


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    with serve() as server:
        yield server


@pytest.fixture
def faulty(server: StoreServer) -> Iterator[FaultyStore]:
    with faults_before(server) as store:
        yield store


@pytest.fixture
def faulty_s3(s3_server: S3Server) -> Iterator[FaultyStore]:
    with faults_before(s3_server) as store:
        yield store


@pytest.fixture(scope="module")
def gs_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return gs_credentials(tmp_path_factory.mktemp("gs"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: Patch, tmp_path: Path, gs_environment: dict[str, str]) -> None:
    only_credentials(monkeypatch, gs_environment)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(conditions, "_SETTLE_S", 0.2)
    monkeypatch.setattr(lease, "_LOOK_S", 0.05)
    monkeypatch.setattr(lease, "STALE_S", 0.5)
    monkeypatch.setattr(object_store, "ANSWER_S", 1.0)


@pytest.fixture
def path(server: StoreServer) -> ResultsPath:
    return ResultsPath.of(server.address(f"leases/{next(_NUMBERS)}"))


def at(store: FaultyStore) -> ResultsPath:
    return ResultsPath.of(store.address(f"faulty/{next(_NUMBERS)}"))


def wait_until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


# Of several drivers one has it


def race(path: ResultsPath, n_takers: int) -> tuple[list[Lease], list[InputError]]:
    """Let threads take a lease at the same moment."""
    meeting = threading.Barrier(n_takers)
    won: list[Lease] = []
    lost: list[InputError] = []

    def take() -> None:
        taker = Lease(path)
        wait = taker._await_free

        def together(say: object) -> object:
            left = wait(None)
            meeting.wait(timeout=20)
            return left

        taker._await_free = together  # type: ignore[assignment,method-assign]
        try:
            taker.take()
            won.append(taker)
        except InputError as error:
            lost.append(error)

    threads = [threading.Thread(target=take) for _ in range(n_takers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, lost


@pytest.mark.parametrize(("left", "n_races"), [(None, 10), (_ELSEWHERE, 40)])
def test_of_takers_at_one_moment_exactly_one_has_the_lease(
    path: ResultsPath, monkeypatch: Patch, left: bytes | None, n_races: int
) -> None:
    monkeypatch.setattr(lease, "STALE_S", 0.05)
    for i in range(n_races):
        place = path / str(i)
        if left is not None:
            (place / ".lock").write_bytes(left)
        won, lost = race(place, 4)
        assert (len(won), len(lost)) == (1, 3), lost
        assert won[0].holder() is None
        assert "holds it" in str(lost[0])
        won[0].release()


# libfaketime would do this from outside, but makes time.sleep fail or threads wait forever.
_TAKER = """
import datetime, sys, time
skew_s, now_s = float(sys.argv[2]), time.time
class Skewed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(now_s() + skew_s, tz)
time.time = lambda: now_s() + skew_s
time.time_ns = lambda: int(time.time() * 1e9)
datetime.datetime = Skewed
from raysweep.errors import InputError
from raysweep.tables import lease
from raysweep.tables.lease import Lease
from raysweep.tables.paths import ResultsPath
lease.STALE_S, lease._LOOK_S, lease.RENEW_S = 2.0, 0.05, 0.2
print("ready", flush=True)
sys.stdin.readline()
taken = Lease(ResultsPath.of(sys.argv[1]))
try:
    taken.take()
except InputError as error:
    print("lost", error, flush=True)
else:
    print("won", flush=True)
    sys.stdin.readline()
    print(taken.holder(), flush=True)
    taken.release()
"""


def start_taker(path: ResultsPath, skew_s: float = 0.0) -> "subprocess.Popen[str]":
    taker = subprocess.Popen(
        [sys.executable, "-c", _TAKER, str(path), str(skew_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert taker.stdout
    assert taker.stdout.readline() == "ready\n"
    return taker


def tell(taker: "subprocess.Popen[str]", line: str = "") -> None:
    assert taker.stdin
    taker.stdin.write(f"{line}\n")
    taker.stdin.flush()


def hear(taker: "subprocess.Popen[str]") -> str:
    assert taker.stdout
    return taker.stdout.readline().strip()


@pytest.mark.parametrize("skews", [(0, 0), (-600, 0), (0, -600), (600, -600)])
def test_of_drivers_with_clocks_far_apart_one_has_the_lease(
    s3_server: S3Server, skews: tuple[float, float]
) -> None:
    path = ResultsPath.of(s3_server.address(f"skewed/{next(_NUMBERS)}"))
    (path / ".lock").write_bytes(_ELSEWHERE)
    takers = [start_taker(path, skew_s) for skew_s in skews]
    try:
        for taker in takers:
            tell(taker)
        heard = [hear(taker) for taker in takers]
        assert sorted(line.split()[0] for line in heard) == ["lost", "won"], heard
        winner = takers[heard.index("won")]
        # A third one, later, sees it renewed, whatever the clocks.
        third = start_taker(path)
        takers.append(third)
        tell(third)
        assert "has just renewed its lease" in hear(third)
        written = json.loads((path / ".lock").read_bytes())["time"]
        skew_s = datetime.fromisoformat(written).timestamp() - time.time()
        assert abs(skew_s - skews[heard.index("won")]) < 30  # its clock is really wrong
        tell(winner)
        assert hear(winner) == "None"  # nobody else
    finally:
        for taker in takers:
            taker.kill()
            taker.wait()


def test_a_driver_that_was_frozen_and_lost_its_lease_cannot_renew_it(
    path: ResultsPath, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 3600.0)
    frozen, other = Lease(path), Lease(path)
    frozen.take()
    monkeypatch.setattr(lease, "is_gone", lambda process: False)
    other.take()
    lock = path / ".lock"
    held = lock.read_bytes()
    assert not frozen._is_renewed()  # as when it wakes up
    assert frozen.holder() == this_process()
    frozen.release()
    assert lock.read_bytes() == held
    assert other.holder() is None
    other.release()


def test_a_lock_that_is_deleted_or_overwritten_is_lost(
    path: ResultsPath, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    for damage in ((path / ".lock").delete, lambda: (path / ".lock").write_bytes(b"{}")):
        held = Lease(path)
        held.take()
        damage()
        wait_until(lambda: not held._thread.is_alive())  # noqa: B023
        assert held.holder() in ("no driver", "another process")
        held.release()


def test_a_driver_that_wakes_up_in_a_fold_does_not_replace_the_table_of_another(
    path: ResultsPath, monkeypatch: Patch
) -> None:
    """It checked its lease, slept for long, and writes: its table lacks what the other wrote."""
    monkeypatch.setattr(lease, "RENEW_S", 3600.0)
    monkeypatch.setattr(lease, "is_gone", lambda process: False)
    frozen = ResultsFolder(path)
    frozen.open()
    writer = Writer(frozen)
    writer.add("accuracy", accuracy_rows(0, 2))
    writer.flush()
    encode, other = checksums.encode, ResultsFolder(path)

    def slowly(table: pa.Table, *more: Any) -> bytes:
        if not len(table):
            return encode(table, *more)
        monkeypatch.setattr(checksums, "encode", encode)
        frozen.expect_lock()
        monkeypatch.setattr(frozen, "expect_lock", lambda: None)  # it looked before it slept
        other.open()
        others = Writer(other)
        others.add("accuracy", accuracy_rows(2, 3))
        others.fold()
        return encode(table, *more)

    monkeypatch.setattr(checksums, "encode", slowly)
    with pytest.raises(WriteError, match="another program replaced it meanwhile"):
        writer.fold()
    assert len(read_accuracy(path)) == 5
    monkeypatch.delattr(frozen, "expect_lock")
    with pytest.raises(WriteError, match="holds the folder now; this driver lost it"):
        frozen.expect_lock()
    frozen.close()
    other.close()
    assert len(read_accuracy(path)) == 5


# Waiting for the lease of a driver that was killed


def test_the_lease_of_a_process_that_is_gone_is_taken_at_once(
    path: ResultsPath, monkeypatch: Patch
) -> None:
    taker = start_taker(path)
    tell(taker)
    assert hear(taker) == "won"
    monkeypatch.setattr(lease, "STALE_S", 60.0)
    monkeypatch.setattr(lease, "RENEW_S", 60.0)
    said: list[str] = []
    with pytest.raises(InputError, match="has just renewed"):
        Lease(path).take(said.append)  # while it lives
    assert f"process {taker.pid} on " in said[0] and "waiting 60 s" in said[0]
    taker.kill()
    taker.wait()
    began = time.monotonic()
    mine = Lease(path)
    mine.take(said.append)
    assert time.monotonic() - began < 5
    assert len(said) == 1
    mine.release()


def test_a_process_is_gone_only_if_that_is_sure() -> None:
    mine = processes.identity()
    assert mine is not None
    ended = subprocess.run(
        [sys.executable, "-c", "from raysweep.tables.processes import identity; print(identity())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert processes.is_gone(ended)
    assert not processes.is_gone(mine)
    host, boot, namespace, pid, start = mine.split()
    assert processes.is_gone(" ".join([host, boot, namespace, pid, str(int(start) + 1)]))
    for unknown in (
        None,
        "",
        "x",
        " ".join([host, boot, namespace, "x", start]),
        ended.replace(host, "another"),
        ended.replace(boot, "another"),  # a machine of this name may have started twice
        ended.replace(namespace, "pid:[1]"),  # another container's
    ):
        assert not processes.is_gone(unknown), unknown


def test_a_zombie_is_gone() -> None:
    script = "from raysweep.tables.processes import identity; print(identity(), flush=True)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    identity = hear(process)
    wait_until(lambda: processes.stat_fields(process.pid)[0] == "Z")
    assert processes.is_gone(identity)
    process.wait()


def test_a_lease_that_was_given_back_is_taken_at_once(
    path: ResultsPath, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(lease, "STALE_S", 60.0)
    said: list[str] = []
    for _ in range(3):
        held = Lease(path)
        held.take(said.append)
        assert find_holder(path) is not None
        held.release()
        assert find_holder(path) is None
    assert said == []


# A store that is out of order


def test_renewals_outlive_errors_and_lost_answers(faulty: FaultyStore, monkeypatch: Patch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.1)
    path = at(faulty)
    held = Lease(path)
    held.take()
    for fault in (500, "lost", 503):
        faults = iter([fault] * 5)
        faulty.fault = lambda method, path: next(faults, None)  # noqa: B023
        wait_until(lambda: next(faults, "over") == "over")  # noqa: B023
        faulty.fault = lambda method, path: None
        n_seen = len(faulty.requests)
        wait_until(lambda: len(faulty.requests) > n_seen + 3)  # noqa: B023
        assert held.holder() is None
        assert held._thread and held._thread.is_alive()
    held.release()
    assert find_holder_through(faulty, path) == b"released"


def find_holder_through(store: FaultyStore, path: ResultsPath) -> bytes:
    found = ConditionalObject(path / ".lock").read()
    assert found
    return b"released" if lease.is_released(found.content) else found.content


def test_a_first_write_whose_answer_is_lost_counts(faulty: FaultyStore) -> None:
    faults = iter(["lost"])
    faulty.fault = lambda method, path: next(faults, None) if method == "PUT" else None
    held = Lease(at(faulty))
    held.take()
    assert held.holder() is None
    held.release()


def test_requests_for_the_lease_have_a_time_limit(faulty: FaultyStore, monkeypatch: Patch) -> None:
    monkeypatch.setattr(object_store, "ANSWER_S", 0.3)
    monkeypatch.setattr(object_store, "_PATIENCE_S", 0.5)
    faulty.fault = lambda method, path: "hang"
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"no connection to the store \(no answer within 0.3 s\)"):
        Lease(at(faulty)).take()
    assert time.monotonic() - began < 6


@pytest.mark.parametrize("act", [statuses, lambda address: ResultsFolder(address).open()])
def test_errors_of_the_store_at_the_start_are_waited_for(
    faulty_s3: FaultyStore, monkeypatch: Patch, act: Callable[[str], object]
) -> None:
    monkeypatch.setattr(object_store, "ATTEMPTS", 1)
    address = str(at(faulty_s3))
    codes = iter([500, 503])
    faulty_s3.fault = lambda method, path: next(codes, None)
    act(address)
    assert [fault for _, _, fault in faulty_s3.requests][:2] == [500, 503]
    monkeypatch.setattr(object_store, "_PATIENCE_S", 0.5)
    faulty_s3.fault = lambda method, path: 500
    with pytest.raises(InputError, match="HTTP status 500") as error:
        act(address)
    assert "\n" not in str(error.value)


# Stores without conditions


@pytest.mark.parametrize("fault", ["plain", 501])
def test_a_store_without_conditions_is_found_out_and_said(
    faulty_s3: FaultyStore, monkeypatch: Patch, fault: Fault
) -> None:
    """Status 501 is the answer of some, others ignore the headers."""

    is_conditional: list[bool] = []
    write = ConditionalObject.write

    def marked(self: ConditionalObject, *words: object) -> object:
        is_conditional.append(True)
        try:
            return write(self, *words)  # type: ignore[arg-type]
        finally:
            is_conditional.pop()

    monkeypatch.setattr(ConditionalObject, "write", marked)
    faulty_s3.fault = lambda method, path: fault if method == "PUT" and is_conditional else None
    path = at(faulty_s3)
    said: list[str] = []
    first = Lease(path)
    first.take(said.append)
    assert isinstance(first._object, PlainObject)
    (line,) = said
    assert "a second driver that starts in the same second may not be refused" in line
    assert ("it ignores conditions" if fault == "plain" else "HTTP status 501") in line
    assert first.holder() is None
    assert first._is_renewed()
    monkeypatch.setattr(lease, "RENEW_S", 0.1)
    (path / ".lock").write_bytes(_ELSEWHERE)
    assert not first._is_renewed()
    first.release()
    assert (path / ".lock").read_bytes() == _ELSEWHERE
    if fault == "plain":  # the same from here on; a 501 would also strike the other's plain writes
        won, lost = race(path, 2)
        assert (len(won), len(lost)) == (1, 1)
        won[0].release()


def test_a_store_that_the_library_cannot_read_is_written_as_before(faulty_s3: FaultyStore) -> None:
    path = at(faulty_s3)
    n_reads = count()
    faulty_s3.fault = lambda method, path: 501 if method == "GET" and next(n_reads) < 3 else None
    said: list[str] = []
    held = Lease(path)
    held.take(said.append)
    assert "(HTTP status 501)" in said[0]
    assert held.holder() is None
    held.release()


def test_without_the_library_the_lease_is_written_as_before(
    path: ResultsPath, monkeypatch: Patch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    said: list[str] = []
    held = Lease(path)
    held.take(said.append)
    assert "(the package obstore is not installed)" in said[0]
    assert held.holder() is None
    held.release()


def test_a_store_with_conditions_is_not_doubted(path: ResultsPath) -> None:
    said: list[str] = []
    held = Lease(path)
    held.take(said.append)
    assert isinstance(held._object, ConditionalObject)
    assert said == []
    held.release()


# Who holds it, as seen from elsewhere


def test_a_lease_is_judged_by_watching_it_not_by_clocks(
    path: ResultsPath, monkeypatch: Patch
) -> None:
    written = datetime.now(UTC)
    lock = path / ".lock"
    lock.write_bytes(_ELSEWHERE)
    monkeypatch.setattr("raysweep.tables.holders.STALE_S", 2.0)
    for age_s, expected in ((0, True), (-600, None), (600, None), (2000, False)):
        monkeypatch.setattr(
            ResultsPath, "written_at", lambda self, age_s=age_s: written - timedelta(seconds=age_s)
        )
        holder = find_holder(path)
        assert holder is not None
        assert (holder.name, holder.is_alive) == ("process 1 on elsewhere", expected), age_s
        watch = HolderWatch(path)
        watch.look()
        lock.write_bytes(_ELSEWHERE + b" ")
        assert watch.look().is_alive is True  # type: ignore[union-attr]
        lock.write_bytes(_ELSEWHERE)
    assert watch.look().is_alive is True  # type: ignore[union-attr]
    time.sleep(2.1)
    assert watch.look().is_alive is False  # type: ignore[union-attr]


def test_a_folder_copied_from_a_store_shows_who_held_it(path: ResultsPath, tmp_path: Path) -> None:
    held = Lease(path)
    held.take()
    lock = tmp_path / ".lock"
    lock.write_bytes((path / ".lock").read_bytes())
    holder = find_holder(ResultsPath(tmp_path))
    assert holder is not None
    assert holder.name == this_process()
    held.release()
    lock.write_bytes((path / ".lock").read_bytes())
    assert find_holder(ResultsPath(tmp_path)) is None


# Credentials and addresses


_PROFILES = """
[default]
aws_access_key_id = of-the-profile
aws_secret_access_key = a%secret
[other]
aws_access_key_id = of-the-other
aws_secret_access_key = another
aws_session_token = token
[program]
credential_process = {program}
"""


@pytest.mark.parametrize(
    ("profile", "key"),
    [(None, "of-the-profile"), ("other", "of-the-other"), ("program", "of-a-program")],
)
def test_credentials_come_from_the_profiles_that_pyarrow_reads(
    faulty_s3: FaultyStore, monkeypatch: Patch, tmp_path: Path, profile: str | None, key: str
) -> None:
    program = tmp_path / "program"
    keys = {"Version": 1, "AccessKeyId": "of-a-program", "SecretAccessKey": "secret"}
    program.write_text(f"#!/bin/sh\necho '{json.dumps(keys)}'\n")
    program.chmod(0o700)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(_PROFILES.format(program=program))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    conditions._store.cache_clear()
    path = at(faulty_s3)
    ConditionalObject(path).write(b"x", None)
    assert path.read_bytes() == b"x"  # pyarrow's request
    assert len(faulty_s3.keys) > 1
    assert set(faulty_s3.keys) == {key}


def test_a_package_that_credentials_need_is_named(
    s3_server: S3Server, monkeypatch: Patch, tmp_path: Path
) -> None:
    (tmp_path / ".aws").mkdir()
    role = "[profile role]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = default\n"
    (tmp_path / ".aws" / "config").write_text(role)
    federated = tmp_path / "federated.json"
    federated.write_text('{"type": "external_account"}')
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_PROFILE", "role")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(federated))
    for provider, missing, line in (
        (aws_provider, "obstore.auth.boto3", "profile role of ~/.aws needs the package boto3"),
        (google_provider, "obstore.auth.google", "external_account need the package google-auth"),
    ):
        with monkeypatch.context() as patch, pytest.raises(CredentialsError, match=line):
            patch.setitem(sys.modules, missing, None)
            provider()
    with pytest.raises(CredentialsError, match="credentials of type external_account: "):
        google_provider()  # the file lacks all else
    conditions._store.cache_clear()
    monkeypatch.setitem(sys.modules, "obstore.auth.boto3", None)
    object_, reason = open_object(ResultsPath.of(s3_server.address("x")))
    assert isinstance(object_, PlainObject)
    assert reason and "pip install boto3" in reason


def test_the_address_wins_over_the_environment(s3_server: S3Server, monkeypatch: Patch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    path = ResultsPath.of(s3_server.address(f"places/{next(_NUMBERS)}"))
    assert ConditionalObject(path).write(b"x", None)
    assert path.read_bytes() == b"x"
    host = s3_server.endpoint.removeprefix("http://")
    path = ResultsPath.of(f"s3://sweeps/{next(_NUMBERS)}?endpoint_override={host}&scheme=http")
    assert ConditionalObject(path).write(b"x", None)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, s3_server.endpoint)
    path = ResultsPath.of(f"s3://sweeps/{next(_NUMBERS)}")
    object_store.connect.cache_clear()
    assert ConditionalObject(path).write(b"x", None)
    assert path.read_bytes() == b"x"
    object_store.connect.cache_clear()


def test_amazons_addresses_in_china_end_in_cn(monkeypatch: Patch) -> None:
    monkeypatch.setenv("AWS_REGION", "cn-north-1")
    store = ConditionalObject(ResultsPath.of("s3://bucket/x"))._store
    assert store.config["endpoint"] == "https://s3.cn-north-1.amazonaws.com.cn"


def certificate(
    name: str, key: rsa.RSAPrivateKey, signer: rsa.RSAPrivateKey, is_authority: bool
) -> bytes:
    now = datetime.now(UTC)
    local = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([local]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM)


def test_a_stores_own_certificate_is_trusted_by_its_file(
    s3_server: S3Server, tmp_path: Path
) -> None:
    authority, key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    ca_file, server_file = tmp_path / "ca.pem", tmp_path / "server.pem"
    ca_file.write_bytes(certificate("tests", authority, authority, True))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    server_file.write_bytes(private + certificate("server", key, authority, False))
    with faults_before(s3_server, server_file) as store:
        place = f"s3://sweeps/{next(_NUMBERS)}?endpoint_override=https://127.0.0.1:{store.port}"
        path = ResultsPath.of(f"{place}&tls_ca_file_path={ca_file}")
        assert ConditionalObject(path).write(b"x", None)
        assert path.read_bytes() == b"x"
        with pytest.raises(StoreError, match="no connection to the store"):
            ConditionalObject(ResultsPath.of(place)).read()
        with pytest.raises(StoreError, match="tls_ca_file_path: expected to read it, got"):
            ConditionalObject(ResultsPath.of(f"{place}&tls_ca_file_path={tmp_path}/none"))
