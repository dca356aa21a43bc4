"""The real daemon on free ports, and the least of HTTP to talk to it."""
from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time

from conftest import BUILD, SANITIZED

TV3SD = os.path.join(BUILD, "tv3sd")
CUDA_HOST_TV3SD = os.path.join(BUILD, "cuda_host_tv3sd")   # its GPU is the stand-in of tests/cuda_host
PATIENCE = 300 if SANITIZED else 120   # seconds; the machine may be busy


def free_ports(*offsets: int) -> int:
    """A port p of which all p + offset are free: for what must know its port before it is bound."""
    for port in range(20000 + os.getpid() % 5000, 60000, 100):
        taken = [socket.socket() for _ in offsets]
        try:
            for s, offset in zip(taken, offsets):
                s.bind(("127.0.0.1", port + offset))
            return port
        except OSError:
            continue
        finally:
            for s in taken:
                s.close()
    raise AssertionError("no free ports")


class Answer:
    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def problem(self) -> str:
        """The problem's type, after a look at its form."""
        assert self.headers["Content-Type"] == "application/problem+json", (self.status, self.body)
        p = self.json()
        assert p["status"] == self.status and p["title"] and p["request_id"] == self.headers["X-Request-Id"]
        assert p["type"].startswith("/problems/")
        return p["type"][len("/problems/"):]


class Daemon:
    """`with Daemon(model, spool, "--jobs-running", "1") as d`: stops at the end, and asserts a clean exit."""

    def __init__(self, model, spool, *flags, env=None, key=None, program=TV3SD, prefix=(), host="127.0.0.1"):
        """`prefix`: a command that runs it, elsewhere; `host`: where it is reached then."""
        self.spool, self.lines, self.key, self.host = str(spool), [], key, host
        self.log_path = str(spool) + ".log"
        args = ["--model", model, "--http-port", "0", "--ws-port", "0", "--spool", self.spool, *flags]
        if program == CUDA_HOST_TV3SD:   # from when on a device decodes is not certain: that is test_nvdec_daemon.py's
            args += ["--video-decoder", "cpu"]
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen([*prefix, program, *map(str, args)], stdin=subprocess.DEVNULL, stderr=log, env=env)
        try:
            ready = self.wait_log(r"event=ready .*http=(\d+) ws=(\d+)")
        except BaseException:
            self.process.kill()
            raise
        self.http_port, self.ws_port = int(ready[1]), int(ready[2])

    def log(self) -> str:
        with open(self.log_path) as f:
            return f.read()

    def wait_log(self, pattern: str) -> re.Match:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if found := re.search(pattern, self.log()):
                return found
            assert self.process.poll() is None, self.log()
            time.sleep(0.02)
        raise AssertionError(f"no {pattern} in the log:\n{self.log()}")

    def stop(self, number=signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            status = self.stop()
            assert kind or status == 0, self.log()[-8000:]

    # ---- HTTP
    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.http_port, timeout=PATIENCE)

    def request(self, method: str, path: str, body=None, **headers) -> Answer:
        c = self.connect()
        try:
            if self.key:
                headers.setdefault("Authorization", "Bearer " + self.key)
            c.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            r = c.getresponse()
            return Answer(r.status, r.headers, r.read())
        finally:
            c.close()

    def get(self, path: str, **headers) -> Answer:
        return self.request("GET", path, **headers)

    def json(self, path: str):
        r = self.get(path)
        assert r.status == 200, r.body
        return r.json()

    def upload(self, video: str, query="", wait=True, **headers) -> dict:
        with open(video, "rb") as f:
            r = self.request("POST", "/v1/videos" + query, f.read(), **headers)
        assert r.status == 202, r.body
        job = r.json()
        assert r.headers["Location"] == "/v1/videos/" + job["id"]
        return self.finish(job["id"]) if wait else job

    def finish(self, job_id: str) -> dict:
        """The job when it has ended."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            job = self.json("/v1/videos/" + job_id)
            if job["state"] not in ("queued", "running"):
                return job
            time.sleep(0.03)
        raise AssertionError(f"job {job} does not end")

    def wait_for(self, condition) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.log()[-4000:]
            time.sleep(0.02)

    def folders(self) -> list[str]:
        """Of jobs, in the spool."""
        return sorted(e.name for e in os.scandir(self.spool) if e.is_dir())

    def metric(self, name: str) -> float:
        """By its whole name, labels included."""
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise KeyError(name)
