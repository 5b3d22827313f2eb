"""The HTTP application: routes, errors, and the way of a request through the queue."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import torch
from fastapi import FastAPI, Form, HTTPException, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope
from torch import Tensor

import fastmunit
from fastmunit.data.images import encode_image
from fastmunit.errors import DataError, FastmunitError
from fastmunit.page.samples import FOLDER
from fastmunit.page.settings import SETTINGS_FILE, SHOWN_CHANNELS, STATIC, ShownStyles, page_settings
from fastmunit.serving import schemas
from fastmunit.serving.docs_page import docs_page
from fastmunit.serving.gate import Gate
from fastmunit.serving.limits import Limits
from fastmunit.serving.model import Model
from fastmunit.serving.uploads import codes_of, picture, require_few_styles, takes_floats, values_of
from fastmunit.serving.worker import Job, QueueFullError, Result, StoppedError, Worker
from fastmunit.systems.translators import Translator
from fastmunit.translation.domains import source_values, target_values

_CODERS = 2
"""Threads that decode uploads and encode answers."""

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is malformed, or for another host."},
    401: {"description": "The token is missing or wrong."},
    408: {"description": "The request did not arrive in time."},
    413: {"description": "The request or a picture in it is too large."},
    422: {"description": "A field is missing, wrong or unknown, or a picture cannot be read."},
    429: {"description": "The queue is full. The header Retry-After says when to try again."},
    500: {"description": "A fault of the server."},
    503: {"description": "The server is stopping, or has too little memory for this request."},
    504: {"description": "The answer was not ready in time."},
}
_ANSWER: dict[str, Any] = {
    "model": schemas.Translations,
    "description": "A PNG, or the PNGs of several styles in JSON.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}
_T = TypeVar("_T")


def create_app(
    model: Model,
    limits: Limits | None = None,
    *,
    token: str | None = None,
    hosts: Collection[str] | None = None,
    page: Path = STATIC,
) -> FastAPI:
    """Return the application that serves a model.

    Args:
        model: The model.
        limits: Limits on requests. None is the default limits.
        token: Token that requests need, or None.
        hosts: Names that the header `Host` may have, in lower case. None allows any.
        page: Folder of static files for `/`. It may be missing.
    """
    limits = limits or Limits()
    directions = {name: _info(translator) for name, translator in model.translators.items()}
    worker = Worker(model.translators, limits.queue, limits.styles)
    coders = ThreadPoolExecutor(_CODERS, "fastmunit-coder")

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, worker.stop, limits.timeout)
        coders.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title=f"fastmunit: {model.name}",
        version=fastmunit.__version__,
        description=f"Translates pictures with a {model.system} model.",
        lifespan=running,
        docs_url=None,  # both would load scripts from other hosts
        redoc_url=None,
        responses={status: {"model": schemas.Problem, **problem} for status, problem in _PROBLEMS.items()},
        dependencies=[] if token is None else [Security(HTTPBearer(auto_error=False))],  # `Gate` checks it
    )
    app.add_middleware(Gate, limits=limits, token=token, hosts=hosts)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)

    @app.get("/health", responses={503: {"model": schemas.Health, "description": "The model is not ready."}})
    async def health(response: Response) -> schemas.Health:
        """Return if the model is ready, what it takes, and the length of the queue."""
        ready = worker.ready
        if not ready:
            response.status_code = 503
        return schemas.Health(
            ready=ready,
            version=fastmunit.__version__,
            model=model.name,
            system=model.system,
            directions=directions,
            size=schemas.SizeRules(
                trained=model.trained_size,
                max_pixels=limits.pixels,
                max_upload_pixels=limits.upload_pixels,
                max_upload_bytes=limits.upload_bytes,
            ),
            max_styles=limits.styles,
            queue=schemas.QueueInfo(length=worker.length, limit=limits.queue),
            token_required=token is not None,
        )

    @app.get("/styles")
    def styles(  # in another thread, because a GPU may be busy
        count: Annotated[int, Query(ge=1, le=limits.styles, description="Number of styles.")] = min(10, limits.styles),
        seed: Annotated[schemas.Seed, Query(description="Seed.")] = 0,
        direction: schemas.Direction | None = None,
    ) -> schemas.Styles:
        """Return random styles: those that `/translate` uses for the same number of styles and seed."""
        chosen, translator = _chosen(model, direction)
        codes = translator.random_styles(count if translator.style_dim else 1, torch.Generator().manual_seed(seed))
        return schemas.Styles(direction=chosen, seed=seed, styles=values_of(codes))

    @app.get("/styles/named")
    async def named_styles(direction: schemas.Direction | None = None) -> schemas.NamedStyles:
        """Return the styles of the file that the server was started with. Without one, there are none."""
        chosen, _ = _chosen(model, direction)
        given = model.styles.get(chosen)
        if given is None:
            return schemas.NamedStyles(direction=chosen, names=[], styles=[])
        names = [given.label(index) for index in range(len(given.codes))]
        return schemas.NamedStyles(direction=chosen, names=names, styles=values_of(given.codes))

    @app.post("/translate", response_class=Response, responses={200: _ANSWER})
    async def translate(
        request: Request, form: Annotated[schemas.TranslateForm, Form(media_type="multipart/form-data")]
    ) -> Response:
        """Translate a picture into one or several styles."""
        fields = await request.form()
        if len(fields.multi_items()) > len(fields):
            raise HTTPException(422, "a field was sent twice: send each once.")
        if empty := next((name for name, value in fields.items() if value == ""), None):
            raise HTTPException(
                422, f"{empty} is empty: leave it out, or send a value."
            )  # otherwise the default counts
        return await _while_connected(request, answer(form), limits.timeout)

    async def answer(form: schemas.TranslateForm) -> Response:
        loop = asyncio.get_running_loop()
        try:
            with worker.slot():
                image = await form.image.read()
                reference = None if form.reference is None else await form.reference.read()
                job = await loop.run_in_executor(coders, _job, form, image, reference, model, limits)
                result = await asyncio.wrap_future(worker.submit(job))
                return await loop.run_in_executor(coders, _encoded, form, job, result)
        except QueueFullError as error:
            raise HTTPException(429, str(error), {"Retry-After": str(error.retry_after)}) from error
        except StoppedError as error:
            raise HTTPException(503, str(error), {"Retry-After": "10"}) from error
        except FastmunitError as error:
            raise HTTPException(503, f"the picture could not be translated: {error}") from error

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))

    shown = {
        name: ShownStyles.of(translator, model.styles.get(name))
        for name, translator in model.translators.items()
        if {translator.channels, translator.target_channels} <= SHOWN_CHANNELS
        and source_values(translator).are_bytes
        and target_values(translator).are_bytes
    }
    if shown and page.is_dir():
        samples = model.samples
        settings = page_settings(model.system, model.trained_size, shown, samples=samples.samples, engine="server")
        app.add_api_route(f"/{SETTINGS_FILE}", lambda: settings, include_in_schema=False)
        app.add_api_route(f"/{FOLDER}/{{name}}", partial(_sample, samples.contents), include_in_schema=False)
        app.mount("/", _PageFiles(directory=page, html=True))
    else:
        app.add_api_route("/", lambda: RedirectResponse("docs"), include_in_schema=False)
    return app


class _PageFiles(StaticFiles):
    """The page at `/`, which a router asks for everything that no other route answers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file. GET of a path that takes only POST is refused for its method, as without a page."""
        if path == "translate":
            raise HTTPException(405, headers={"Allow": "POST"})
        return await super().get_response(path, scope)


def _sample(contents: Mapping[str, bytes], name: str) -> Response:
    """Return one of the sample pictures, which are in memory, or the license of the data."""
    content = contents.get(f"{FOLDER}/{name}")
    if content is None:
        raise HTTPException(404, "there is no such sample.")
    is_picture = name.endswith(".png")
    return Response(content, media_type="image/png" if is_picture else "text/plain; charset=utf-8")


async def _while_connected(request: Request, work: Coroutine[Any, Any, _T], timeout: float) -> _T:
    """Return the result of `work`. Cancel it if the client closes the connection, or after `timeout` seconds."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise HTTPException(400, "the client has closed the connection.")
        raise HTTPException(504, f"the answer was not ready within {timeout:g} s: try again, or send a smaller size.")
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _chosen(model: Model, direction: schemas.Direction | None) -> tuple[schemas.Direction, Translator]:
    """Return a direction of the model, by default the first, and its translator."""
    chosen = cast(schemas.Direction, direction or next(iter(model.translators)))
    if chosen not in model.translators:
        raise HTTPException(422, f"direction: this model translates {' and '.join(model.translators)} only.")
    return chosen, model.translators[chosen]


