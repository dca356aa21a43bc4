"""One table of requests, and where each of deploy/'s load balancers sends them: the real nginx and HAProxy before
replicas that say what came to them, and Envoy's file by its own rules, for there is no Envoy here. Its fields are
checked against Envoy's definitions by `make envoy-check`."""
from __future__ import annotations

import http.client
import http.server
import json
import os
import re
import subprocess
import threading

import pytest
import yaml

from balancers import DEPLOY, Haproxy, Nginx
from daemon import PATIENCE

WS = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": 22 * "A" + "=="}
# method, target, headers, then what a replica sees: port, method, target (a regular expression); None: 404 from the proxy
ROUTES = [
    ("GET", "/", {}, "http", "GET", "/"),
    ("GET", "/readyz", {}, "http", "GET", "/readyz"),
    ("GET", "/v1/models/street", {}, "http", "GET", "/v1/models/street"),
    ("GET", "/metrics", {}, None, None, None),
    ("GET", "/metric%73?x=1", {}, None, None, None),
    ("GET", "/%6De%74rics", {}, None, None, None),
    ("POST", "/v1/segment?format=raw", {}, "http", "POST", r"/v1/segment\?format=raw"),
    ("POST", "/v1/videos?format=raw", {}, "http", "POST", r"/v1/videos\?format=raw"),
    ("GET", "/v1/videos/abc/masks", {}, "http", "GET", "/v1/videos/abc/masks"),
    ("GET", "/v1/streams", {}, "http", "GET", "/v1/streams"),
    ("POST", "/v1/streams?mode=clip", {}, "http", "PUT", r"/v1/streams/[\w-]{22,36}\?mode=clip"),
    ("POST", "/v1/streams", {}, "http", "PUT", r"/v1/streams/[\w-]{22,36}"),
    ("PUT", "/v1/streams/cam-7?mode=clip", {}, "http", "PUT", r"/v1/streams/cam-7\?mode=clip"),
    ("POST", "/v1/streams/cam-7/frames", {}, "http", "POST", "/v1/streams/cam-7/frames"),
    ("PUT", "/v1/streams/cam-7/state", {}, "http", "PUT", "/v1/streams/cam-7/state"),
    ("GET", "/v1/streams/cam-7/ws?credit=4", WS, "ws", "GET", r"/v1/streams/cam-7/ws\?credit=4"),
    ("GET", "/v1/streams/cam-7/ws/x", {}, "http", "GET", "/v1/streams/cam-7/ws/x"),
    ("GET", "/v1/streams/ws", {}, "http", "GET", "/v1/streams/ws"),
]
OF_A_STREAM = [(m, t.replace("cam-7", "{}"), h) for m, t, h, *_ in ROUTES if "cam-7" in t]
NAMES = [f"cam-{i}" for i in range(60)]


