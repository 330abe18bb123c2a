"""Which requests are answered: those of the viewer's own pages, and from other machines only those with the token.

- The Host header must name this server, so that a page of another site cannot reach it under a name of its own (DNS rebinding).
- A request that a page of another origin makes is rejected, whatever it asks for.
- If other machines can reach the server, a token is needed. It is part of the printed address; after that it is kept in a cookie
  that scripts and other sites cannot use.
- A page may load nothing from another server, and may not be shown in a frame (Content-Security-Policy).
"""

import hmac
import ipaddress
import socket
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "slidepipe_token_"

#: The Content-Security-Policy of a page. `frame-ancestors` is added in the header: it has no effect in a `meta` element.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'"
)
_HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

#: The largest request body that is accepted, in bytes: enough for the labels of a hundred thousand objects.
MAX_BODY_BYTES = 16 * 2**20

_OTHER_SITE = "Requests from pages of other sites are rejected."


def is_loopback(host: str) -> bool:
    """Return whether a server that listens on `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class AccessControl:
    """ASGI middleware that rejects requests which may not be made, and adds the security headers to each response.

    Args:
        app: the application.
        host: address that the server listens on.
        token: the token that a request needs; empty if none is needed.
    """

    def __init__(self, app: ASGIApp, host: str, token: str) -> None:
        self._app, self._token = app, token
        self._host_names = {"localhost", "127.0.0.1", "::1", host.lower()}
        self._any_address = not is_loopback(host)
        if self._any_address:
            self._host_names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject the request, or pass it on to the application."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # The viewer has no websockets.

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        answer = self._rejection(headers, scope) or self._token_answer(headers, scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _rejection(self, headers: Headers, scope: Scope) -> PlainTextResponse | None:
        """Return the answer to a request that is rejected whoever sends it; None if it may be answered."""
        host = headers.get("host", "")
        if not self._is_own_host(host):
            return PlainTextResponse("The Host header names another server.", 421)
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"{scope['scheme']}://{host}".lower():
            return PlainTextResponse(_OTHER_SITE, 403)
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and headers.get("sec-fetch-mode") != "navigate":
            return PlainTextResponse(_OTHER_SITE, 403)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES or "transfer-encoding" in headers:
            return PlainTextResponse("The request is too large, or its Content-Length is missing.", 413)
        return None

    def _is_own_host(self, host: str) -> bool:
        name = host.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name in self._host_names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_address  # DNS rebinding needs a name; an address always means this server.

    def _token_answer(self, headers: Headers, scope: Scope) -> PlainTextResponse | RedirectResponse | None:
        """Return the redirect that sets the cookie, or the rejection without a token; None if the request may be answered."""
        if not self._token:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if given is not None and _equal(given, self._token) and scope["method"] == "GET":
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            # Exactly one leading slash, whatever was requested: "//elsewhere" would lead to another server.
            path = "/" + scope["path"].lstrip("/\\")
            redirect = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            redirect.set_cookie(_cookie_name(scope), self._token, httponly=True, samesite="strict", path="/")
            return redirect
        if _equal(_cookies(headers).get(_cookie_name(scope), ""), self._token):
            return None
        return PlainTextResponse(
            "This page needs the token that 'slidepipe view' printed when it started: open the complete printed address.",
            401,
        )


def _cookie_name(scope: Scope) -> str:
    """Return a name with the port in it: cookies ignore the port, so two servers of one machine would share one name."""
    server = scope.get("server")
    return f"{COOKIE}{server[1] if server else 0}"


def _cookies(headers: Headers) -> Mapping[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def _equal(given: str, expected: str) -> bool:
    """Compare two strings in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8"))
