"""Protects the studio: who may send requests, how large they are, and what a page may load.

A page in the browser of the same machine can reach 127.0.0.1 too. So every request must name a known host (against DNS
rebinding), every writing request must come from the studio's own pages (against cross-site request forgery), and pages
run only the studio's own scripts (a strict content security policy, against names of classes and files that contain
HTML, besides their escaping).

References: https://owasp.org/www-community/attacks/csrf; https://www.w3.org/TR/CSP3/;
https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html, section
"Verifying Origin With Standard Headers".
"""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.studio.options import StudioOptions

_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    # With `no-referrer`, browsers send the origin "null" with forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_READING = ("GET", "HEAD")
LOGIN_PATH, STATIC_PATH = "/login", "/static/"
_COOKIE = "tfx_vision_studio"


class Guard:
    """ASGI middleware that applies all checks, and adds the headers to every response."""

    def __init__(self, app: ASGIApp, options: StudioOptions) -> None:
        """Takes the application and the options."""
        self._app, self._options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        await self._app(scope, _limited(receive, self._options.max_upload_bytes), send_with_headers)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name(host) not in self._options.host_names:
            return PlainTextResponse(
                f"The studio is not known as {host[:200]!r}. --allowed-host adds a name.", status_code=421
            )
        if scope["method"] not in _READING and not _is_own_origin(headers.get("origin"), host):
            return PlainTextResponse("This request does not come from a page of the studio.", status_code=403)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._options.max_upload_bytes:
            return PlainTextResponse(_too_large(self._options.max_upload_bytes), status_code=413)
        if self._options.token is not None and not self._may_enter(scope["path"], headers):
            if scope["method"] in _READING and "text/html" in headers.get("accept", ""):
                return RedirectResponse(LOGIN_PATH, status_code=303)
            return PlainTextResponse("Log in first.", status_code=401, headers={"WWW-Authenticate": "Bearer"})
        return None

    def _may_enter(self, path: str, headers: Headers) -> bool:
        assert self._options.token is not None
        if path == LOGIN_PATH or path.startswith(STATIC_PATH):
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and is_token(given, self._options.token):
            return True
        return is_session(headers.get("cookie", ""), self._options)


def is_token(given: str, token: str) -> bool:
    """Compares tokens in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.strip().encode(), token.encode())


def session_cookie(options: StudioOptions) -> tuple[str, str]:
    """Returns name and value of the cookie of a login; cookies do not distinguish ports, so that its name does."""
    assert options.token is not None
    digest = hmac.new(options.token.encode(), b"tfx-vision studio session", hashlib.sha256).hexdigest()
    return f"{_COOKIE}_{options.port}", digest


def is_session(cookies: str, options: StudioOptions) -> bool:
    """Whether a Cookie header contains the session of this token."""
    name, value = session_cookie(options)
    try:
        morsel = SimpleCookie(cookies).get(name)
    except CookieError:
        return False
    return morsel is not None and hmac.compare_digest(morsel.value.encode(), value.encode())


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_own_origin(origin: str | None, host: str) -> bool:
    """Whether a request comes from this host and port; browsers send the origin with every writing request."""
    scheme, separator, authority = (origin or "").partition("://")
    return bool(separator) and scheme in ("http", "https") and authority == host


def _limited(receive: Receive, limit: int) -> Receive:
    """Counts the bytes of a body without a declared length."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return limited


def _too_large(limit: int) -> str:
    return f"The request is larger than {limit / 2**20:g} MiB. --max-upload-mb raises the limit."
