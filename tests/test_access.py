"""API keys: every operation of proto/openapi.json tried without one, with one of the wrong role, and with another's.

The table is made from the OpenAPI file, and that is held to the daemon's own table of endpoints: an operation without
a rule, or an endpoint without an operation, fails."""
from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys

import pytest
import websockets

import cases
from conftest import BUILD, HERE, TV3S
from daemon import PATIENCE, TV3SD, Daemon
from keys import ALL, bearer, new_key
from replicas import Redis, replica
from test_http import image
from test_ws_wire import upgrade as ws_upgrade

ROOT = os.path.join(HERE, "..")
sys.path.append(os.path.join(ROOT, "clients/python"))
with open(os.path.join(ROOT, "proto/openapi.json")) as f:
    API = json.load(f)
ROLES = ("submit", "stream", "read", "admin")


class Operation:
    def __init__(self, path: str, method: str, item: dict):
        self.path, self.method, self.id, self.security = path, method.upper(), item["operationId"], item.get("security")
        self.body, self.websocket = "requestBody" in item, path.endswith("/ws")
        self.named = "{id}" in path

    @property
    def roles(self) -> set[str]:
        """Of which one is needed; empty: everybody may."""
        if not self.security:
            return set()
        return set(self.security[0]["key"]) or set(ROLES)

    def __repr__(self) -> str:
        return self.id


OPERATIONS = [Operation(path, method, item) for path, methods in API["paths"].items()
              for method, item in methods.items() if method in ("get", "put", "post", "delete", "patch", "head")]
KEYED = [op for op in OPERATIONS if op.security]
NAMED = [op for op in OPERATIONS if op.named]


def test_every_operation_has_a_rule_and_every_endpoint_an_operation():
    for op in OPERATIONS:
        assert op.security is not None, f"{op.id} has no security in openapi.json"
        assert op.roles <= set(ROLES)
        assert op.security or op.id in ("live", "ready", "openapi", "page"), f"{op.id} is open to all"
    with open(os.path.join(ROOT, "server/http_route.c")) as f:
        table = set(re.findall(r'^    \{"(\w+)", "([^"]+)"', f.read(), re.M))
    described = {(op.method, re.sub(r"\{(id|name)\}", "{}", op.path).replace("{n}", "#")) for op in OPERATIONS
                 if not op.websocket}
    assert len(table) > 20
    assert described - {("GET", "/"), ("GET", "/openapi.json")} == table  # those two are files of the page's table


# ------------------------------------------------------------------------------------------ one daemon, two owners
@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """{name: key}: ann and bob may all, the others what their name says."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    out = {name: new_key(file, name) for name in ("ann", "bob")}
    out |= {role: new_key(file, role, role) for role in ROLES}
    return {"": file, **out}


@pytest.fixture(scope="module")
def daemon(keys, tiny_model, tmp_path_factory):
    with Daemon(tiny_model, tmp_path_factory.mktemp("daemon") / "spool", "--keys-file", keys[""],
                key=keys["ann"]) as d:
        yield d


@pytest.fixture(scope="module")
def png():
    return image(cases.frames((64, 96), 1, 3)[0])


@pytest.fixture(scope="module")
def job(daemon, tmp_path_factory, png):
    """Ann's video, done."""
    path = tmp_path_factory.mktemp("video") / "in.png"
    path.write_bytes(png)
    video = path.with_suffix(".mkv")
    subprocess.run(["ffmpeg", "-v", "error", "-loop", "1", "-i", path, "-frames:v", "3", video], check=True)
    job = daemon.upload(video)
    assert job["state"] == "succeeded", job
    return job["id"]


async def upgrade(url: str, protocols, headers):
    try:
        async with websockets.connect(url, subprotocols=protocols, extra_headers=headers, open_timeout=PATIENCE) as ws:
            return 101, {}, json.loads(await ws.recv())
    except websockets.InvalidStatusCode as e:
        return e.status_code, dict(e.headers), None


def call(d: Daemon, op: Operation, key: str | None, name: str, body: bytes):
    """(status, headers, what the answer says without the request's own ID)"""
    path = op.path.replace("{id}", name).replace("{n}", "0").replace("{name}", "tiny")
    headers = bearer(key) if key else {}
    if op.websocket:
        return asyncio.run(upgrade(f"ws://127.0.0.1:{d.ws_port}{path}", ["tv3s.v1"], headers))
    r = d.request(op.method, path, body if op.body else None, **{"Authorization": "", **headers})
    said = r.json() if r.headers["Content-Type"] == "application/problem+json" else {}
    said.pop("request_id", None)
    return r.status, dict(r.headers), said


