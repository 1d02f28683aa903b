"""The endpoints. Each reads a body, has its jobs done, and writes what they say; bills come before last words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from thinkery.core import Message
from thinkery.serve import answers
from thinkery.serve.answers import ChatAnswer, TextAnswer
from thinkery.serve.call import Call
from thinkery.serve.docs import describe
from thinkery.serve.guard import Guard
from thinkery.serve.jobs import Job
from thinkery.serve.ledger import USD, Key
from thinkery.serve.refusals import Refusal, overloaded
from thinkery.serve.state import State
from thinkery.serve.wire import ChatRequest, CompletionRequest, Sent, read

PAGE = Path(__file__).parent / "page"

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the chat page may load: its own files, and nothing inline."""

DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"

SECURE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

SHORT = 8192
"""Bytes of a body whose conversation is made tokens in a millisecond or two: in a thread that would take longer."""

Shown = ChatAnswer | TextAnswer

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {"application/json": {"schema": {"type": "object", "required": ["error"]}}},
    }
    for status, description in {
        400: "The request cannot be answered",
        401: "No such key",
        402: "Nothing is left on the key",
        403: "Another host, or a page of another origin",
        408: "The body did not arrive in time",
        413: "The body is too large",
        422: "The body is not what the endpoint reads",
        429: "Too many requests of one key",
        500: "The server failed",
        503: "Overloaded or draining",
    }.items()
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer, in one piece or as a stream",
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["id", "choices", "usage"]}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    },
    **REFUSALS,
}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Numbers", "content": {"text/plain": {"schema": {"type": "string"}}}},
    **REFUSALS,
}


def build_app(state: State) -> ASGIApp:
    """The endpoints behind their guard."""
    return Guard(build_endpoints(state), state.cfg, state.till.key_of, state.limiter)


def build_endpoints(state: State) -> FastAPI:
    """The endpoints alone."""
    app = FastAPI(title="Thinkery", docs_url=None, redoc_url=None)
    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(HTTPException, not_there)
    app.add_exception_handler(Exception, broken)

    async def chat(request: Request) -> Response:
        """A conversation goes on: the model's next message."""
        body = await request.body()
        asked = read(ChatRequest, body)
        offer = state.offer(asked.model)
        read_jobs = partial(state.reader.chat, asked, offer.readable, key_of(request).id)
        jobs = await aside(read_jobs, long=len(body) > SHORT or asked.response_format is not None)
        shown = ChatAnswer(
            asked.model,
            offer.fingerprint,
            logprobs=bool(asked.logprobs),
            promote_unclosed=state.cfg.promote_unclosed,
        )
        said = [state.reader.messages(asked)] * len(jobs)
        return await answer(state, request, jobs, said, shown, stream=bool(asked.stream))

    async def completions(request: Request) -> Response:
        """A text goes on."""
        body = await request.body()
        asked = read(CompletionRequest, body)
        offer = state.offer(asked.model)
        read_jobs = partial(state.reader.completions, asked, offer.readable, key_of(request).id)
        jobs = await aside(read_jobs, long=len(body) > SHORT)
        backend = offer.readable.tokenizer.backend
        shows = asked.echo or state.risk
        prompts = [backend.decode(list(job.prompt), skip_special_tokens=False) if shows else "" for job in jobs]
        echoes = prompts if asked.echo else [""] * len(jobs)
        shown = TextAnswer(asked.model, offer.fingerprint, echoes, logprobs=asked.logprobs is not None)
        said = [[Message("user", prompt)] for prompt in prompts]
        return await answer(state, request, jobs, said, shown, stream=bool(asked.stream))

    for path in ("/chat/completions", "/v1/chat/completions", "/beta/chat/completions"):
        app.add_api_route(path, chat, methods=["POST"], responses=ANSWERS, openapi_extra=body_of(ChatRequest))
    app.add_api_route(
        "/v1/completions", completions, methods=["POST"], responses=ANSWERS, openapi_extra=body_of(CompletionRequest)
    )

    @app.get("/models", responses=REFUSALS)
    @app.get("/v1/models", responses=REFUSALS)
    async def models() -> Response:
        """The models that are served."""
        pricing = state.cfg.prices.model_dump()  # nano-USD per token: hit, miss, completion
        entry = {"object": "model", "owned_by": "thinkery", "pricing": pricing}
        data = [{"id": name, "root": offer.readable.name, **entry} for name, offer in state.offers.items()]
        return JSONResponse({"object": "list", "data": data})

    @app.get("/user/balance", responses=REFUSALS)
    async def balance(request: Request) -> Response:
        """What is left on the key."""
        return JSONResponse(balance_json(key_of(request)))

    @app.get("/metrics", responses=METRICS)
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/health")
    async def health() -> Response:
        """Whether the server lives."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready", responses=REFUSALS)
    async def ready() -> Response:
        """Whether the server takes requests, and an engine could begin one."""
        if state.draining or not state.door.open:
            raise overloaded("The server is draining" if state.draining else "The model is being opened", after_s=30)
        return JSONResponse({"status": "ready"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """What there is, as a page without scripts."""
        return HTMLResponse(describe(app.openapi()), headers={"Content-Security-Policy": DOCS_POLICY, **SECURE})

    add_page(app)
    parts = app.openapi().setdefault("components", {}).setdefault("schemas", {})
    parts |= {**parts_of(ChatRequest), **parts_of(CompletionRequest)}
    return app


async def aside(work: Callable[[], list[Job]], *, long: bool) -> list[Job]:
    """The result of some work: at once where it is short, else from a thread, so that others go on meanwhile."""
    return await asyncio.to_thread(work) if long else work()


def body_of(kind: type[Sent]) -> dict[str, Any]:
    """The schema of a body, for the OpenAPI document; bodies are read by `wire.read`."""
    schema = {name: part for name, part in schema_of(kind).items() if name != "$defs"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def parts_of(kind: type[Sent]) -> dict[str, Any]:
    """The schemas that a body's schema refers to, by name."""
    return schema_of(kind).get("$defs", {})


