"""Requests that schemathesis makes from the OpenAPI description: no faults, and only answers that it describes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastmunit.serving.app import create_app
from fastmunit.serving.limits import Limits
from fastmunit.serving.model import Model
from tests.serving.conftest import upload

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance  # noqa: E402

IMAGE = upload(8, 8)


class Started:
    """An application whose lifespan is managed elsewhere: schemathesis would enter it for every request."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self.app(scope, receive, send)
            return
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return


@pytest.fixture(scope="module")
def api(model: Model) -> Iterator[Any]:
    app = create_app(model, Limits(styles=4, pixels=64 * 64))
    with TestClient(app):
        yield schemathesis.openapi.from_asgi("/openapi.json", Started(app))


def check(api: Any, method: str, path: str, expected: set[int], examples: int, **options: Any) -> None:
    """Send requests that fit the description of an operation, and some that do not, and check the answers."""
    statuses = []
    for mode in schemathesis.GenerationMode if expected != {200} else [schemathesis.GenerationMode.POSITIVE]:

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), **options)
        @given(case=api[path][method].as_strategy(generation_mode=mode), picture=st.booleans())
        def send(case: Any, picture: bool) -> None:
            if picture and isinstance(case.body, dict) and isinstance(case.body.get("image"), str | bytes):
                case.body["image"] = IMAGE  # random bytes are none
            # A description cannot say that bytes must be a picture, nor that two fields exclude each other.
            excluded = [positive_data_acceptance]
            if isinstance(case.body, dict) and any(isinstance(value, list) for value in case.body.values()):
                excluded.append(negative_data_rejection)  # a form has no lists: one of a valid value is that value
            answer = case.call_and_validate(excluded_checks=excluded)
            statuses.append(answer.status_code)

        send()
    assert expected <= {*statuses}


OPERATIONS = [
    ("GET", "/health", {200}),
    ("GET", "/styles", {200, 422}),
    ("GET", "/styles/named", {200, 422}),
    ("POST", "/translate", {200, 422}),
]


@pytest.mark.parametrize(("method", "path", "expected"), OPERATIONS)
def test_answers_are_described(api: Any, method: str, path: str, expected: set[int]) -> None:
    labels = [operation.ok().label for operation in api.get_all_operations()]
    assert labels == [f"{method} {path}" for method, path, _ in OPERATIONS]
    check(api, method, path, expected, examples=12, derandomize=True, database=None)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path", "expected"), OPERATIONS)
def test_answers_to_many_requests_are_described(api: Any, method: str, path: str, expected: set[int]) -> None:
    check(api, method, path, expected, examples=300, database=None)
