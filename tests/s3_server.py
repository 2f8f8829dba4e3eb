"""A server of the S3 protocol on loopback, behind a proxy that fails on request.

moto keeps its objects in memory, so a restart is played by the proxy: it closes its
port and every connection, and later opens them again.
"""

import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from pipeline import location

BUCKET = "bucket"
_ERROR = "<Error><Code>{code}</Code><Message>{message}</Message></Error>"
# HTTP status, and how S3 names and words it.
_REFUSALS = {
    "403": ("403 Forbidden", "AccessDenied", "Access Denied"),
    "500": ("500 Internal Server Error", "InternalError", "We made an error"),
    "503": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
}


@dataclass
class Proxy:
    """Passes requests on to a server, except those that a fault is set for.

    Attributes
    ----------
    upstream
        Port of the server.
    port
        Port of the proxy.
    chooses
        Whether a request is to fail, by its method and path.
    fault
        How: 403, 500, 503, stall, truncate or drop.
    failed
        Requests that were made to fail.
    written
        Paths of objects written.
    """

    upstream: int
    port: int = 0
    chooses: Callable[[str, str], bool] = lambda method, path: False
    fault: str = "503"
    failed: list[tuple[str, str]] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    def start(self) -> None:
        """Open the port."""
        serve = asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20)
        self._server = self._call(serve)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Close the port and every connection."""

        async def close() -> None:
            self._server.close()
            for writer in list(self._connections):
                writer.transport.abort()

        self._call(close())

    def close(self) -> None:
        """Stop for good."""
        self.stop()

        async def cancel() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._call(cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def fail(self, fault: str, chooses: Callable[[str, str], bool]) -> None:
        """Make requests fail from now on."""
        self.fault, self.chooses = fault, chooses
        self.failed.clear()

    def fail_object(self, fault: str, part: str) -> None:
        """Make every GET of objects whose path has a part fail."""
        self.fail(fault, lambda method, path: method == "GET" and part in path)

    def fail_some(self, fault: str, fraction: float, seed: int = 0) -> None:
        """Make a fraction of all requests fail."""
        draw = random.Random(seed).random
        self.fail(fault, lambda method, path: draw() < fraction)

    def heal(self) -> None:
        """Pass every request on."""
        self.chooses = lambda method, path: False

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._connections.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while await self._exchange(reader, writer):
                pass
        self._connections.discard(writer)
        writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; False where the connection is to be closed."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin1").rstrip().split("\r\n")
        method, path, _ = first.split(" ")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        if headers.get("expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        fault = self.fault if self.chooses(method, path) else ""
        if fault:
            self.failed.append((method, path))
        if fault in _REFUSALS:
            writer.write(_refusal(fault, method))
            await writer.drain()
            return True
        if fault == "stall":
            await asyncio.sleep(600)
        if fault in ("stall", "drop"):
            return False
        if method == "PUT":
            self.written.append(path)
        kept = [line for line in lines if not line.lower().startswith("expect")]
        request = "\r\n".join([first, *kept, "Connection: close", "", ""])
        answer = await self._ask(request.encode("latin1") + body)
        if fault == "truncate":
            start = answer.index(b"\r\n\r\n") + 4
            writer.write(answer[: start + (len(answer) - start) // 2])
            await writer.drain()
            return False
        writer.write(answer)
        await writer.drain()
        return False

    async def _ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        writer.write(request)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer


def _refusal(fault: str, method: str) -> bytes:
    status, code, message = _REFUSALS[fault]
    body = _ERROR.format(code=code, message=message).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\n"
    head += f"Content-Length: {0 if method == 'HEAD' else len(body)}\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else body)


@contextlib.contextmanager
def serve() -> Iterator[Proxy]:
    """Start a server with one empty bucket; the environment then names the proxy."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    proxy = Proxy(port)
    try:
        _wait_for(port)
        with environment(proxy):
            location._connect.cache_clear()
            location._connect("s3").mkdir(BUCKET)
            yield proxy
    finally:
        proxy.close()
        location._connect.cache_clear()
        server.kill()
        server.wait()


@contextlib.contextmanager
def environment(proxy: Proxy) -> Iterator[None]:
    """Name the proxy and credentials as botocore reads them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let requests of this process be repeated for so long only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMIXTURE_S3_PATIENCE", str(seconds))
        location._connect.cache_clear()
        yield
    location._connect.cache_clear()


def _wait_for(port: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{port}/moto-api/data.json"
            json.load(urllib.request.urlopen(url, timeout=5))
            return
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)


def remote(name: str) -> location.RemotePath:
    """A place in the bucket."""
    return location.RemotePath(f"s3://{BUCKET}/{name}")


def remotely(path: location.Location) -> location.RemotePath:
    """A path that must be of an object store."""
    assert isinstance(path, location.RemotePath)
    return path
