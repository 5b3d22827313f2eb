"""bench.serving: a request and a call are both measured."""

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from bench import serving
from tests.serving.conftest import system


def test_both_are_measured_and_a_refused_request_is_an_error():
    small = system()
    times = serving.measured(small, size=16, styles=2, rounds=1)
    assert set(times.seconds) == {serving.DIRECT, serving.SERVED}
    assert all(0 < seconds < float("inf") for seconds in times.seconds.values())
    with pytest.raises(RuntimeError, match="33 styles are more than the limit"):
        serving.measured(small, size=16, styles=33, rounds=1)
