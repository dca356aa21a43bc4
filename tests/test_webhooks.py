"""Webhooks: whoever an upload names is told of its end, once the receiver works, by whatever daemon is there then; and
nobody else is called. Signatures are checked by Python's hmac, receivers are real HTTP servers."""
from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import os
import queue
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from urllib.parse import quote

import pytest

import cases
import masks
import power
from daemon import PATIENCE, Daemon
from test_videos import X264

SECRET = bytes(range(32))
QUICK = ("--webhook-retry", "0.05", "--webhook-timeout", "5")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return masks.video(tmp_path_factory.mktemp("clip") / "clip.mp4", cases.frames((64, 96), 4, 5), *X264)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_text("whsec_" + base64.b64encode(SECRET).decode() + "\n")
    return path


class Receiver(http.server.ThreadingHTTPServer):
    """`with Receiver(503, 200) as r`: answers so, the last one for ever; r.next() is what came. An answer is a status, a
    Location for a redirect, "hang", or bytes for a 200 with that body."""
    daemon_threads = True

    def __init__(self, *answers, port=0, context=None):
        super().__init__(("127.0.0.1", port), Handler)
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.answers, self.got, self.over = list(answers), queue.Queue(), threading.Event()
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self.server_port}/hook?a=1"
        self.host = f"127.0.0.1:{self.server_port}"

    def next(self) -> "Handler":
        return self.got.get(timeout=PATIENCE)

    def __enter__(self) -> "Receiver":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        server: Receiver = self.server
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        server.got.put(self)
        if answer == "hang":
            server.over.wait()
            return
        location, content = answer if isinstance(answer, str) else "", answer if isinstance(answer, bytes) else b""
        self.send_response(307 if location else answer if isinstance(answer, int) else 200)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):  # of a body that is too long
            self.wfile.write(content)

    def log_message(self, *_):
        pass

    def signature(self) -> str:
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        return "v1," + base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()


def flags(secret, *hosts: str) -> tuple:
    return ("--webhook-secret-file", secret, "--webhook-hosts", ",".join(hosts), *QUICK)


def counted(d: Daemon, outcome: str) -> float:
    return d.metric(f'tv3sd_webhooks_total{{outcome="{outcome}"}}')


def test_an_end_is_told_and_signed(tmp_path, tiny_model, clip, secret):
    with Receiver(200) as r, Daemon(tiny_model, tmp_path / "spool", *flags(secret, r.host)) as d:
        job = d.upload(clip, "?format=rle&webhook=" + r.url)
        assert job["webhook"] == r.url and job["state"] == "succeeded"
        got = r.next()
        event = json.loads(got.body)
        assert event == {"type": "job.ended", "id": got.headers["webhook-id"], "job": job}
        assert got.path == "/hook?a=1" and got.headers["Content-Type"] == "application/json"
        assert got.headers["webhook-signature"] == got.signature()
        assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < PATIENCE
        broken = d.request("POST", "/v1/videos?webhook=" + r.url, b"x" * 1000).json()["id"]
        event = json.loads(r.next().body)
        assert event["job"] == d.finish(broken) and event["job"]["error"]["type"] == "/problems/bad-format"
        d.wait_for(lambda: counted(d, "delivered") == 2 and d.metric("tv3sd_webhooks") == 0)
        assert d.upload(clip)["webhook"] is None and r.got.empty()


def test_a_receiver_that_fails_is_tried_again_and_at_last_given_up(tmp_path, tiny_model, clip, secret):
    """With the same ID and body, and a signature of its own time; a body that is too long is a failure too."""
    with Receiver(503, b"x" * 100000, 404, 204) as r, Daemon(tiny_model, tmp_path / "spool", *flags(secret, r.host)) as d:
        d.upload(clip, "?webhook=" + r.url)
        tries = [r.next() for _ in range(4)]
        assert len({(t.headers["webhook-id"], t.body) for t in tries}) == 1
        assert all(t.headers["webhook-signature"] == t.signature() for t in tries)
        d.wait_log("event=webhook_delivered .*try=4 status=204")
        assert counted(d, "failed") == 3
    with Receiver(500) as r, Daemon(tiny_model, tmp_path / "two", "--webhook-tries", 3, *flags(secret, r.host)) as d:
        d.upload(clip, "?webhook=" + r.url)
        d.wait_log("event=webhook_given_up .*try=3 status=500")
        d.wait_for(lambda: d.metric("tv3sd_webhooks") == 0)
        assert r.got.qsize() == 3 and counted(d, "given_up") == 1
    with Receiver(410) as r, Daemon(tiny_model, tmp_path / "three", *flags(secret, r.host)) as d:
        d.upload(clip, "?webhook=" + r.url)
        d.wait_log("event=webhook_given_up .*try=1 status=410")


