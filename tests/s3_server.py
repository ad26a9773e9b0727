"""An S3 server on this machine: moto's, in a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest

KEY, SECRET = "testing-key-id", "testing-secret-never-stored"
_SERVE = """
import sys, threading
from moto.s3.responses import S3Response
put_object, lock = S3Response.put_object, threading.Lock()
def put_alone(self):  # S3 checks a condition and writes in one step
    with lock:
        return put_object(self)
S3Response.put_object = put_alone
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the test lets go
"""


@dataclass(frozen=True)
class StoreServer:
    """A running server of an object store and the address of its bucket."""

    port: int
    bucket: str = "sweeps"
    scheme: ClassVar[str]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def address(self, name: str) -> str:
        """Return the address of a folder in the bucket."""
        return f"{self.scheme}://{self.bucket}/{name}?endpoint_override={self.endpoint}"


@contextlib.contextmanager
def port_of(script: str, **environment: str) -> Iterator[int]:
    """Run a script that prints its port and serves until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdin and process.stdout
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(timeout=30)


class S3Server(StoreServer):
    """Moto's server."""

    scheme = "s3"

    def make_bucket(self) -> None:
        request = urllib.request.Request(f"{self.endpoint}/{self.bucket}", method="PUT")
        request.add_header("Host", f"127.0.0.1:{self.port}")
        with urllib.request.urlopen(request, timeout=30):
            pass

    @contextlib.contextmanager
    def recorded(self) -> Iterator[list[tuple[str, str]]]:
        """List the method and path of each request meanwhile."""
        requests: list[tuple[str, str]] = []
        for word in ("reset-recording", "start-recording"):
            self._tell(word)
        yield requests
        self._tell("stop-recording")
        lines = self._tell("download-recording").splitlines()
        for line in lines:
            entry = json.loads(line)
            requests.append((entry["method"], entry["url"]))

    def _tell(self, word: str) -> str:
        url = f"{self.endpoint}/moto-api/recorder/{word}"
        method = "GET" if word.startswith("download") else "POST"
        with urllib.request.urlopen(
            urllib.request.Request(url, method=method), timeout=30
        ) as answer:
            text: str = answer.read().decode()
        return text


@contextlib.contextmanager
def serve(**environment: str) -> Iterator[S3Server]:
    """Run a server with one bucket; skip the test where moto is not installed."""
    for module in ("moto", "flask_cors"):
        pytest.importorskip(module, reason="the S3 server of the tests, moto[server], is missing")
    with (
        tempfile.NamedTemporaryFile() as recording,
        port_of(_SERVE, MOTO_RECORDER_FILEPATH=recording.name, **environment) as port,
    ):
        server = S3Server(port)
        server.make_bucket()
        yield server


def only_credentials(
    monkeypatch: pytest.MonkeyPatch, others: Mapping[str, str] | None = None
) -> None:
    """Give this process the environment of a client, with ``others``, and no more of Amazon's."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in {**credentials(), **(others or {})}.items():
        monkeypatch.setenv(name, value)


def credentials() -> dict[str, str]:
    """Return the environment of a client of the server, and of nothing else."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
