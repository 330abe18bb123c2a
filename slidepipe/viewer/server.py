"""`slidepipe view`: start the server and print its address."""

import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from slidepipe.errors import SettingsError


def serve(results: Path, host: str, port: int, slides: Path | None, echo: Callable[[str], None]) -> None:
    """Serve a RESULTS folder until the process is stopped.

    Args:
        results: a finished RESULTS folder.
        host: address to listen on. If other machines can reach it, requests need a token, which is part of the printed address.
        port: port to listen on; 0 chooses a free one.
        slides: folder that holds the well's scans now, if they were moved since the run.
        echo: prints a line, for example the address to open.

    Raises:
        SettingsError: slidepipe[view] is not installed, the server cannot listen on the address or port, or `slides` is not a
            folder.
        ResultsError: the folder holds no finished results, or its labels cannot be read.
    """
    try:
        import uvicorn

        from slidepipe.viewer.access import is_loopback
        from slidepipe.viewer.app import build_app
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette", "h11", "anyio"):
            raise
        raise SettingsError(
            f"view: the package {error.name} is not installed. Run: pip install 'slidepipe[view]'"
        ) from error
    from slidepipe.viewer.charts import chart_svgs
    from slidepipe.viewer.open_results import OpenResults

    if slides is not None and not slides.is_dir():
        raise SettingsError(f"--slides {slides}: no such folder. Give the folder that holds the well's scans")
    opened = OpenResults(results)
    chart_svgs(opened.index)  # Drawing takes seconds, so it is done before the first page is requested.
    token = "" if is_loopback(host) else secrets.token_urlsafe(24)
    with _listen(host, port) as listener:
        shown_host = f"[{host}]" if ":" in host else host
        address = f"http://{shown_host}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")
        echo(f"{results}: open {address} in a browser; stop with Ctrl+C")
        if token:
            echo("anyone with this address can see the well and change its labels; the connection is not encrypted")
        config = uvicorn.Config(
            build_app(opened, host, token, slides), log_level="warning", access_log=False, timeout_graceful_shutdown=2
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises SettingsError if the machine does not have the address, or the port is in use."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(
            f"--host {host}: not an address of this machine ({error.strerror}). "
            "Give 127.0.0.1 for this machine only, or 0.0.0.0 for all of its addresses"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"--host {host} --port {port}: the server cannot listen there ({error.strerror}). "
            "Give another --port, or 0 to choose a free one"
        ) from error
    return listener
