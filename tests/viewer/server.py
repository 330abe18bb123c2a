"""A server of ``slidepipe view`` as a process of its own, as a user starts it, and requests to it."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ViewServer:
    """``address``: as it was printed, with the token where there is one."""

    process: subprocess.Popen[str]
    address: str
    said: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        parts = urlsplit(self.address)
        return f"http://127.0.0.1:{parts.port}"

    @property
    def port(self) -> int:
        return int(urlsplit(self.address).port or 0)

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, method: str | None = None
    ) -> Answer:
        """A request with exactly this path: nothing is made neat on the way."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = None if body is None else json.dumps(body) if not isinstance(body, str) else body
        told = dict(headers or {})
        if data is not None:
            told.setdefault("Content-Type", "application/json")
        own = {"skip_host": "Host" in told, "skip_accept_encoding": "Accept-Encoding" in told}
        try:
            connection.putrequest(method or ("GET" if data is None else "POST"), path, **own)
            for name, value in told.items():
                connection.putheader(name, value)
            if data is not None:
                connection.putheader("Content-Length", str(len(data.encode())))
            connection.endheaders(None if data is None else data.encode())
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def kill(self) -> None:
        """As a power cut would: no chance to finish anything."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def serving(results: Path, *options: str) -> Iterator[ViewServer]:
    """Start ``slidepipe view RESULTS`` and wait until it says where it is."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "slidepipe.cli", "view", str(results), *(options or ("--port", "0"))],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    stream = process.stdout
    server = ViewServer(process, "")
    for line in stream:  # warnings may come first
        server.said.append(line)
        server.address = next((word for word in line.split() if word.startswith("http://")), "")
        if server.address:
            break
    reader = threading.Thread(target=lambda: server.said.extend(stream), daemon=True)
    reader.start()
    try:
        assert server.address, "".join(server.said)
        yield server
    finally:
        process.terminate()
        process.wait(20)
        reader.join(20)
        stream.close()
