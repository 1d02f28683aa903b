"""The pages over HTTP: only GET, only for hosts that were named, and nothing is loaded from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thinkery.errors import InputError
from thinkery.view import pages, serving
from thinkery.view.curves import curves
from thinkery.view.library import Book, Library
from thinkery.view.samples import LONGEST
from thinkery.view.text import FILTERS, clean

HERE = Path(__file__).parent
ASSETS = "_"
"""The first part of the addresses of styles and scripts; no run may be called so."""

LOOPBACK = ("127.0.0.1", "localhost")
POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'"
HEADERS = {
    "content-security-policy": f"{POLICY}; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Links:
    """Addresses relative to one page, so that a site works below any folder."""

    static = False

    def __init__(self, depth: int) -> None:
        self._up = "../" * depth

    def __call__(self, *parts: object, file: str = "") -> str:
        """The address of a page by its parts, or of a `file` beside it."""
        return (self._up + "".join(f"{quote(str(part), safe='')}/" for part in parts) + file) or "./"

    def pattern(self, *parts: object) -> str:
        """An address with a word to be replaced by a script."""
        return self(*parts)

    def asset(self, name: str) -> str:
        """The address of a style, a script or a font."""
        return f"{self._up}{ASSETS}/{name}?{_digest(name)}"


def create_app(
    library: Library,
    hosts: Sequence[str] = LOOPBACK,
    ledger: Path | None = None,
    links: Callable[[int], Links] = Links,
) -> Starlette:
    """The application; it answers requests for `hosts` only, which a page of another site cannot imitate.

    `ledger` is a server's, for the page about serving; `links` makes the addresses on a page from its depth.
    """
    site = Site(library, ledger, links)
    routes = [
        Mount(f"/{ASSETS}", Assets(directory=HERE / "static")),
        Route("/", site.runs),
        Route("/{run}/", site.pipeline),
        Route("/{run}/stage/{stage}/", site.stage),
        Route("/{run}/stage/{stage}/curves.json", site.curves),
        Route("/{run}/rollouts/", site.newest),
        Route("/{run}/rollouts/{stage}/", site.newest),
        Route("/{run}/rollouts/{stage}/{number:int}/", site.questions),
        Route("/{run}/rollouts/{stage}/{number:int}/{place:int}/", site.questions),
        Route("/{run}/rollouts/{stage}/{number:int}/{place:int}/{sample:int}.txt", site.sample),
        Route("/{run}/rollouts/{stage}/{number:int}/only/{fault}/", site.fault),
        Route("/{run}/question/{task:path}/", site.question),
        Route("/{run}/compare/", site.compare),
        Route("/{run}/compare/{before}/{after}/", site.change),
        Route("/{run}/data/", site.data),
        Route("/{run}/data/{name}/", site.dataset),
        Route("/{run}/serving/", site.serving),
    ]
    middleware = [Middleware(Guarded), Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)]
    return Starlette(
        routes=routes, middleware=middleware, exception_handlers={InputError: site.missing, 404: site.missing}
    )


class Assets(StaticFiles):
    """Styles, scripts and fonts; what is asked for by its digest never changes, so a browser need not ask again."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file, to be kept where its address has a digest."""
        response = await super().get_response(path, scope)
        if scope["query_string"]:
            response.headers["cache-control"] = "max-age=31536000, immutable"
        return response