def _info(translator: Translator) -> schemas.DirectionInfo:
    return schemas.DirectionInfo(
        channels=translator.channels,
        target_channels=translator.target_channels,
        style_dim=translator.style_dim,
        style_values="numbers" if takes_floats(translator) else "integers",
        takes_references=translator.takes_references,
    )


def _job(form: schemas.TranslateForm, image: bytes, reference: bytes | None, model: Model, limits: Limits) -> Job:
    """Return the job of a request. Raises HTTPException if a field is wrong."""
    direction, translator = _chosen(model, form.direction)
    given = [name for name in ("codes", "reference") if getattr(form, name) is not None]
    if len(given) > 1 or (given and (form.styles is not None or form.seed is not None)):
        raise HTTPException(422, "send either styles and seed, or codes, or a reference: each decides the styles.")
    styles: int | Tensor
    if form.codes is not None:
        styles = codes_of(form.codes, translator, limits)
    elif reference is not None:
        if not translator.takes_references:
            raise HTTPException(422, "reference: this model has no style encoder; send styles or codes.")
        channels, values = translator.target_channels, target_values(translator)
        styles = picture(reference, "reference", channels, form.size, limits, values)
    else:
        styles = (form.styles or 1) if translator.style_dim else 1
        require_few_styles(styles, limits)
    source = picture(image, "image", translator.channels, form.size, limits, source_values(translator))
    job = Job(direction, source, styles, form.seed or 0)
    if form.output == "png" and job.count > 1:
        raise HTTPException(422, "output: one PNG holds one style; use json for several.")
    return job


