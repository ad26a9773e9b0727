"""A server in front of a test's object store, which passes requests on, or answers with faults."""

import contextlib
import http.client
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from s3_server import StoreServer

Fault = int | str | None


@dataclass
class FaultyStore:
    """A running server.

    ``fault`` maps a request's method and path to a status to answer with; "lost" (pass it on and
    answer 500), "hang" (pass nothing on, answer nothing), "plain" (pass it on without conditions),
    or None (pass it on).
    """

    port: int
    behind: StoreServer
    fault: Callable[[str, str], Fault] = lambda method, path: None
    requests: list[tuple[str, str, Fault]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """The access key of each request to S3."""

    def address(self, name: str) -> str:
        return self.behind.address(name).replace(f":{self.behind.port}", f":{self.port}")


_CONDITIONS = ("if-match", "if-none-match", "x-goog-if-generation-match")
_HOP = ("connection", "transfer-encoding", "content-length", "server", "date")


@contextlib.contextmanager
def faults_before(behind: StoreServer, certificate: Path | None = None) -> Iterator[FaultyStore]:
    """Run a server before another, at first without faults; encrypted with a certificate."""
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.body()
            fault = store.fault(self.command, self.path)
            store.requests.append((self.command, self.path, fault))
            signed = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
            store.keys += [signed[1]] if signed else []
            if fault == "hang":
                is_over.wait()
                self.close_connection = True
                return
            headers = dict(self.headers)
            if fault == "plain":
                headers = {k: v for k, v in headers.items() if k.lower() not in _CONDITIONS}
            status, answered, content = fault, {}, b""
            if not isinstance(fault, int):
                status, answered, content = self.patiently_ask(headers, body)
            if fault == "lost":
                status, answered, content = 500, {}, b""
            with contextlib.suppress(OSError):
                self.send_response(int(status or 500))
                for key, value in answered.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

        def patiently_ask(
            self, headers: dict[str, str], body: bytes
        ) -> tuple[int, dict[str, str], bytes]:
            """Ask again where moto refused a body unread, which resets the connection."""
            for _ in range(5):
                with contextlib.suppress(ConnectionError):
                    return self.ask(headers, body)
            return 503, {}, b""

        def ask(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", behind.port, timeout=30)
            headers = {k: v for k, v in headers.items() if k.lower() not in _HOP}
            if body or self.command in ("PUT", "POST"):
                headers["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            kept = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP}
            if self.command == "HEAD" and (length := answer.getheader("Content-Length")):
                content = b" " * int(length)
            connection.close()
            return answer.status, kept, content

        def body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        store = FaultyStore(server.server_port, behind)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield store
        is_over.set()
        server.shutdown()