def state_of(d: Daemon, job: str, key: str):
    """What ann has: a stream, its state, a job. Nobody else's calls may change it."""
    stream = d.json("/v1/streams/cam-7")
    del stream["idle"]
    return stream, d.get("/v1/streams/cam-7/state").body, d.json(f"/v1/videos/{job}"), \
        d.get(f"/v1/videos/{job}/masks").body


@pytest.mark.parametrize("op", KEYED, ids=repr)
def test_without_a_key_nothing_is_told(daemon, keys, job, png, op):
    daemon.request("PUT", "/v1/streams/cam-7")
    name = job if "/videos/" in op.path else "cam-7"
    answers = [call(daemon, op, key, who, png) for key in (None, "nonsense", keys["ann"][:-1] + "!", keys["ann"][:-2],
                                                           "tv3s_" + "A" * 43) for who in (name, "nobody")]
    for status, headers, said in answers:
        assert status == 401
        assert headers.get("WWW-Authenticate", headers.get("www-authenticate")).startswith("Bearer")
    if not op.websocket:
        assert all(said["type"] == "/problems/unauthorized" for _, _, said in answers)
        assert answers[0][2] == answers[1][2]
        assert len({json.dumps(said) for _, _, said in answers[2:]}) == 1


@pytest.mark.parametrize("op", KEYED, ids=repr)
def test_a_key_without_the_role_is_refused(daemon, keys, job, png, op):
    daemon.request("PUT", "/v1/streams/cam-7")
    for role in ROLES:
        status, _, said = call(daemon, op, keys[role], "nobody", png)
        assert (status == 403) == (role not in op.roles), (role, status)
        if status == 403 and said:
            assert said["type"] == "/problems/forbidden"


@pytest.mark.parametrize("op", NAMED, ids=repr)
def test_what_another_key_has_is_as_if_it_were_not_there(daemon, keys, job, png, op):
    """Bob calls the operation with the name of what ann has, and with one that nobody has: the answers are the same,
    and what ann has is as it was."""
    daemon.request("PUT", "/v1/streams/cam-7?format=rle")
    daemon.request("POST", "/v1/streams/cam-7/frames", png)
    before, answers = state_of(daemon, job, keys["ann"]), []
    for name in (job if "/videos/" in op.path else "cam-7", "nobody"):
        status, headers, said = call(daemon, op, keys["bob"], name, png)
        text = json.dumps(said).replace(name, "NAME")
        answers.append((status, sorted(headers), re.sub(r'"(created|idle)": [0-9.]+', "", text)))
        daemon.request("DELETE", f"/v1/streams/{name}", **bearer(keys["bob"]))  # of bob's own, if he made one
    assert answers[0] == answers[1]
    assert answers[0][0] in ({"putStream": (201,), "connectStream": (101,)}.get(op.id, (404,)))
    assert state_of(daemon, job, keys["ann"]) == before


@pytest.fixture(scope="module")
def replicas(keys, tiny_model, tmp_path_factory):
    """(Redis, two daemons that hand streams over through it); ann's are at the first."""
    folder = tmp_path_factory.mktemp("replicas")
    with Redis() as redis, replica(tiny_model, folder / "a", redis, "--keys-file", keys[""], key=keys["ann"]) as a, \
            replica(tiny_model, folder / "b", redis, "--keys-file", keys[""], key=keys["ann"]) as b:
        yield redis, a, b