# ---------------------------------------------------------------------------------------- the two that can be run
class Says(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps({"replica": self.server.replica, "port": self.server.kind, "method": self.command,
                           "target": self.path, "client": self.headers["X-Forwarded-For"],
                           "request": self.headers["X-Request-Id"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Proxies hang up as they like."""


class Replica:
    host = "127.0.0.1"

    def __init__(self, name: str):
        self.servers = {kind: Server(("127.0.0.1", 0), Says) for kind in ("http", "ws")}
        for kind, server in self.servers.items():
            server.replica, server.kind = name, kind
            threading.Thread(target=server.serve_forever, daemon=True).start()
        self.http_port, self.ws_port = (self.servers[kind].server_port for kind in ("http", "ws"))

    def stop(self) -> None:
        for server in self.servers.values():
            server.shutdown()
            server.server_close()


@pytest.fixture(scope="module", params=[Nginx, Haproxy], ids=["nginx", "haproxy"])
def balancer(request, tmp_path_factory):
    replicas = [Replica(f"tv3sd-{i}") for i in (1, 2, 3)]
    with request.param(tmp_path_factory.mktemp("balancer") / "b", replicas) as b:
        yield b
    for r in replicas:
        r.stop()


def through(balancer, method, target, headers) -> tuple[int, dict | None]:
    c = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=PATIENCE)
    try:
        c.request(method, target, b"x" if method in ("POST", "PUT") else None, headers)
        r = c.getresponse()
        body = r.read()
        return r.status, json.loads(body) if r.status == 200 else None
    finally:
        c.close()


@pytest.mark.parametrize("method, target, headers, port, seen, path", ROUTES, ids=[r[0] + " " + r[1] for r in ROUTES])
def test_a_request_goes_where_the_table_says(balancer, method, target, headers, port, seen, path):
    status, got = through(balancer, method, target, headers)
    if not port:
        assert status == 404
        return
    assert status == 200 and (got["port"], got["method"]) == (port, seen) and re.fullmatch(path, got["target"]), got
    assert got["client"].endswith("127.0.0.1") and got["request"]


def test_a_streams_requests_go_to_one_replica(balancer):
    homes = {}
    for name in NAMES:
        at = {through(balancer, m, t.format(name), h)[1]["replica"] for m, t, h in OF_A_STREAM}
        assert len(at) == 1, (name, at)
        homes[name] = at.pop()
    assert set(homes.values()) == {"tv3sd-1", "tv3sd-2", "tv3sd-3"}


def test_a_request_keeps_its_name(balancer):
    assert through(balancer, "GET", "/v1/models", {"X-Request-Id": "mine"})[1]["request"] == "mine"


# ------------------------------------------------------------------------------------------ the one that cannot
class Envoy:
    """What the file says to a request, read as Envoy's documentation does: the first route that matches."""

    def __init__(self):
        with open(os.path.join(DEPLOY, "envoy.yaml")) as f:
            self.file = yaml.safe_load(f)["static_resources"]
        listener, = self.file["listeners"]
        self.manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        host, = self.manager["route_config"]["virtual_hosts"]
        self.routes = host["routes"]
        self.clusters = {c["name"]: c for c in self.file["clusters"]}
        lua, router = self.manager["http_filters"]
        assert router["name"] == "envoy.filters.http.router"
        self.script = lua["typed_config"]["default_source_code"]["inline_string"]

    def rewritten(self, method: str, target: str) -> tuple[str, str]:
        """By the filter's script, in a real Lua."""
        stub = """
            local h = {[":method"] = arg[1], [":path"] = arg[2], ["x-request-id"] = "0b0a5a4e-8d3a-4d53-9f5e-1c6e2f7a9b10"}
            local headers = {get = function(_, k) return h[k] end, replace = function(_, k, v) h[k] = v end}
            local before, cleared = h[":path"], false
            envoy_on_request({headers = function() return headers end, clearRouteCache = function() cleared = true end})
            assert(cleared == (h[":path"] ~= before))
            print(h[":method"] .. " " .. h[":path"])"""
        done = subprocess.run(["lua5.1", "-", method, target], input=self.script + stub, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        method, target = done.stdout.strip().split(" ", 1)
        return method, target

    def route(self, target: str) -> dict:
        path = target.split("?")[0]
        for r in self.routes:
            m = r["match"]
            if m.get("path") == path or ("prefix" in m and path.startswith(m["prefix"])) or \
                    ("safe_regex" in m and re.fullmatch(m["safe_regex"]["regex"], path)):
                return r
        raise AssertionError(target)

    @staticmethod
    def key(route: dict, target: str) -> str:
        policy, = route["route"]["hash_policy"]
        rewrite = policy["header"]["regex_rewrite"]
        assert policy["header"]["header_name"] == ":path"
        return re.sub(rewrite["pattern"]["regex"], rewrite["substitution"], target)

    def endpoints(self, cluster: str) -> list[dict]:
        groups = self.clusters[cluster]["load_assignment"]["endpoints"]
        return [e for g in groups for e in g["lb_endpoints"]]

    def ports(self, cluster: str) -> set[int]:
        return {e["endpoint"]["address"]["socket_address"]["port_value"] for e in self.endpoints(cluster)}


@pytest.fixture(scope="module")
def envoy() -> Envoy:
    return Envoy()


@pytest.mark.parametrize("method, target, headers, port, seen, path", ROUTES, ids=[r[0] + " " + r[1] for r in ROUTES])
def test_envoys_file_sends_a_request_where_the_table_says(envoy, method, target, headers, port, seen, path):
    method, target = envoy.rewritten(method, target)
    route = envoy.route(target)
    if not port:
        assert route["direct_response"]["status"] == 404
        return
    assert envoy.ports(route["route"]["cluster"]) == {8080 if port == "http" else 8081}
    assert method == seen and re.fullmatch(path, target)
    assert {"upgrade_type": "websocket"} in envoy.manager["upgrade_configs"] and route["route"]["timeout"] == "0s"


def test_envoys_file_sends_a_stream_to_one_replica(envoy):
    """One key for all its requests, one ring for both ports, one judge of health."""
    for name in NAMES:
        keys = {envoy.key(envoy.route(t.format(name)), t.format(name)) for _, t, _ in OF_A_STREAM}
        assert keys == {name}
    streams, websockets = envoy.clusters["streams"], envoy.clusters["websockets"]
    alike = ("type", "lb_policy", "ring_hash_lb_config", "common_lb_config", "health_checks", "outlier_detection")
    assert {k: streams[k] for k in alike} == {k: websockets[k] for k in alike} and streams["lb_policy"] == "RING_HASH"
    names = ["tv3sd-1", "tv3sd-2", "tv3sd-3"]
    for cluster in ("streams", "websockets"):
        ends = envoy.endpoints(cluster)
        assert [e["metadata"]["filter_metadata"]["envoy.lb"]["hash_key"] for e in ends] == names
        assert [e["endpoint"]["address"]["socket_address"]["address"] for e in ends] == names
    assert all(e["endpoint"]["health_check_config"]["port_value"] == 8080 for e in envoy.endpoints("websockets"))
    for c in envoy.clusters.values():
        assert c["health_checks"][0]["http_health_check"]["path"] == "/readyz"
        assert c["load_assignment"]["cluster_name"] == c["name"]


def test_envoys_file_asks_every_replica_for_an_upload(envoy):
    retry = envoy.route("/v1/videos/abc")["route"]["retry_policy"]
    assert retry["retriable_status_codes"] == [404] and "retriable-status-codes" in retry["retry_on"]
    assert retry["num_retries"] == len(envoy.endpoints("any")) - 1
    assert retry["retry_host_predicate"][0]["name"] == "envoy.retry_host_predicates.previous_hosts"