class Guarded:
    """Puts the headers that keep a page harmless on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and the answer back with the headers."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in given]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await self._app(scope, receive, guarded)


class Site:
    """Requests to pages."""

    def __init__(self, library: Library, ledger: Path | None, links: Callable[[int], Links]) -> None:
        self._library, self._ledger, self._links = library, ledger, links

    def runs(self, request: Request) -> Response:
        """All runs, or the only one."""
        if len(self._library.folders) == 1 and not self._links(0).static:
            return RedirectResponse(f"{quote(next(iter(self._library.folders)), safe='')}/")
        return self._page(request, "runs.html", None, pages.runs_page(self._library))

    def pipeline(self, request: Request) -> Response:
        """The graph of a run."""
        book = self._book(request)
        return self._page(request, "pipeline.html", book, pages.pipeline_page(book))

    def stage(self, request: Request) -> Response:
        """One step with its curves."""
        book = self._book(request)
        return self._page(request, "stage.html", book, pages.stage_page(book, request.path_params["stage"]))

    def curves(self, request: Request) -> Response:
        """The curves of a step as JSON; `after` and `generation` ask for what is new."""
        known = {name: _whole_number(request.query_params.get(name)) for name in ("after", "generation")}
        found = curves(self._book(request), request.path_params["stage"], **known)
        return Response(json.dumps(found), media_type="application/json")

    def newest(self, request: Request) -> Response:
        """The newest attempts of a stage, or of the last one that has any."""
        book = self._book(request)
        stage = request.path_params.get("stage") or default_stage(book)
        if stage is None:
            raise InputError("no attempts were recorded yet", where=book.name)
        return RedirectResponse(
            f"{'' if 'stage' in request.path_params else quote(stage, safe='') + '/'}{book.newest(stage)}/"
        )

    def questions(self, request: Request) -> Response:
        """One file of attempts, one question open."""
        book, at = self._book(request), request.path_params
        return self._page(
            request, "rollouts.html", book, pages.questions_page(book, at["stage"], at["number"], at.get("place"))
        )

    def fault(self, request: Request) -> Response:
        """The samples of a file that have a fault."""
        book, at = self._book(request), request.path_params
        return self._page(request, "fault.html", book, pages.fault_page(book, at["stage"], at["number"], at["fault"]))

    def sample(self, request: Request) -> Response:
        """All that was said in one sample, as plain text."""
        at = request.path_params
        rows = self._book(request).index(at["stage"]).rows(at["number"], at["place"])
        found = next((row["text"] for row in rows if row["sample"] == at["sample"]), None)
        if found is None:
            raise InputError(f"there is no sample {at['sample']}")
        return PlainTextResponse(found.encode("utf-8", "replace"))

    def question(self, request: Request) -> Response:
        """One question wherever it was asked."""
        book = self._book(request)
        return self._page(request, "question.html", book, pages.question_page(book, request.path_params["task"]))

    def compare(self, request: Request) -> Response:
        """The stages side by side."""
        book = self._book(request)
        return self._page(request, "compare.html", book, pages.compare_page(book))

    def change(self, request: Request) -> Response:
        """Two stages, question by question."""
        book, at = self._book(request), request.path_params
        return self._page(request, "change.html", book, pages.change_page(book, at["before"], at["after"]))

    def data(self, request: Request) -> Response:
        """All data sets."""
        book = self._book(request)
        return self._page(request, "data.html", book, pages.data_page(book))

    def dataset(self, request: Request) -> Response:
        """One data set."""
        book = self._book(request)
        return self._page(request, "dataset.html", book, pages.dataset_page(book, request.path_params["name"]))

    def serving(self, request: Request) -> Response:
        """What a server of the run's models did."""
        book = self._book(request)
        return self._page(request, "serving.html", book, serving.serving_page(self._ledger))

    def missing(self, request: Request, problem: Exception) -> Response:
        """A page that says what is not there."""
        error = problem if isinstance(problem, InputError) else InputError("there is no such page")
        return self._page(request, "missing.html", None, {"error": error}, status=404)

    def _book(self, request: Request) -> Book:
        return self._library.open(request.path_params["run"])

    def _page(
        self, request: Request, template: str, book: Book | None, context: dict[str, Any], status: int = 200
    ) -> Response:
        links = self._links(request.scope.get("raw_path", b"/").count(b"/") - 1)
        return HTMLResponse(render(template, self._library.folders, links, book, context), status)


def render(template: str, runs: Iterable[str], link: Links, book: Book | None, context: dict[str, Any]) -> bytes:
    """A page as bytes."""
    rollouts = default_stage(book) if book else None
    shared = {
        "runs": list(runs),
        "link": link,
        "book": book,
        "policy": POLICY,
        "longest": LONGEST,
        "rollouts_of": rollouts,
    }
    return environment().get_template(template).render(shared | context).encode("utf-8", "replace")


def default_stage(book: Book) -> str | None:
    """The stage whose attempts are shown first: the last that trained, else the last that has any."""
    trained = [name for name, step in reversed(book.steps.items()) if step.kind == "Model"]
    return next((name for name in (*trained, *reversed(book.steps)) if book.numbers(name)), None)


@cache
def environment() -> jinja2.Environment:
    """The templates; every value passes `clean` and is escaped."""
    loader = jinja2.FileSystemLoader(HERE / "templates")
    found = jinja2.Environment(
        loader=loader,
        autoescape=True,
        finalize=clean,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= FILTERS
    return found


@cache
def _digest(name: str) -> str:
    return sha256((HERE / "static" / name).read_bytes()).hexdigest()[:8]


def _whole_number(text: str | None) -> int:
    try:
        return int(text or -1)
    except ValueError:
        return -1