@pytest.mark.parametrize("op", [op for op in NAMED if "/streams/" in op.path], ids=repr)
def test_nor_is_it_for_another_key_at_another_replica(replicas, keys, png, op):
    """Which could take it up from the store, or ask for it: neither happens, and the answer is nobody's."""
    redis, a, b = replicas
    a.request("PUT", "/v1/streams/cam-7?format=rle")
    a.request("POST", "/v1/streams/cam-7/frames", png)
    a.wait_for(lambda: redis.meta("cam-7", "ann").get("seq") == a.json("/v1/streams/cam-7")["last_seq"])

    def ann_has():
        stream = a.json("/v1/streams/cam-7")
        del stream["idle"]
        return stream, a.get("/v1/streams/cam-7/state").body, redis.meta("cam-7", "ann")
    before, answers = ann_has(), []
    for name in ("cam-7", "nobody"):
        status, headers, said = call(b, op, keys["bob"], name, png)
        text = json.dumps(said).replace(name, "NAME")
        answers.append((status, sorted(headers), re.sub(r'"(created|idle)": [0-9.]+', "", text)))
        b.request("DELETE", f"/v1/streams/{name}", **bearer(keys["bob"]))
    assert answers[0] == answers[1]
    assert answers[0][0] in ({"putStream": (201,), "connectStream": (101,)}.get(op.id, (404,)))
    assert ann_has() == before and b.json("/v1/streams") == {"streams": []}


def test_lists_hold_what_is_ones_own(daemon, keys, job, png):
    daemon.request("PUT", "/v1/streams/cam-7")
    daemon.request("PUT", "/v1/streams/bobs", **bearer(keys["bob"]))
    for name, streams, videos in (("ann", {"cam-7"}, {job}), ("bob", {"bobs"}, set()), ("read", set(), set())):
        assert {s["id"] for s in daemon.get("/v1/streams", **bearer(keys[name])).json()["streams"]} >= streams
        assert bool(streams) or not daemon.get("/v1/streams", **bearer(keys[name])).json()["streams"]
        assert {v["id"] for v in daemon.get("/v1/videos", **bearer(keys[name])).json()["videos"]} == videos


def test_two_keys_may_use_one_stream_id(daemon, keys, png):
    for name in ("ann", "bob"):
        assert daemon.request("PUT", "/v1/streams/twin", **bearer(keys[name])).status == 201
    for _ in range(2):
        assert daemon.request("POST", "/v1/streams/twin/frames", png, **bearer(keys["bob"])).status == 200
    frames = [daemon.get("/v1/streams/twin", **bearer(keys[name])).json()["frames"] for name in ("ann", "bob")]
    assert frames == [0, 2]
    assert daemon.request("DELETE", "/v1/streams/twin", **bearer(keys["bob"])).status == 204
    assert daemon.get("/v1/streams/twin", **bearer(keys["bob"])).status == 404
    assert daemon.get("/v1/streams/twin").status == 200


def test_a_page_sends_its_key_as_a_subprotocol(daemon, keys):
    url = f"ws://127.0.0.1:{daemon.ws_port}/v1/streams/page/ws"

    async def choice():
        protocols = ["tv3s.v1", "tv3s.key." + keys["ann"]]
        async with websockets.connect(url, subprotocols=protocols) as ws:
            return ws.subprotocol, json.loads(await ws.recv())["stream"]

    assert asyncio.run(choice()) == ("tv3s.v1", "page")  # the key does not come back
    assert asyncio.run(upgrade(url, ["tv3s.v1", "tv3s.key.tv3s_" + "B" * 43], {}))[0] == 401
    assert asyncio.run(upgrade(url, ["tv3s.key." + keys["ann"]], {}))[0] == 400


def test_keys_are_not_logged_nor_kept(daemon, keys):
    with open(keys[""]) as f:
        file = f.read()
    for key in (v for k, v in keys.items() if k):
        assert re.fullmatch(r"tv3s_[A-Za-z0-9_-]{43}", key)
        assert key not in file and key not in daemon.log()
    assert "key=ann" in daemon.log()


def test_pages_of_allowed_origins_may_send_the_key(keys, tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "spool", "--keys-file", keys[""], "--cors-origins", "https://good.example") as d:
        for origin, allowed in (("https://good.example", True), ("https://evil.example", False)):
            r = d.request("OPTIONS", "/v1/videos", Origin=origin, Access_Control_Request_Method="GET",
                          Access_Control_Request_Headers="authorization")
            assert r.status == 204 and ("Authorization" in (r.headers["Access-Control-Allow-Headers"] or "")) == allowed
            r = d.get("/v1/videos", Origin=origin, **bearer(keys["ann"]))
            assert (r.headers["Access-Control-Allow-Origin"] == origin) == allowed
            assert r.headers["Access-Control-Allow-Credentials"] is None  # no cookies: nothing goes by itself
            assert d.get("/v1/videos", Origin=origin).status == 401


