"""Requests that the server refuses: each with a status of 4xx and a message that names the fault."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from fastmunit.serving.app import create_app
from fastmunit.serving.model import Model
from tests.serving.conftest import encoded, pixels_of, upload

IMAGE = upload()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_size(width: int, height: int, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def gif_of_size(width: int, height: int) -> bytes:
    image = bytearray(upload(file_format="GIF"))
    image[6:10] = struct.pack("<HH", width, height)
    return bytes(image)


BAD_IMAGES = {
    "empty": (b"", 422, "image is empty"),
    "text": (b"no picture", 422, r"image is damaged or not an image .*unknown format.* Accepted are PNG, JPEG"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 422, "unknown format"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 422, "unknown format"),
    "a format of files": (encoded(Image.new("RGB", (9, 9)), "TIFF"), 422, "unknown format"),
    "truncated PNG": (IMAGE[: len(IMAGE) // 2], 422, "image is damaged"),
    "header alone": (IMAGE[:20], 422, "image is damaged"),
    "truncated JPEG": (upload(file_format="JPEG")[:-300], 422, "image is damaged"),
    "truncated WebP": (upload(file_format="WEBP")[:-100], 422, "image is damaged"),
    "bomb": (png_of_size(10_000, 10_000, bytes(10_001 * 10_000)), 413, r"image has more than 1,000,000 pixels"),
    "GIF bomb": (gif_of_size(65535, 65535), 413, "more than 1,000,000 pixels"),
    "huge dimensions": (png_of_size(2**31 - 1, 2**31 - 1), 413, "more than 1,000,000 pixels"),
    "one long row": (png_of_size(999_999, 1, bytes(10**6)), 413, r"999,999 pixels and the limit is 65,536"),
    "no pixels": (png_of_size(0, 5), 422, "image"),
    "text bomb": (IMAGE[:33] + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8))) + IMAGE[33:], 422, "damaged"),
    "scans": (upload(file_format="JPEG") + b"\xff\xda" * 101, 422, "more than 100 JPEG scans"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
@pytest.mark.parametrize("field", ["image", "reference"])
def test_bad_pictures(client: TestClient, field: str, name: str) -> None:
    content, status, message = BAD_IMAGES[name]
    answer = client.post("/translate", files={"image": IMAGE, field: content})
    assert answer.status_code == status
    assert_names(answer.json()["detail"], message.replace("image", field, 1))


def assert_names(detail: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        raise ValueError(detail)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"styles": "many"}, "styles: Input should be a valid integer"),
        ({"styles": "1.5"}, "styles: Input should be a valid integer"),
        ({"styles": ""}, "styles is empty"),
        ({"styles": "0"}, "styles: .* greater than or equal to 1"),
        ({"styles": "9"}, "9 styles are more than the limit of 8"),
        ({"styles": "9" * 5000}, "styles: "),
        ({"seed": "-1"}, "seed: .* greater than or equal to 0"),
        ({"seed": str(2**63)}, "seed: .* less than"),
        ({"seed": "NaN"}, "seed: Input should be a valid integer"),
        ({"size": "0"}, "size: "),
        ({"size": "١٢x"}, "size: "),
        ({"direction": "a2a"}, "direction: Input should be 'a2b' or 'b2a'"),
        ({"output": "gif"}, "output: Input should be 'png' or 'json'"),
        ({"output": "png", "styles": "2"}, "output: one PNG holds one style"),
        ({"style": "2"}, "style: Extra inputs are not permitted"),
        ({"codes": "[[0,0,0,0,0,0,0,0]]", "seed": "1"}, "either styles and seed, or codes, or a reference"),
        ({"reference": "/etc/passwd"}, "reference: send a file"),
        ({"codes": "0.5, 1"}, "codes is not JSON"),
        ({"codes": "[" * 100_000}, "codes is not JSON"),
        ({"codes": "[]"}, "codes: expected a list of styles, each a list of 8 numbers"),
        ({"codes": "{}"}, "codes: expected a list of styles"),
        ({"codes": "[[1, 2]]"}, "each a list of 8 numbers"),
        ({"codes": json.dumps([[0.0] * 8] * 9)}, "9 styles are more than the limit of 8"),
        ({"codes": "[[NaN,0,0,0,0,0,0,0]]"}, "codes is not JSON"),
        ({"codes": "[[1e999,0,0,0,0,0,0,0]]"}, "finite"),
        ({"codes": "[[1e39,0,0,0,0,0,0,0]]"}, "finite numbers in float32"),
        ({"codes": "[[1" + "0" * 400 + ",0,0,0,0,0,0,0]]"}, "finite"),
        ({"codes": '[["0.5",0,0,0,0,0,0,0]]'}, "expected finite numbers"),
        ({"codes": "[[true,0,0,0,0,0,0,0]]"}, "expected finite numbers"),
        ({"codes": "[[null,0,0,0,0,0,0,0]]"}, "expected finite numbers"),
        ({"codes": "[[3e38,-3e38,3e38,3e38,-3e38,3e38,3e38,3e38]]"}, "no finite image for this style"),
    ],
)
def test_bad_fields(client: TestClient, fields: dict[str, str], message: str) -> None:
    answer = client.post("/translate", files={"image": IMAGE}, data=fields)
    assert answer.status_code == 422
    assert_names(answer.json()["detail"], message)


def test_sizes_that_are_too_large_name_one_that_is_not(client: TestClient) -> None:
    wide = upload(40, 400)
    refused = client.post("/translate", files={"image": wide}, data={"size": 100})
    assert refused.status_code == 413
    assert_names(refused.json()["detail"], "100,000 pixels and the limit is 65,536: send a size of at most 80")
    assert client.post("/translate", files={"image": wide}, data={"size": 80}).status_code == 200


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "C:\\x", "a\0b", "", ".", "x" * 2000, "\u202e"])
def test_names_of_files_are_not_used(client: TestClient, name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for content, status in ((b"text", 422), (IMAGE, 200)):
        body = (
            f'--x\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
            + content
            + b"\r\n--x--\r\n"
        )
        answer = client.post("/translate", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
        assert answer.status_code == status, answer.text
        assert "passwd" not in answer.text
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_not_a_file(client: TestClient, tmp_path: Path) -> None:
    """The server opens nothing: neither a picture of its own, nor a FIFO, which would block."""
    (tmp_path / "a.png").write_bytes(IMAGE)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "a.png", tmp_path / "fifo", "/dev/zero", "file:///etc/passwd", "http://localhost/a.png"):
        for request in ({"data": {"image": str(path)}}, {"files": {"image": str(path).encode()}}):
            assert client.post("/translate", **request).status_code == 422  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        ({}, 422),
        ({"json": {"image": "x"}}, 422),
        ({"data": {"image": "x"}}, 422),
        ({"content": IMAGE, "headers": {"content-type": "image/png"}}, 422),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=y"}}, 400),
        ({"files": [("image", IMAGE), ("image", IMAGE)]}, 422),
        ({"files": {"image": IMAGE}, "data": {"seed": ["1", "2"]}}, 422),
        ({"files": [(f"f{k}", b"") for k in range(1100)]}, 400),
    ],
)
def test_bad_bodies(client: TestClient, request_of: dict[str, Any], status: int) -> None:
    answer = client.post("/translate", **request_of)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])


@pytest.mark.parametrize("query", ["count=0", "count=9", "count=x", "seed=-1", "seed=1.5", "direction=c2d"])
def test_bad_queries(client: TestClient, query: str) -> None:
    answer = client.get(f"/styles?{query}")
    assert (answer.status_code, isinstance(answer.json()["detail"], str)) == (422, True)


def test_large_bodies_are_not_read(client: TestClient) -> None:
    answer = client.post("/translate", files={"image": bytes(2**20 + 1)})
    assert (answer.status_code, "1,048,576 bytes" in answer.json()["detail"]) == (413, True)
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        while sent < 100 * 2**20:
            sent += 2**16
            yield bytes(2**16)

    answer = client.post("/translate", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413
    wrong = client.post("/translate", headers={"content-length": "-5"})
    assert wrong.status_code == 400


def test_other_methods_and_paths(client: TestClient) -> None:
    assert client.get("/translate").status_code == 405
    assert client.put("/styles").status_code == 405
    assert client.options("/translate").status_code == 405
    assert client.get("/nothing").status_code == 404


@pytest.fixture(scope="module")
def guarded(model: Model) -> Iterator[TestClient]:
    with TestClient(create_app(model, token="geheim-ü")) as client:
        yield client


@pytest.mark.parametrize("header", [None, "", "geheim-ü", "Bearer geheim", "Bearer geheim-ü ", "Basic geheim-ü", "ü"])
def test_a_wrong_token_is_refused(guarded: TestClient, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header.encode()}
    for path in ("/translate", "/translate%0A", "/nothing"):
        answer = guarded.post(path, content=IMAGE, headers=headers)  # type: ignore[arg-type]
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    for path in ("/styles", "/styles%0A", "/styles/"):
        assert guarded.get(path, headers=headers).status_code == 401  # type: ignore[arg-type]
    assert guarded.get("/health", headers=headers).json()["token_required"] is True  # type: ignore[arg-type]
    assert guarded.get("/openapi.json", headers=headers).status_code == 200  # type: ignore[arg-type]


def test_the_token_is_accepted(guarded: TestClient) -> None:
    headers = {"authorization": "Bearer geheim-ü".encode()}
    assert guarded.post("/translate", files={"image": IMAGE}, headers=headers).status_code == 200  # type: ignore[arg-type]
    assert guarded.get("/styles", headers=headers).status_code == 200  # type: ignore[arg-type]
    assert guarded.get("/openapi.json").json()["paths"]["/translate"]["post"]["security"] == [{"HTTPBearer": []}]


def test_other_host_names_are_refused(model: Model) -> None:
    """Otherwise a page of another site, whose name resolves to this machine, could read the answers."""
    with TestClient(create_app(model, hosts={"localhost", "[::1]"}), base_url="http://localhost:1234") as client:
        assert client.get("/styles").status_code == 200
        for host, status in (("LocalHost", 200), ("[::1]:8000", 200), ("evil.example", 400), ("evil:localhost", 400)):
            assert client.get("/styles", headers={"host": host}).status_code == status


def test_outputs_are_pictures_of_the_model_alone(client: TestClient) -> None:
    """Nothing of the upload but its pixels is in the answer, such as the place where a photo was taken."""
    exif = Image.Exif()
    exif[0x010E] = "a secret description"
    photo = encoded(Image.open(io.BytesIO(IMAGE)), "JPEG", exif=exif)
    answer = client.post("/translate", files={"image": photo})
    assert pixels_of(answer.content).shape == (24, 20, 3)
    assert b"secret" in photo and b"secret" not in answer.content
