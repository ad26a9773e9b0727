"""A server of Google's object storage on this machine: gcp-storage-emulator, in its own process.

It takes any credentials, and tells less of errors than Google's own.
"""

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from s3_server import StoreServer, port_of

# The emulator knows conditions in neither of Google's two interfaces, and tells no version in the
# one that obstore speaks.
_SERVE = """
import sys
from datetime import datetime
from email.utils import format_datetime
from http import HTTPStatus
from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server

def found(request, storage):
    try:
        return storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
    except NotFound:
        return None

def tell(response, entry):
    response["ETag"] = '"' + entry["md5Hash"] + '"'
    response["x-goog-generation"] = entry["generation"]
    response["Last-Modified"] = format_datetime(
        datetime.fromisoformat(entry["updated"].replace("Z", "+00:00")), usegmt=True
    )

def upload(request, response, storage):
    data = request.data  # read even if refused: the next request comes on the same connection
    wanted, there = request.get_header("x-goog-if-generation-match"), found(request, storage)
    if wanted is not None and wanted != (there["generation"] if there else "0"):
        response.status = HTTPStatus.PRECONDITION_FAILED
        return
    objects.xml_upload(request, response, storage)
    if there := found(request, storage):
        tell(response, there)

def download(request, response, storage):
    objects.download(request, response, storage)
    if there := found(request, storage):
        tell(response, there)

def head(request, response, storage):
    there = found(request, storage)
    if there:
        tell(response, there)
    else:
        response.status = HTTPStatus.NOT_FOUND

emulator.RequestHandler.do_HEAD = lambda self: emulator.Router(self).handle("HEAD")
*others, (pattern, _) = emulator.HANDLERS
pattern = pattern.replace("[-.", "[-.%")  # obstore writes a "-" of a bucket as "%2D"
emulator.HANDLERS = (*others, (pattern, {"GET": download, "HEAD": head, "PUT": upload}))
server = create_server("127.0.0.1", 0, in_memory=True)
server.start()
print(server._api._httpd.server_port, flush=True)
sys.stdin.read()  # until the test lets go
server.stop()
"""


class GsServer(StoreServer):
    """The emulator's server."""

    scheme = "gs"

    def make_bucket(self) -> None:
        request = urllib.request.Request(
            f"{self.endpoint}/storage/v1/b?project=tests",
            data=json.dumps({"name": self.bucket}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30):
            pass


@contextlib.contextmanager
def serve_gs() -> Iterator[GsServer]:
    """Run a server with one bucket; skip the test where the emulator is not installed."""
    pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is missing")
    with port_of(_SERVE) as port:
        server = GsServer(port)
        server.make_bucket()
        yield server


def gs_credentials(folder: Path) -> dict[str, str]:
    """Return the environment of a client of the server: a service account with a key of its own."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "project_id": "tests",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": "tests@example.com",
        "client_id": "1",
        "token_uri": "http://127.0.0.1:1/token",  # signed by itself: no token is asked for
    }
    file = folder / "service_account.json"
    file.write_text(json.dumps(account))
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