# -------------------------------------------------------------------------------------------------------- clients
def test_the_python_client_has_a_key(daemon, keys, png, monkeypatch):
    from tv3s_client import Client, Tv3sError

    def refused(call):
        with pytest.raises(Tv3sError) as e:
            call()
        return e.value.status, e.value.type

    url = f"http://127.0.0.1:{daemon.http_port}"
    client, reader = Client(url, key=keys["ann"]), Client(url, key=keys["read"])
    with client.stream("py", takeover=True) as stream:
        assert [a.seq for a in stream.masks([png])] == [0]
    assert client.describe("py")["frames"] == 1
    assert client.segment(png).size == (96, 64)
    assert refused(lambda: reader.segment(png)) == (403, "forbidden")
    assert refused(lambda: reader.stream("py").open()) == (403, "forbidden")
    with pytest.raises(Tv3sError, match="the key has not the role submit"):
        reader.segment(png)
    assert refused(lambda: Client(url).models()) == (401, "unauthorized")
    monkeypatch.setenv("TV3S_KEY", keys["ann"])
    assert Client(url).describe("py")["frames"] == 1


def test_the_c_client_has_a_key(daemon, keys, png, tmp_path):
    (tmp_path / "in.png").write_bytes(png)

    def run(key: str, *args) -> subprocess.CompletedProcess:
        env = {**os.environ, "TV3S_KEY": key, "TV3S_URL": f"http://127.0.0.1:{daemon.http_port}", "no_proxy": "*"}
        return subprocess.run([os.path.join(BUILD, "tv3s-client"), *args], env=env, capture_output=True, cwd=tmp_path)

    assert run(keys["ann"], "segment", "in.png", "-o", "out.png").returncode == 0
    done = run(keys["ann"], "stream", "in.png", "--id", "c", "-o", "masks/")
    assert done.returncode == 0, done.stderr
    assert daemon.json("/v1/streams/c")["frames"] == 1
    for args in (("segment", "in.png", "-o", "no.png"), ("stream", "in.png", "--id", "c2", "-o", "no/")):
        refused = run(keys["read"], *args)
        assert refused.returncode != 0 and b"role" in refused.stderr, refused.stderr


def test_the_curl_line_with_a_key(daemon, keys):
    with open(os.path.join(ROOT, "docs/curl.md")) as f:
        line = re.search(r"^```bash\n(.*?)^```", f.read(), re.M | re.S)[1]
    for key, status in ((keys["read"], 0), ("x", 22)):
        done = subprocess.run(line.replace("localhost:8080", f"127.0.0.1:{daemon.http_port}"), shell=True,
                              env={**os.environ, "key": key, "no_proxy": "*"}, capture_output=True, text=True)
        assert done.returncode == status, done.stderr


# ------------------------------------------------------------------------------------------------------- the file
def test_a_reload_takes_keys_back_and_gives_new_ones(tiny_model, tmp_path, png):
    file = tmp_path / "keys.json"
    old, other = new_key(file, "cams"), new_key(file, "other")

    async def scenario(d):
        url = f"ws://127.0.0.1:{d.ws_port}/v1/streams/a/ws"
        async with websockets.connect(url, extra_headers=bearer(old)) as mine, \
                websockets.connect(url, extra_headers=bearer(other)) as others:
            await mine.recv(), await others.recv()
            new = new_key(file, "cams")  # beside the old one
            d.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(d.wait_log, r"event=reloaded")
            d.wait_for(lambda: d.get("/v1/streams/a", **bearer(new)).status == 200)
            assert d.get("/v1/streams/a", **bearer(old)).status == 200
            with open(file) as f:
                entries = json.load(f)["keys"]
            entries[0]["hashes"] = entries[0]["hashes"][1:]
            file.write_text(json.dumps({"keys": entries[:1]}))
            d.process.send_signal(signal.SIGHUP)
            assert json.loads(await asyncio.wait_for(others.recv(), PATIENCE)) == {"type": "bye", "reason": "revoked"}
            await others.wait_closed()
            assert others.close_code == 4003
            assert d.get("/v1/streams/a", **bearer(old)).status == 401
            assert d.get("/v1/streams/a", **bearer(other)).status == 401
            await mine.send(png)  # goes on: its owner still may
            assert (await asyncio.wait_for(mine.recv(), PATIENCE))[:4] == b"TV3M"
            file.write_text('{"keys": [{"name": "x"}]}')
            d.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(d.wait_log, r"event=keys_failed .*key 1: ")
            assert d.get("/v1/streams/a", **bearer(new)).status == 200

    with Daemon(tiny_model, tmp_path / "spool", "--keys-file", file) as d:
        asyncio.run(scenario(d))


