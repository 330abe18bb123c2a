"""A small HTTP server with the download URLs of the hub, for tests of downloads."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """The content of the server, and the requests that it received.

    Attributes:
        url: its address.
        files: content by (repository, file).
        sent: content to send instead, with its own content length, as from a proxy that truncates files.
        cut: files whose connection closes after half of the announced bytes.
        etags: ETag to send instead of the content's SHA-256.
        requests: "METHOD path", in order.
    """

    url: str = ""
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    sent: dict[tuple[str, str], bytes] = field(default_factory=dict)
    cut: set[tuple[str, str]] = field(default_factory=set)
    etags: dict[tuple[str, str], str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@contextmanager
def running() -> Iterator[Hub]:
    """Serve on a free port of the loopback interface until the context ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer(with_body=False)

        def do_GET(self):
            self._answer(with_body=True)

        def _answer(self, *, with_body):
            hub.requests.append(f"{self.command} {self.path}")
            repo, _, rest = self.path.strip("/").partition("/resolve/")
            key = (repo, rest.partition("/")[2].partition("?")[0])
            if key not in hub.files:
                known = any(repo == name for name, _ in hub.files)
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = hub.files[key]
            body = hub.sent.get(key, content) if with_body else content
            self.send_response(200)
            self.send_header("ETag", f'"{hub.etags.get(key, hashlib.sha256(content).hexdigest())}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body[: len(body) // 2] if key in hub.cut else body)
                self.close_connection = True

        def log_message(self, *args):
            """Log nothing, to keep the output of the tests clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