def test_redirects_are_not_followed(tmp_path, tiny_model, clip, secret):
    with Receiver(200) as other, Receiver(other.url, 200) as r, \
            Daemon(tiny_model, tmp_path / "spool", *flags(secret, r.host, other.host)) as d:
        d.upload(clip, "?webhook=" + r.url)
        d.wait_log("event=webhook_failed .*status=307")
        d.wait_log("event=webhook_delivered .*try=2")
        assert other.got.empty()


def test_a_receiver_that_hangs_does_not_hold_up_others(tmp_path, tiny_model, clip, secret):
    """Six deliveries to it, of which four are under way; and its time is limited."""
    with Receiver("hang") as hangs, Receiver(503, 200) as r, \
            Daemon(tiny_model, tmp_path / "spool", *flags(secret, hangs.host, r.host), "--webhook-timeout", 300) as d:
        for _ in range(6):
            d.upload(clip, "?webhook=" + hangs.url)
        for _ in range(4):
            hangs.next()
        d.upload(clip, "?webhook=" + r.url)
        r.next()
        d.wait_for(lambda: counted(d, "delivered") == 1)
        d.wait_for(lambda: d.metric("tv3sd_webhooks") == 6)
        assert hangs.got.empty()
    with Receiver("hang", 200) as r, \
            Daemon(tiny_model, tmp_path / "two", *flags(secret, r.host), "--webhook-timeout", 0.3) as d:
        d.upload(clip, "?webhook=" + r.url)
        d.wait_log("event=webhook_failed .*[Tt]imed out|event=webhook_failed .*[Tt]imeout")
        d.wait_log("event=webhook_delivered .*try=2")


def test_who_is_not_listed_is_not_called(tmp_path, tiny_model, clip, secret):
    """A host that is not on the list; an address that its name has and the list has not."""
    with Receiver(200) as r, Daemon(tiny_model, tmp_path / "spool", *flags(secret, f"localhost:{r.server_port}", "hooks.test"),
                                    "--webhook-tries", 2) as d:
        port = r.server_port
        for url in (r.url, f"http://127.0.0.1:{port}", "http://hooks.test:81/", "https://hooks.test:80/", "ftp://hooks.test/",
                    "file:///etc/passwd", f"http://me@localhost:{port}/", f"http://localhost:{port + 1}/", "hooks.test",
                    "http://hooks.test.evil.test/", "http://hooks.test\\@evil.test/", "http://[::1]/", "",
                    "http://hooks.test/" + "x" * 1024, f"http://localhost:{port}/\x7f", "http://localhost:99999/"):
            got = d.request("POST", "/v1/videos?webhook=" + quote(url, safe=""), open(clip, "rb").read())
            assert (got.status, got.problem()) == (400, "bad-argument"), url
        d.upload(clip, f"?webhook=http://LocalHost:{port}/x")
        d.wait_log("event=webhook_address_refused .*address=(127.0.0.1|::1) .*webhook_hosts")
        d.wait_log("event=webhook_given_up")
        assert r.got.empty()
        assert d.request("PUT", "/v1/streams/a?webhook=" + r.url).status == 400
    with Receiver(200) as r, Daemon(tiny_model, tmp_path / "two",
                                    *flags(secret, f"localhost:{r.server_port}", "127.0.0.0/8", "::1/128")) as d:
        d.upload(clip, f"?webhook=http://localhost:{r.server_port}/x")
        r.next()
    with Daemon(tiny_model, tmp_path / "three") as d:
        got = d.request("POST", "/v1/videos?webhook=http://localhost/", open(clip, "rb").read())
        assert (got.status, got.problem()) == (400, "bad-argument") and "webhook_hosts" in got.json()["detail"]


