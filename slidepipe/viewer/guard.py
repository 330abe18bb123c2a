"""Who may ask: own pages only, and where others than this machine can ask, those who know the token.

- The Host header must name this server, so that a page of elsewhere cannot reach it under a name of its own (DNS rebinding).
- A request that a page of another origin makes is refused, whatever it asks for.
- Beyond the loopback a token is needed: given once in the address, kept in a cookie that scripts and other sites cannot use.
- No page may load anything from elsewhere, or be shown in a frame (Content-Security-Policy).
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

#: The largest body taken, bytes: labels of a hundred thousand objects.
MOST_BODY_BYTES = 16 * 2**20


def is_loopback(host: str) -> bool:
    """Whether a server on ``host`` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware. ``host`` is what the server listens on; ``token`` empty asks for none."""

    def __init__(self, app: ASGIApp, host: str, token: str) -> None:
        self._app, self._token = app, token
        self._names = {"localhost", "127.0.0.1", "::1", host.lower()}
        self._any_address = not is_loopback(host)
        if self._any_address:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that may not be made; pass the others on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no websockets here

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(headers, scope)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)

    def _refusal(self, headers: Headers, scope: Scope) -> PlainTextResponse | RedirectResponse | None:
        host = headers.get("host", "")
        if not self._is_own_host(host):
            return PlainTextResponse("This server is not known by that name.", 421)
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"{scope['scheme']}://{host}".lower():
            return PlainTextResponse("Requests of another site's pages are refused.", 403)
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and headers.get("sec-fetch-mode") != "navigate":
            return PlainTextResponse("Requests of another site's pages are refused.", 403)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BODY_BYTES or "transfer-encoding" in headers:
            return PlainTextResponse("The request is too large, or does not say how large it is.", 413)
        return self._without_token(headers, scope) if self._token else None

    def _is_own_host(self, host: str) -> bool:
        name = host.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name in self._names:
            return True
        try:  # an address cannot be pointed elsewhere, as a name can
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_address

    def _without_token(self, headers: Headers, scope: Scope) -> PlainTextResponse | RedirectResponse | None:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if given is not None and _same(given, self._token) and scope["method"] == "GET":
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            # One slash in front, whatever was asked for: "//elsewhere" would lead to another server.
            path = "/" + scope["path"].lstrip("/\\")
            answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(_cookie_name(scope), self._token, httponly=True, samesite="strict", path="/")
            return answer
        if _same(_cookie(headers).get(_cookie_name(scope), ""), self._token):
            return None
        return PlainTextResponse(
            "This page needs the token that 'slidepipe view' printed when it was started: open the address as it was printed.",
            401,
        )


def _cookie_name(scope: Scope) -> str:
    """With the port, which cookies do not know: two servers of one machine would take each other's away."""
    server = scope.get("server")
    return f"{COOKIE}{server[1] if server else 0}"


def _cookie(headers: Headers) -> Mapping[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8"))
