"""openapi.json and PROTOCOL.md say what the daemon answers: every field, header, status and type of problem."""
from __future__ import annotations

import copy
import json
import os
import re

import jsonschema
import pytest

import cases
import masks
from conftest import HERE
from daemon import Daemon

PROTO = os.path.join(HERE, "../proto")
COMMON = {"date", "connection", "content-length", "transfer-encoding", "content-type", "content-encoding", "vary",
          "cache-control", "content-disposition", "x-request-id", "x-content-type-options"}   # of any answer


def text(*path: str) -> str:
    with open(os.path.join(*path)) as f:
        return f.read()


def closed(schema):
    """The same schema, by which a field that it does not name is an error."""
    if isinstance(schema, list):
        return [closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    out = {k: closed(v) for k, v in schema.items()}
    if isinstance(out.get("properties"), dict):
        out.setdefault("additionalProperties", False)
    return out


class Api:
    """Requests whose answers are looked up in the daemon's openapi.json."""

    def __init__(self, d: Daemon):
        self.d, self.spec = d, d.json("/openapi.json")
        self.strict = closed(copy.deepcopy(self.spec))

    def resolve(self, o: dict) -> dict:
        while "$ref" in o:
            name = o["$ref"]
            o = self.strict
            for part in name[2:].split("/"):
                o = o[part]
        return o

    def valid(self, o, schema) -> None:
        jsonschema.Draft202012Validator({**schema, "components": self.strict["components"]}).validate(o)

    def check(self, method: str, path: str, r) -> None:
        """`path` as the document has it."""
        responses = self.strict["paths"][path][method.lower()]["responses"]
        says = self.resolve(responses.get(str(r.status), responses["default"]))
        assert str(r.status) in responses or r.status >= 400, (method, path, r.status)
        named = {h.lower() for h in says.get("headers", {})}
        assert {h.lower() for h in r.headers} <= COMMON | named, (method, path, r.status, r.headers.items())
        kind = r.headers.get("Content-Type", "").split(";")[0]
        if "content" not in says:
            assert not r.body, (method, path, r.status)
            return
        assert kind in says["content"] or "*/*" in says["content"], (method, path, r.status, kind)
        if kind in ("application/json", "application/problem+json"):
            self.valid(r.json(), says["content"][kind]["schema"])

    def call(self, status: int, method: str, path: str, body=None, query="", headers=None, **names):
        r = self.d.request(method, path.format(**names) + query, body, **(headers or {}))
        assert r.status == status, (method, path, r.status, r.body)
        self.check(method, path, r)
        return r


@pytest.fixture(scope="module")
def api(daemon) -> Api:
    return Api(daemon)


def test_images_and_streams_are_as_described(api, picture):
    for name in ("png", "raw", "rle", "coco_rle", "overlay", "labels"):
        api.call(200, "POST", "/v1/segment", picture, f"?format={name}")
    api.call(400, "POST", "/v1/segment", picture, "?format=jpeg")
    api.call(415, "POST", "/v1/segment", b"no image")
    api.call(422, "POST", "/v1/segment", picture[:300])
    api.call(201, "PUT", "/v1/streams/{id}", id="a")
    api.call(200, "PUT", "/v1/streams/{id}", id="a")
    api.call(409, "PUT", "/v1/streams/{id}", query="?format=rle", id="a")
    made = api.call(201, "POST", "/v1/streams", query="?format=rle").json()["id"]
    api.call(404, "GET", "/v1/streams/{id}/state", id="a")
    for stream in ("a", made):
        api.call(200, "POST", "/v1/streams/{id}/frames", picture, id=stream)
        api.call(200, "GET", "/v1/streams/{id}", id=stream)
    api.call(200, "GET", "/v1/streams")
    state = api.call(200, "GET", "/v1/streams/{id}/state", id="a").body
    api.call(204, "POST", "/v1/streams/{id}/reset", id="a")
    api.call(204, "PUT", "/v1/streams/{id}/state", state, id="a")
    api.call(422, "PUT", "/v1/streams/{id}/state", b"none", id="a")
    api.call(400, "POST", "/v1/streams/{id}/frames", b"", id="a")
    for stream in ("a", made):
        api.call(204, "DELETE", "/v1/streams/{id}", id=stream)
    api.call(404, "GET", "/v1/streams/{id}", id="a")
    api.call(400, "GET", "/v1/streams/{id}", query="?color=red", id="a")


@pytest.mark.parametrize("name", ["png", "raw", "rle", "coco_rle", "overlay", "labels"])
def test_videos_are_as_described(api, tmp_path, name):
    source = masks.video(tmp_path / "a.mkv", cases.frames((64, 96), 3, 2), "-c:v", "ffv1")
    with open(source, "rb") as f:
        video = f.read()
    again = {"Idempotency_Key": name}
    job = api.call(202, "POST", "/v1/videos", video, f"?format={name}", again).json()["id"]
    api.call(202, "POST", "/v1/videos", video, f"?format={name}", again)
    api.call(422, "POST", "/v1/videos", video + b"x", f"?format={name}", again)
    events = api.call(200, "GET", "/v1/videos/{id}/events", id=job).body.decode()
    for line in re.findall("^data: (.*)$", events, re.M):
        api.valid(json.loads(line), api.strict["components"]["schemas"]["Job"])
    api.call(200, "GET", "/v1/videos/{id}", id=job)
    api.call(200, "GET", "/v1/videos")
    api.call(200, "GET", "/v1/videos/{id}/masks", id=job)
    api.call(200, "GET", "/v1/videos/{id}/masks", headers={"Accept_Encoding": "gzip"}, id=job)
    api.call(206, "GET", "/v1/videos/{id}/masks", headers={"Range": "bytes=0-9"}, id=job)
    api.call(416, "GET", "/v1/videos/{id}/masks", headers={"Range": "bytes=99999999-"}, id=job)
    api.call(200, "GET", "/v1/videos/{id}/masks/{n}", id=job, n=2)
    api.call(404, "GET", "/v1/videos/{id}/masks/{n}", id=job, n=3)
    api.call(204, "DELETE", "/v1/videos/{id}", id=job)
    api.call(404, "GET", "/v1/videos/{id}", id=job)
    broken = api.call(202, "POST", "/v1/videos", b"no video").json()["id"]
    assert api.d.finish(broken)["state"] == "failed"
    api.call(200, "GET", "/v1/videos/{id}", id=broken)
    api.call(409, "GET", "/v1/videos/{id}/masks", id=broken)


def test_the_server_is_as_described(api):
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json", "/", "/v1/server", "/v1/models"):
        api.call(200, "GET", path)
        api.call(400, "GET", path, query="?color=red")
    api.call(200, "GET", "/v1/models/{name}", name="tiny")
    api.call(404, "GET", "/v1/models/{name}", name="other")
    tag = api.call(200, "GET", "/").headers["ETag"]
    api.call(304, "GET", "/", headers={"If_None_Match": tag})


def test_every_method_of_a_path_is_described_and_no_other(api):
    """But for the WebSocket, which is on the other port."""
    for path, item in api.spec["paths"].items():
        if path.endswith("/ws"):
            continue
        allow = api.d.request("OPTIONS", path.format(id="a", n=0, name="a")).headers["Allow"]
        assert set(allow.split(", ")) - {"HEAD", "OPTIONS"} == {m.upper() for m in item if m != "parameters"}, path


def test_every_type_of_problem_is_described_with_its_status():
    table = {kind: status for status, kind in re.findall(r'X\(ERR_(?!OK)\w+, (\d+), "([a-z-]+)"',
                                                         text(HERE, "../base/err.h"))}
    assert len(table) > 15
    table |= {"method": "405", "range": "416", "key-reused": "422", "upgrade": "426"}   # HTTP's alone
    spec = json.loads(text(PROTO, "openapi.json"))
    named = spec["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert sorted(named) == sorted("/problems/" + kind for kind in table)
    protocol = text(PROTO, "PROTOCOL.md")
    types = protocol[protocol.index("The types:"):].split("\n*")[0]
    said = {kind: status for kinds, status in re.findall(r"((?:`[a-z-]+`(?: \([^)]*\))?(?:, | and )?)+) (\d{3})", types)
            for kind in re.findall("`([a-z-]+)`", kinds)}
    assert said == table