def test_a_kill_between_the_end_and_the_delivery_loses_none(tmp_path, tiny_model, clip, secret):
    """Also when the job was deleted meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as dead:        # it is connected to, and never answers
        port = dead.getsockname()[1]
        flags_ = flags(secret, f"127.0.0.1:{port}")
        with Daemon(tiny_model, tmp_path / "spool", *flags_) as d:
            jobs = [d.upload(clip, f"?webhook=http://127.0.0.1:{port}/") for _ in range(2)]
            d.process.kill()
            d.process.wait()
        with contextlib.closing(sqlite3.connect(tmp_path / "spool" / "jobs.sqlite")) as db:
            ids = dict(db.execute("SELECT job, id FROM deliveries"))
        assert sorted(ids) == sorted(j["id"] for j in jobs)
        with Daemon(tiny_model, tmp_path / "spool", *flags_) as d:
            assert d.request("DELETE", "/v1/videos/" + jobs[0]["id"]).status == 204
            d.process.send_signal(signal.SIGKILL)
            d.process.wait()
    with Receiver(200, port=port) as r, Daemon(tiny_model, tmp_path / "spool", *flags_) as d:
        got = {json.loads(g.body)["job"]["id"]: g for g in (r.next(), r.next())}
        assert {job: g.headers["webhook-id"] for job, g in got.items()} == ids
        assert json.loads(got[jobs[0]["id"]].body)["job"] == jobs[0]
        d.wait_for(lambda: d.metric("tv3sd_webhooks") == 0)


def test_deliveries_that_an_older_version_left_are_made(tmp_path, tiny_model, clip, secret):
    with Receiver(500) as r, Daemon(tiny_model, tmp_path / "spool", *flags(secret, r.host), "--webhook-retry", 600) as d:
        job = d.upload(clip, "?webhook=" + r.url)
        d.wait_log("event=webhook_failed")
    with contextlib.closing(sqlite3.connect(tmp_path / "spool" / "jobs.sqlite")) as db, db:
        db.executescript("DROP INDEX deliveries_due; ALTER TABLE deliveries DROP COLUMN host; UPDATE deliveries SET due = 0;"
                         "ALTER TABLE jobs DROP COLUMN warning; ALTER TABLE jobs DROP COLUMN decoder;"
                         "PRAGMA user_version = 4")
    with Receiver(200, port=r.server_port) as again, Daemon(tiny_model, tmp_path / "spool", *flags(secret, again.host)) as d:
        assert json.loads(again.next().body)["job"] == job
        d.wait_for(lambda: d.metric("tv3sd_webhooks") == 0)


def test_a_job_that_ends_before_all_of_it_has_come_is_told_of(tmp_path, tiny_model, secret):
    """By a limit. Its end is the job's after the answer, and after a crash right then."""
    long = masks.video(tmp_path / "long.ts", cases.frames((160, 224), 40, 5), "-c:v", "mpeg2video", "-q:v", "1")
    data = open(long, "rb").read()
    with Receiver(200) as r:
        more = (*flags(secret, r.host), "--max-frames", 3)
        with Daemon(tiny_model, tmp_path / "spool", *more) as d:
            with socket.create_connection(("127.0.0.1", d.http_port)) as s:
                s.sendall(f"POST /v1/videos?webhook={r.url} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
                          .encode() + data[:-1])
                d.wait_for(lambda: [j["state"] for j in d.json("/v1/videos")["videos"]] == ["failed"])
                s.sendall(data[-1:])
                assert s.recv(100).startswith(b"HTTP/1.1 202 ")
            d.process.kill()
            d.process.wait()
        with Daemon(tiny_model, tmp_path / "spool", *more) as d:
            job, = d.json("/v1/videos")["videos"]
            assert (job["state"], job["error"]["type"]) == ("failed", "/problems/over-limit")
            assert json.loads(r.next().body)["job"] == job


@contextlib.contextmanager
def threadless(tmp_path, model: str, clip: str, secret, *more):
    """A receiver, a daemon, its job that waits for a thread, and the file that keeps it waiting."""
    none = tmp_path / "none"
    env = power.preload("threads", tmp_path, NO_THREADS=str(none))
    with Receiver(200) as r, Daemon(model, tmp_path / "spool", *flags(secret, r.host), *more, env=env) as d:
        none.touch()
        job = d.upload(clip, "?format=raw&webhook=" + r.url, wait=False)["id"]
        d.wait_for(lambda: d.json("/v1/videos/" + job)["error"])
        yield r, d, job, none


def test_a_job_without_a_thread_waits_for_one(tmp_path, tiny_model, clip, secret):
    with threadless(tmp_path, tiny_model, clip, secret) as (r, d, job, none):
        waiting = d.json("/v1/videos/" + job)
        assert (waiting["state"], waiting["error"]["type"]) == ("queued", "/problems/out-of-memory")
        none.unlink()
        ended = d.finish(job)
        assert ended["state"] == "succeeded" and ended["error"] is None
        assert json.loads(r.next().body)["job"] == ended


