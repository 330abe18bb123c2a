"""A process of `slidepipe view`, started as a user starts it, and requests to it."""

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
    """The answer to a request; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


@dataclass
class ViewServer:
    """A running `slidepipe view`.

    Attributes:
        process: its process.
        address: the printed address, with the token if there is one.
        output: the lines that it printed.
    """

    process: subprocess.Popen[str]
    address: str
    output: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The address without path and token."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """The port of the address."""
        return int(urlsplit(self.address).port or 0)

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, method: str | None = None
    ) -> Answer:
        """Send a request with exactly this path, and return the answer. With a body it is a POST of JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = None if body is None else json.dumps(body) if not isinstance(body, str) else body
        sent = dict(headers or {})
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        skipped = {"skip_host": "Host" in sent, "skip_accept_encoding": "Accept-Encoding" in sent}
        try:
            connection.putrequest(method or ("GET" if data is None else "POST"), path, **skipped)
            for name, value in sent.items():
                connection.putheader(name, value)
            if data is not None:
                connection.putheader("Content-Length", str(len(data.encode())))
            connection.endheaders(None if data is None else data.encode())
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def kill(self) -> None:
        """Kill the process as a power failure would: it can finish nothing."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def serving(results: Path, *options: str) -> Iterator[ViewServer]:
    """Start `slidepipe view RESULTS`, wait until it prints its address, and stop it at the end.

    Args:
        results: the RESULTS folder.
        options: command-line options; `--port 0` if none are given.
    """
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
    for line in stream:  # Warnings may come before the address.
        server.output.append(line)
        server.address = next((word for word in line.split() if word.startswith("http://")), "")
        if server.address:
            break
    reader = threading.Thread(target=lambda: server.output.extend(stream), daemon=True)
    reader.start()
    try:
        assert server.address, "".join(server.output)
        yield server
    finally:
        process.terminate()
        process.wait(20)
        reader.join(20)
        stream.close()