def schema_of(kind: type[Sent]) -> dict[str, Any]:
    """A body's JSON schema."""
    return kind.model_json_schema(ref_template="#/components/schemas/{model}")


def key_of(request: Request) -> Key:
    """Who asks, as the guard found out."""
    return request.scope["key"]


def balance_json(key: Key) -> dict[str, Any]:
    """A key's balance, in dollars; a key without a limit has none to tell."""
    if key.balance is None:
        return {"is_available": True, "balance_infos": []}
    granted = (key.granted or 0) - key.spent
    amounts = {
        "total_balance": key.balance,
        "granted_balance": max(0, granted),
        "topped_up_balance": (key.topped_up or 0) + min(0, granted),
    }
    infos = {"currency": "USD", **{name: f"{amount / USD:.2f}" for name, amount in amounts.items()}}
    return {"is_available": key.balance > 0, "balance_infos": [infos]}


def add_page(app: FastAPI) -> None:
    """The chat page and its files."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        if not (PAGE / "index.html").is_file():
            raise HTTPException(404)
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": PAGE_POLICY, **SECURE})

    app.mount("/page", PageFiles(directory=PAGE, check_dir=False))


class PageFiles(StaticFiles):
    """The page's files, with the same policy as the page."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update({"Content-Security-Policy": PAGE_POLICY, **SECURE})
        return response


async def refused(request: Request, refusal: Exception) -> Response:
    """A refusal as an answer."""
    assert isinstance(refusal, Refusal)
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


async def not_there(request: Request, error: Exception) -> Response:
    """What the framework refuses (no such path, no such method), in the words of the API."""
    assert isinstance(error, HTTPException)
    message = {404: "Not Found: no such endpoint", 405: "Method Not Allowed"}.get(error.status_code, error.detail)
    return JSONResponse(Refusal(error.status_code, message).body, error.status_code, error.headers)


async def broken(request: Request, error: Exception) -> Response:
    """What nobody foresaw: the log has it, the client does not."""
    return JSONResponse(Refusal(500, "The server failed; please retry later").body, 500)


# ---- answering


async def answer(
    state: State,
    request: Request,
    jobs: Sequence[Job],
    asked: Sequence[Sequence[Message]],
    shown: Shown,
    *,
    stream: bool,
) -> Response:
    """Have jobs done, of each of which `asked` has the conversation, and answer in one piece or as a stream."""
    call = await state.begin(key_of(request), jobs)
    if stream:
        return EventStream(lambda: events(state, call, asked, shown), lambda: state.settle(call))
    try:
        return await unless_gone(request, whole(state, call, asked, shown))
    finally:
        await asyncio.shield(state.settle(call))


async def whole(state: State, call: Call, asked: Sequence[Sequence[Message]], shown: Shown) -> Response:
    """The answer in one piece."""
    try:
        async for _ in state.news(call, asked):
            pass
    except Refusal:
        await asyncio.shield(state.settle(call, failed=True))
        raise
    await asyncio.shield(state.charge(call))
    return JSONResponse(shown.whole(call.said, call.usage))


async def events(state: State, call: Call, asked: Sequence[Sequence[Message]], shown: Shown) -> AsyncIterator[bytes]:
    """The answer as events, all that are ready together; a failure on the way is one too."""
    untold, told = set(range(len(call.jobs))), time.monotonic()
    try:
        async for heard in state.news(call, asked, silence_s=state.cfg.keep_alive_s):
            if not heard:
                told = time.monotonic()
                yield answers.ALIVE
                continue
            ready: list[bytes] = []
            for number, news in heard.items():
                ready += shown.events(number, news, call.said[number])
                if news.end is not None:
                    untold.discard(number)
                    if untold:
                        ready.append(shown.last(number, call.said[number], None))
            if ready or time.monotonic() - told >= state.cfg.keep_alive_s:  # what has come may all be held back
                told = time.monotonic()
                yield b"".join(ready) or answers.ALIVE
            if not untold:
                await asyncio.shield(state.charge(call))
                yield shown.last(number, call.said[number], call.usage) + answers.DONE
    except Refusal as refusal:
        await asyncio.shield(state.settle(call, failed=True))
        yield answers.event(refusal.body)


async def unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """The work's response, or none when the client hangs up before it is there."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=499)
    finally:
        for task in (working, watching):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def gone(receive: Receive) -> None:
    """Wait until the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events as they come, until the client hangs up; `after` is done in any case."""

    def __init__(self, events: Callable[[], AsyncIterator[bytes]], after: Callable[[], Awaitable[None]]) -> None:
        super().__init__(
            status_code=200,
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            media_type="text/event-stream; charset=utf-8",
        )
        del self.headers["content-length"]
        self.events, self.after = events, after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until nobody listens."""
        sending = asyncio.ensure_future(self.send_all(send))
        watching = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not isinstance(problem := sending.exception(), OSError | None):
                raise problem
        finally:
            for task in (sending, watching):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
            await asyncio.shield(self.after())

    async def send_all(self, send: Send) -> None:
        """Headers, events, and the end."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for data in self.events():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