def test_an_end_that_cannot_be_written_is_told_of_when_it_can(tmp_path, tiny_model, clip, secret):
    """Somebody else has the database locked just then."""
    with threadless(tmp_path, tiny_model, clip, secret) as (r, d, job, none):
        with contextlib.closing(sqlite3.connect(tmp_path / "spool" / "jobs.sqlite", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            none.unlink()
            d.wait_log(f"event=job_end_not_kept job={job} ")
            assert r.got.empty()
            db.execute("ROLLBACK")
        assert json.loads(r.next().body)["job"] == d.finish(job)
        d.process.kill()
        d.process.wait()
    with Daemon(tiny_model, tmp_path / "spool") as d:
        assert d.json("/v1/videos/" + job)["state"] == "succeeded"


@pytest.mark.parametrize("gone", [False, True])
def test_an_end_that_is_not_written_yet_is_told_of_before_the_job_goes(tmp_path, tiny_model, clip, secret, gone):
    """Its masks are in the way of an upload while somebody else has the database locked; or a client deletes it just then."""
    assert 50_000 < os.path.getsize(clip) + 2 * 4 * 64 * 96 < 60_000
    with threadless(tmp_path, tiny_model, clip, secret, "--spool-max", "90000") as (r, d, job, none):
        with contextlib.closing(sqlite3.connect(tmp_path / "spool" / "jobs.sqlite", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            none.unlink()
            d.wait_log(f"event=job_end_not_kept job={job} ")
            ended = d.json("/v1/videos/" + job)
            assert ended["state"] == "succeeded"
            if not gone:
                refused = d.request("POST", "/v1/videos", b"x" * 44_000)
                assert (refused.status, refused.problem()) == (503, "no-space")
                assert d.json("/v1/videos/" + job) == ended
            db.execute("ROLLBACK")
            if gone:
                assert d.request("DELETE", "/v1/videos/" + job).status == 204
        assert json.loads(r.next().body)["job"] == ended
        assert d.get("/v1/videos/" + job).status == (404 if gone else 200)


@pytest.mark.parametrize("restart", [False, True])
def test_a_deletion_that_cannot_be_written_loses_no_webhook(tmp_path, tiny_model, clip, secret, restart):
    """The client is told so. It is done when that is possible; or the daemon ends before, and the next one has the job."""
    with threadless(tmp_path, tiny_model, clip, secret) as (r, d, job, none):
        with contextlib.closing(sqlite3.connect(tmp_path / "spool" / "jobs.sqlite", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            none.unlink()
            d.wait_log(f"event=job_end_not_kept job={job} ")
            ended = d.json("/v1/videos/" + job)
            refused = d.request("DELETE", "/v1/videos/" + job)
            assert (refused.status, refused.problem()) == (503, "overloaded")
            assert d.get("/v1/videos/" + job).status == 404 and r.got.empty()
            if restart:
                assert d.stop() == 0
            db.execute("ROLLBACK")
        if restart:
            with Daemon(tiny_model, tmp_path / "spool", *flags(secret, r.host)) as d:
                again = d.finish(job)
                assert json.loads(r.next().body)["job"] == again and again["state"] == "succeeded"
                assert d.request("DELETE", "/v1/videos/" + job).status == 204
                return
        assert json.loads(r.next().body)["job"] == ended
        d.wait_for(lambda: d.folders() == [])
        d.wait_log(f"event=job_row_removed job={job}")
    with contextlib.closing(sqlite3.connect(tmp_path / "spool" / "jobs.sqlite")) as db:
        assert db.execute("SELECT id FROM jobs").fetchall() == []


def test_a_certificate_is_checked(tmp_path, tiny_model, clip, secret):
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", pem],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    with Receiver(200, context=context) as r:
        with Daemon(tiny_model, tmp_path / "spool", *flags(secret, r.host), "--webhook-ca-file", pem) as d:
            d.upload(clip, "?webhook=" + r.url)
            r.next()
        with Daemon(tiny_model, tmp_path / "two", *flags(secret, r.host)) as d:
            d.upload(clip, "?webhook=" + r.url)
            d.wait_log("event=webhook_failed .*certificate")
            assert r.got.empty()


def test_an_idempotency_key_covers_the_webhook(tmp_path, tiny_model, clip, secret):
    data = open(clip, "rb").read()
    with Receiver(200) as r, Daemon(tiny_model, tmp_path / "spool", *flags(secret, r.host)) as d:
        first = d.request("POST", "/v1/videos?webhook=" + r.url, data, Idempotency_Key="k")
        again = d.request("POST", "/v1/videos?webhook=" + r.url, data, Idempotency_Key="k")
        assert first.json()["id"] == again.json()["id"]
        assert d.request("POST", "/v1/videos", data, Idempotency_Key="k").status == 422
        r.next()
        d.wait_for(lambda: counted(d, "delivered") == 1)
        assert r.got.empty()


def test_hosts_want_a_secret(tmp_path, tiny_model):
    short, plain = tmp_path / "short", tmp_path / "plain"
    short.write_text("whsec_" + base64.b64encode(b"x" * 23).decode())
    plain.write_text("password")
    for more, why in (((), "webhook_secret_file"), (("--webhook-secret-file", tmp_path / "none"), "No such file"),
                      (("--webhook-secret-file", short), "24 to 64"), (("--webhook-secret-file", plain), "whsec_")):
        with pytest.raises(AssertionError, match=why):
            Daemon(tiny_model, tmp_path / "spool", "--webhook-hosts", "a.test", *more)
    with pytest.raises(AssertionError, match="webhook_hosts: '10.0.0.0/33' is no network"):
        Daemon(tiny_model, tmp_path / "spool", "--webhook-hosts", "10.0.0.0/33")
