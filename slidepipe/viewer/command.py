"""``slidepipe view``: starts the server and says where it is."""

import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from slidepipe.errors import SettingsError


def serve(results: Path, host: str, port: int, slides: Path | None, say: Callable[[str], None]) -> None:
    """Serve RESULTS until the process is stopped.

    Args:
        results: a finished RESULTS folder.
        host: address to listen on. Beyond the loopback a token is asked for, which is part of the address that is said.
        port: 0 takes a free one.
        slides: the folder where the well's scans are now, if not where the run found them.
        say: is told the address to open.

    Raises:
        SettingsError: the extra is not installed, the address or port cannot be listened on, or ``slides`` is no folder.
        ResultsError: no finished results, or labels that cannot be read.
    """
    try:
        import uvicorn

        from slidepipe.viewer.app import Server
        from slidepipe.viewer.guard import is_loopback
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette", "h11", "anyio"):
            raise
        raise SettingsError(f"view: {error.name} is not installed. Give: pip install 'slidepipe[view]'") from error
    from slidepipe.viewer import pages
    from slidepipe.viewer.well import Well

    if slides is not None and not slides.is_dir():
        raise SettingsError(f"--slides {slides}: no such folder. Give the folder that holds the well's scans")
    well = Well(results)
    pages.charts(well.index)  # before the first page is asked for
    token = "" if is_loopback(host) else secrets.token_urlsafe(24)
    with _listen(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")
        say(f"{results}: open {address} in a browser; stop with Ctrl+C")
        if token:
            say("whoever has this address can see the well and change its labels; what is sent is not encrypted")
        config = uvicorn.Config(
            Server(well, slides).app(host, token), log_level="warning", access_log=False, timeout_graceful_shutdown=2
        )
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(f"--host {host}: no address of this machine ({error.strerror})") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise SettingsError(
            f"--host {host} --port {port}: cannot be listened on ({error.strerror}). Give another --port, 0 for a free one"
        ) from error
    return listening
