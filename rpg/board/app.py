"""The board as a web application, and the server that shows it: the only file that imports starlette and uvicorn.

It reads and never writes. It answers only requests whose Host header names this server (so that a page elsewhere
cannot read it through a name of its own that leads here), runs no script but our own, and shows the pages of reports,
which may be anyone's, in a sandbox without an origin.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpg.board.networks import checkpoint_page, tensor_page, zoo_page
from rpg.board.pages import TOP, curves, damaged, methods, overview, report_page, run_page, scores_page
from rpg.board.shelf import DAMAGED, Shelf, Unknown
from rpg.board.view import Press, View
from zoo.console import plain
from zoo.errors import Corrupt, Failed, MissingExtra, brief

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

OURS = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""What a page of ours may do (Content-Security-Policy): no request but for its script."""
THEIRS = (
    "sandbox allow-scripts allow-downloads allow-popups; default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:"
)
"""What a file of a report may do: it has no origin, so it reads nothing of ours, and makes no request."""
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of all answers."""
ANY = ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound to
WRONG = (*DAMAGED, Failed)


def build_app(place: Path, host: str = "127.0.0.1") -> Starlette:
    """The board over a directory, as an ASGI application for a server that listens on `host`. Raises MissingExtra."""
    require_libraries()
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse
    from starlette.routing import Route

    shelf, press = Shelf(place), Press()
    script = (resources.files("rpg.reports") / "templates" / "tables.js").read_text(encoding="utf-8")

    def page(make: Callable[[Request], View]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            try:
                view, status = make(request), 200
            except Unknown as error:
                view, status = View("Not here", "404", trail=[TOP], wrong=f"{brief(error)}."), 404
            except WRONG as error:
                folder, name = request.url.path.split("/")[1], request.path_params.get("name", "")
                view, status = damaged(folder, name, error), 200
            return HTMLResponse(press.html(view), status, {"Content-Security-Policy": OURS})

        return answer

    def search(request: Request) -> str:
        return request.query_params.get("q", "")[:200]

    def tensor(request: Request) -> View:
        found = request.path_params
        return tensor_page(shelf, press, found["name"], found["id"], request.query_params.get("name", ""))

    def checkpoint(request: Request) -> View:
        found = request.path_params
        return checkpoint_page(shelf, found["name"], found["id"], "neighbours" in request.query_params)

    def file(request: Request) -> Response:
        try:
            path, media = shelf.file(request.path_params["path"])
        except (Unknown, Corrupt) as error:
            return PlainTextResponse(plain(f"{brief(error)}\n", keep="\n"), 404)
        return FileResponse(path, media_type=media, headers={"Content-Security-Policy": THEIRS})

    def nothing(request: Request, error: Exception) -> Response:
        view = View("Not here", "404", trail=[TOP], wrong="There is no such page.")
        return HTMLResponse(press.html(view), 404, {"Content-Security-Policy": OURS})

    def tables_script(_: Request) -> Response:
        return PlainTextResponse(script, media_type="text/javascript")

    pages: dict[str, Callable[[Request], View]] = {
        "/": lambda request: overview(shelf, search(request)),
        "/curves": lambda request: curves(shelf, press, request.query_params.getlist("run")),
        "/methods": lambda _: methods(shelf, press),
        "/zoos/{name}": lambda request: zoo_page(shelf, request.path_params["name"], search(request)),
        "/zoos/{name}/{id}": checkpoint,
        "/zoos/{name}/{id}/tensor": tensor,
        "/runs/{name}": lambda request: run_page(shelf, press, request.path_params["name"]),
        "/scores/{name}": lambda request: scores_page(shelf, request.path_params["name"], search(request)),
        "/reports/{name}": lambda request: report_page(shelf, press, request.path_params["name"]),
    }
    routes = [Route(path, page(make), methods=["GET"]) for path, make in pages.items()]
    routes += [
        Route("/files/{path:path}", file, methods=["GET"]),
        Route("/tables.js", tables_script, methods=["GET"]),
    ]
    guard = Middleware(Guard, host=host)
    return Starlette(routes=routes, middleware=[guard], exception_handlers={404: nothing})


class Guard:
    """Refuses requests for another Host than this server's, and adds the headers that all answers have."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        if scope["type"] != "http":  # starting and ending; there are no websockets
            await self.app(scope, receive, send)
            return

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(ALWAYS)
            await send(message)

        given = Headers(scope=scope).getlist("host")
        if len(given) == 1 and is_ours(given[0], self.host):
            await self.app(scope, receive, sent)
        else:
            refusal = PlainTextResponse("this server answers to the address that `rpg board` prints\n", 421)
            await refusal(scope, receive, sent)


def is_ours(header: str, host: str) -> bool:
    """Whether a Host header names a server that listens on `host`: that itself; on a loopback address any loopback
    address or localhost; on all addresses any address. Only a name can be made to lead here by others, so no name is
    taken but the one given.
    """
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() and not header.endswith("]") else header
    name = name.strip("[]").lower().removesuffix(".")
    if name == host.lower():
        return True
    if name == "localhost":
        return is_loopback(host) or host in ANY
    try:
        asked = ipaddress.ip_address(name)
    except ValueError:
        return False
    return host in ANY or (is_loopback(host) and asked.is_loopback)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_libraries() -> None:
    """Raise MissingExtra when the web server's libraries are not installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtra(f"the board needs {error.name}; install it with `pip install 'rpg-zoo[board]'`") from error


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there (port 0: at any free one). Raises ValueError when it cannot."""
    if not host:
        raise ValueError("--host is empty; expected an address to listen on, as in --host 127.0.0.1")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ValueError(f"--host {host} is no address: {brief(error)}; try --host 127.0.0.1") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
        found.listen()
    except OSError as error:
        found.close()
        reason = error.strerror or brief(error)
        raise ValueError(f"cannot listen on port {port} of {host}: {reason}; try --port 0, any free one") from error
    return found


def url(listening: socket.socket, host: str) -> str:
    """The address to type into a browser."""
    shown = "localhost" if host in ANY else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}/"


def show(place: Path, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve the board of a directory until Ctrl-C, its usual end; `announce` is given its address when it listens.

    Raises MissingExtra without the libraries, ValueError for what is no directory or a port that cannot be had.
    """
    if not place.is_dir():
        raise ValueError(f"{place} is no directory; expected one with zoos/ or runs/, as in rpg board .")
    app = build_app(place, host)
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=1, lifespan="off")
    with listen(host, port) as listening, suppress(KeyboardInterrupt):
        if not is_loopback(host):
            log.warning("every machine that reaches this one can read what is shown; --host 127.0.0.1 keeps it here")
        announce(url(listening, host))
        sys.stdout.flush()  # whoever reads it through a pipe waits for it
        uvicorn.Server(config).run(sockets=[listening])
