"""A real Redis, and daemons that hand their streams over through it."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time

from daemon import PATIENCE, Daemon

LEASE = 2  # seconds; a replica that says nothing for so long has no streams any more


class Redis:
    """`with Redis() as r`: a server on a UNIX socket, that keeps nothing on the disk."""

    def __init__(self, *flags: str, password=None):
        self.folder, self.flags, self.password = tempfile.mkdtemp(prefix="tv3sd-redis-"), flags, password
        self.path = os.path.join(self.folder, "redis.sock")
        self.address = "unix:" + self.path
        self.process = None

    def start(self) -> "Redis":
        secret = ["--requirepass", self.password] if self.password else []
        self.process = subprocess.Popen(["/usr/bin/redis-server", "--port", "0", "--unixsocket", self.path, "--save", "",
                                         "--appendonly", "no", "--dir", self.folder, *secret, *self.flags],
                                        stdout=subprocess.DEVNULL)
        end = time.monotonic() + PATIENCE
        while self.cli("PING", check=False) != b"PONG":
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def __enter__(self) -> "Redis":
        return self.start()

    def __exit__(self, *_) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def cli(self, *words, data: bytes | None = None, check=True) -> bytes:
        """What Redis says; `data` is the last argument, of any bytes."""
        auth = ["--no-auth-warning", "-a", self.password] if self.password else []
        done = subprocess.run(["redis-cli", "-s", self.path, *auth, *(["-x"] if data is not None else []), *words],
                              input=data, capture_output=True, check=check)
        return done.stdout.removesuffix(b"\n")

    def record(self, id: str, owner="", prefix="tv3sd") -> str:
        return f"{prefix}:{{{owner}/{id}}}:record"

    def meta(self, id: str, owner="") -> dict:
        return json.loads(self.cli("HGET", self.record(id, owner), "meta") or b"{}")

    def flags_of_daemon(self) -> tuple:
        return ("--state-store", "redis", "--redis", self.address, "--stream-lease", LEASE)


def replica(model: str, spool, redis: Redis, *flags, **options) -> Daemon:
    return Daemon(model, spool, *redis.flags_of_daemon(), *flags, **options)