HASH = "sha256:" + "0" * 64


@pytest.mark.parametrize("text, says", [
    ("", "line 1"), ("[]", '"keys"'), ('{"keys": {}}', '"keys"'), ('{"keys": [1]}', "an object is wanted"),
    ('{"keys": [{"name": "a"}]}', "wanted"),
    ('{"keys": [{"name": "a b", "hashes": ["%s"], "roles": ["read"]}]}' % HASH, "a name is"),
    ('{"keys": [{"name": "a", "hashes": ["%s"], "roles": ["root"]}]}' % HASH, "roles are"),
    ('{"keys": [{"name": "a", "hashes": ["%s0"], "roles": ["read"]}]}' % HASH, "a hash is"),
    ('{"keys": [{"name": "a", "hashes": ["%s"], "roles": ["read"], "stream": 1}]}' % HASH, 'no "stream"'),
    ('{"keys": [{"name": "a", "hashes": ["%s"], "roles": ["read"], "jobs": 0}]}' % HASH, "from 1 on"),
    ('{"keys": [%s, %s]}' % ((('{"name": "a", "hashes": ["%s"], "roles": ["read"]}') % HASH,) * 2), "twice"),
])
def test_a_key_file_that_is_wrong_is_an_error(tiny_model, tmp_path, text, says):
    file = tmp_path / "keys.json"
    file.write_text(text)
    done = subprocess.run([TV3SD, "--model", tiny_model, "--keys-file", file], capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 2 and "keys.json" in done.stderr and says in done.stderr.replace('\\"', '"'), done.stderr


def test_the_tool_says_what_is_wrong(tmp_path):
    def run(*args):
        return subprocess.run([TV3S, "key", *args], capture_output=True, text=True)

    assert run("a b", "--roles", "read").returncode == 2
    assert run("a").returncode == 2
    assert "roles are submit, stream, read and admin, not 'root'" in run("a", "--roles", "read,root").stderr
    assert "a limit is" in run("a", "--roles", "read", "--jobs", "-1").stderr
    assert run("a", "--roles", "read", "--file", tmp_path / "none" / "k").returncode == 1
    entry, _, key = run("a", "--roles", "read", "--jobs", "2").stdout.rstrip().rpartition("\n")
    assert json.loads(entry)["jobs"] == 2 and key.startswith("tv3s_")


def test_a_new_key_of_a_name_keeps_its_roles_and_limits_unless_others_are_given(tmp_path):
    file = tmp_path / "keys.json"

    def run(*args):
        done = subprocess.run([TV3S, "key", "a", *args, "--file", file], capture_output=True, text=True)
        return done, json.loads(file.read_text())["keys"] if file.exists() else None

    done, there = run()
    assert done.returncode == 1 and "--roles is wanted" in done.stderr and there is None
    run("--roles", "read,stream", "--jobs", "2")
    done, [a] = run()
    assert (a["roles"], a["jobs"], len(a["hashes"])) == (["read", "stream"], 2, 2) and not done.stderr
    done, [a] = run("--roles", "read,stream")
    assert (a["roles"], len(a["hashes"])) == (["read", "stream"], 3) and not done.stderr
    done, [a] = run("--roles", "read", "--jobs", "3")
    assert (a["roles"], a["jobs"], len(a["hashes"])) == (["read"], 3, 4)
    assert 'they were ["read","stream"]' in done.stderr and done.stdout.startswith("tv3s_")


def test_what_is_full_does_not_tell_of_whom(tiny_model, tmp_path, job_video):
    """Where there is no room Bob is told the same, whether it is Ann or himself who has it."""
    file = tmp_path / "keys.json"
    keys = {name: new_key(file, name) for name in ("ann", "bob")}
    with Daemon(tiny_model, tmp_path / "spool", "--keys-file", file, "--max-streams", "2", "--jobs-max", "1",
                "--ws-connections", "1", key=keys["bob"]) as d:
        def http(method: str, path: str, body=None) -> tuple[int, str]:
            r = d.request(method, path, body)
            return r.status, r.json()["detail"]

        def websocket() -> tuple[int, str]:
            status, _, body = ws_upgrade(d, "/v1/streams/more/ws", **bearer(keys["bob"]))
            return status, json.loads(body)["detail"]

        async def beside_a_websocket(path: str, key: dict) -> tuple[int, str]:
            async with websockets.connect(f"ws://127.0.0.1:{d.ws_port}{path}/ws", extra_headers=key) as ws:
                await ws.recv()
                return await asyncio.to_thread(websocket)

        def told_while_it_is_had_by(name: str) -> list[tuple[int, str]]:
            key = bearer(keys[name])
            first, second = (d.request("POST", "/v1/streams", **key).headers["Location"] for _ in range(2))
            told = [http("POST", "/v1/streams"), http("PUT", "/v1/streams/more"), websocket()]
            d.request("DELETE", first, **key)
            told.append(asyncio.run(beside_a_websocket(second, key)))
            d.request("DELETE", second, **key)
            job = d.request("POST", "/v1/videos", job_video, **key).headers["Location"]
            told.append(http("POST", "/v1/videos", job_video))
            d.request("DELETE", job, **key)
            d.wait_for(lambda: d.metric('tv3sd_connections{protocol="ws"}') == 0)
            return told

        told = told_while_it_is_had_by("ann")
        assert told == told_while_it_is_had_by("bob")
        assert [status for status, _ in told] == [503] * 5 and not any(re.search(r"\d", text) for _, text in told)
        ids = [d.get("/livez").headers["X-Request-Id"] for _ in range(2)]
        assert [len(i) for i in ids] == [22, 22] and len(os.path.commonprefix(ids)) < 9  # no counter that all share


# ------------------------------------------------------------------------------------------------------- no keys
def test_without_keys_it_listens_to_this_machine_alone(tiny_model, tmp_path):
    args = [TV3SD, "--model", tiny_model, "--spool", tmp_path / "spool", "--http-port", "0", "--ws-port", "0"]
    for address in ("0.0.0.0", "::", "192.0.2.1"):
        done = subprocess.run([*args, "--listen", address], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 2 and "keys_file" in done.stderr and "open_access" in done.stderr
    with Daemon(tiny_model, tmp_path / "spool") as d:
        d.wait_log(r"level=info event=no_keys open_to=this_machine")
    with Daemon(tiny_model, tmp_path / "spool", "--listen", "0.0.0.0", "--open-access") as d:
        d.wait_log(r"level=warning event=no_keys open_to=everybody")
        assert d.get("/v1/streams").status == 200
        assert d.get("/v1/streams", Authorization="Bearer nonsense").status == 200


# -------------------------------------------------------------------------------------------------------- limits
def test_limits_of_a_key(tiny_model, tmp_path, png, job_video):
    file = tmp_path / "keys.json"
    few = new_key(file, "few", ALL, "--streams", 2, "--jobs", 1, "--upload-bytes", len(job_video) + 10)
    slow = new_key(file, "slow", ALL, "--frames-per-second", 0.001)
    free = new_key(file, "free")
    with Daemon(tiny_model, tmp_path / "spool", "--keys-file", file, key=few) as d:
        assert [d.request("PUT", f"/v1/streams/{i}").status for i in range(3)] == [201, 201, 429]
        r = d.request("POST", "/v1/streams")
        assert r.problem() == "key-limit" and r.headers["Retry-After"]
        assert d.request("POST", "/v1/streams", **bearer(free)).status == 201
        assert d.request("DELETE", "/v1/streams/0").status == 204
        assert d.request("PUT", "/v1/streams/2").status == 201
        assert asyncio.run(upgrade(f"ws://127.0.0.1:{d.ws_port}/v1/streams/3/ws", None, bearer(few)))[0] == 429

        done = d.request("POST", "/v1/videos", job_video)
        assert done.status == 202
        first = d.finish(done.json()["id"])
        assert d.request("POST", "/v1/videos", job_video).problem() == "key-limit"  # of bytes
        assert d.request("POST", "/v1/videos", job_video, **bearer(free)).status == 202
        assert d.request("DELETE", "/v1/videos/" + first["id"]).status == 204
        d.wait_for(lambda: d.request("POST", "/v1/videos", job_video).status == 202)

        assert [d.request("POST", "/v1/segment", png, **bearer(slow)).status for _ in range(2)] == [200, 429]
        assert d.request("POST", "/v1/segment", png, **bearer(free)).status == 200

        async def stream():
            url = f"ws://127.0.0.1:{d.ws_port}/v1/streams/s/ws"
            async with websockets.connect(url, extra_headers=bearer(slow)) as ws:
                await ws.recv()
                await ws.send(png)
                return json.loads(await asyncio.wait_for(ws.recv(), PATIENCE))

        assert asyncio.run(stream()) == {"type": "dropped", "seq": [0], "reason": "rate"}


def test_a_key_may_have_so_many_jobs_that_are_not_done(tiny_model, tmp_path, job_video):
    file = tmp_path / "keys.json"
    key = new_key(file, "one", ALL, "--jobs", 1)
    with Daemon(tiny_model, tmp_path / "spool", "--keys-file", file, key=key) as d:
        c = d.connect()
        c.putrequest("POST", "/v1/videos")
        c.putheader("Authorization", "Bearer " + key)
        c.putheader("Content-Length", str(len(job_video)))
        c.endheaders(job_video[:-1])  # one byte is missing: it cannot be done
        d.wait_for(lambda: d.json("/v1/videos")["videos"])
        assert d.request("POST", "/v1/videos", job_video).problem() == "key-limit"
        c.send(job_video[-1:])
        assert c.getresponse().status == 202
        c.close()
        d.finish(d.json("/v1/videos")["videos"][0]["id"])
        assert d.request("POST", "/v1/videos", job_video).status == 202


def test_an_idempotency_key_is_of_its_api_key(daemon, keys, job_video):
    """What Ann named so is neither Bob's job nor in his way, done or arriving."""
    def post(body: bytes) -> int:
        r = daemon.request("POST", "/v1/videos", body, Idempotency_Key="k", **bearer(keys["bob"]))
        if r.status == 202:
            assert r.json()["id"] != hers
            assert daemon.request("DELETE", r.headers["Location"], **bearer(keys["bob"])).status == 204
        return r.status

    hers = daemon.request("POST", "/v1/videos", job_video, Idempotency_Key="k").json()["id"]
    assert [post(job_video), post(b"another")] == [202, 202]
    assert daemon.request("DELETE", f"/v1/videos/{hers}").status == 204
    c = daemon.connect()
    c.putrequest("POST", "/v1/videos")
    for name, value in {**bearer(keys["ann"]), "Idempotency-Key": "k", "Content-Length": str(len(job_video))}.items():
        c.putheader(name, value)
    before = len(daemon.json("/v1/videos")["videos"])
    c.endheaders(job_video[:-1])  # one byte is missing
    daemon.wait_for(lambda: len(daemon.json("/v1/videos")["videos"]) > before)
    assert daemon.request("POST", "/v1/videos", job_video, Idempotency_Key="k").status == 409
    assert post(job_video) == 202
    c.close()
    daemon.wait_for(lambda: len(daemon.json("/v1/videos")["videos"]) == before)


def test_an_upload_keeps_its_owner_when_the_daemon_starts_again(tiny_model, tmp_path, job_video):
    file = tmp_path / "keys.json"
    ann, bob = new_key(file, "ann", ALL, "--upload-bytes", len(job_video) + 10), new_key(file, "bob")
    with Daemon(tiny_model, tmp_path / "spool", "--keys-file", file, key=ann) as d:
        job = d.request("POST", "/v1/videos", job_video).json()["id"]
        d.finish(job)
    with Daemon(tiny_model, tmp_path / "spool", "--keys-file", file, key=ann) as d:
        assert d.json(f"/v1/videos/{job}")["state"] == "succeeded"
        assert d.get(f"/v1/videos/{job}", **bearer(bob)).status == 404
        assert d.get("/v1/videos", **bearer(bob)).json() == {"videos": []}
        assert d.request("POST", "/v1/videos", job_video).problem() == "key-limit"  # its bytes are still ann's
        assert d.request("DELETE", f"/v1/videos/{job}").status == 204
        d.wait_for(lambda: d.request("POST", "/v1/videos", job_video).status == 202)


@pytest.fixture(scope="module")
def job_video(tmp_path_factory, png) -> bytes:
    path = tmp_path_factory.mktemp("one") / "in.png"
    path.write_bytes(png)
    video = path.with_suffix(".mkv")
    subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-frames:v", "1", video], check=True)
    return video.read_bytes()