def _encoded(form: schemas.TranslateForm, job: Job, result: Result) -> Response:
    """Return the answer with the images of a result."""
    try:
        # On photos, the lowest level takes a third of the time of the usual one, and a fifth more bytes.
        files = [encode_image(image, "PNG", "the translation", compress_level=1) for image in result.images]
    except DataError as error:
        if isinstance(job.styles, Tensor):
            raise HTTPException(422, "the model gives no finite image for this style: use smaller values.") from error
        raise HTTPException(500, f"the model gives no finite image: {error}") from error
    if form.output == "png" or (form.output is None and len(files) == 1):
        return Response(files[0], media_type="image/png")
    images = [
        {"png": base64.b64encode(file).decode(), "style": style}
        for file, style in zip(files, values_of(result.codes), strict=True)
    ]
    height, width = result.images.shape[-2:]
    content = {"direction": job.direction, "height": height, "width": width, "images": images}
    return Response(json.dumps(content), media_type="application/json")


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Return the answer to a request with wrong fields. The values are not repeated: they may be files, or not JSON."""
    assert isinstance(error, RequestValidationError)
    first, *others = error.errors()
    field = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    reason = first["msg"] if first["type"] != "value_error" else "send a file, with a file name"
    more = f" (and {len(others)} more)" if others else ""
    return JSONResponse({"detail": f"{field[:100]}: {reason}{more}."}, 422)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "a fault of the server; its log has the details."}, 500)
