"""Faults at random over a loaded pair of daemons behind nginx: `faults.py --faults 300 --seed 1` prints JSON.

Each daemon has a network namespace of its own, whose link can be cut, and a small tmpfs as its spool, which can be filled; a
Redis hands their streams over.
Clients (faults_client.py) upload videos and stream, through nginx, without end. Then things are killed, filled, cut, slowed
and set, one after the other as FAULTS and the seed have it. At the end every job that was accepted must be there, with the
result of a run that nobody disturbed; every mask of a stream must be the one of its number in an undisturbed stream; every
request must have had an answer; and the daemons hold as many descriptors, threads and files as before.

Seed 1, 300 faults, before there was a Redis, 618 seconds of two busy cores: 630 jobs accepted, 0 lost, 0 with another
result, 36 failed since their decoder was killed, as 42 were; 237 connections of streams, 47 that went on with a state, 15965
masks, 0 wrong; 0 requests without an answer; 18 descriptors, 10 threads, 0 bytes of the spool before and after, memory 78 MiB
before, 86 and 88 after.
Seed 2, 200 faults, with Redis, 291 seconds: 313 jobs accepted, 0 lost, 0 with another result, 17 failed for 25 decoders
killed; 141 connections of streams, 67 that went on, 7652 masks, 0 wrong; 0 requests without an answer; 19 descriptors and 11
threads before and after, memory 78 and 79 MiB before, 84 and 78 after.
Seed 3, 300 faults, with Redis, 474 seconds on two cores that had ten times as much else to do: 47 jobs accepted, 0 lost, 0
with another result, 19 failed for 37 decoders killed; 137 connections of streams, 93 that went on, 630 masks, 0 wrong; 0
requests without an answer; 21 descriptors and 11 threads before and after, memory 78 MiB before, 85 and 82 after.

What needs privileges happens in namespaces of this process's own (unshare), so nothing stays of it."""
from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "parity")]
import cases  # noqa: E402
import masks  # noqa: E402
from balancers import Nginx  # noqa: E402
from chaos import Process, metrics, settled  # noqa: E402
from conftest import SANITIZED, TV3S, make_tiny_model  # noqa: E402
from daemon import Daemon  # noqa: E402
from live import tool_masks  # noqa: E402
from replicas import Redis  # noqa: E402
from test_videos import ENDING, X264  # noqa: E402

SPOOL_MIB = 48
UPLOADERS, STREAMERS = 5, 4
FRAMES = 120                 # of a stream, before it is another
SLOW_MAX = 12                # slow peers at once
MEMORY_MORE = 64 << 20       # bytes a daemon may have more at the end
FLAGS = ("--job-checkpoint", "0.2", "--stream-linger", "5", "--drain-seconds", "3", "--open-access", "true",
         "--http-timeout", "20", "--spool-max", "0")


def command(*args) -> None:
    subprocess.run([*map(str, args)], check=True)


class Host:
    """A machine with a daemon: a namespace behind a link, a disk, a clock."""

    def __init__(self, number: int, folder: Path, model: str, flags: tuple):
        self.flags = (*FLAGS, *flags)
        self.folder, self.model, self.address = folder, model, f"10.77.{number}.2"
        self.link, inside = f"host{number}", f"inner{number}"
        self.spool, self.clock = folder / "spool", folder / "clock"
        self.spool.mkdir(parents=True)
        command("mount", "-t", "tmpfs", "-o", f"size={SPOOL_MIB}m", "tmpfs", self.spool)
        self.clock.write_bytes(bytes(8))
        library = folder / "clock.so"
        command("cc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-fPIC", "-shared", "-o", library,
                os.path.join(HERE, "preload/clock.c"))
        self.env = {**os.environ, "LD_PRELOAD": str(library), "CLOCK_STEP": str(self.clock),
                    "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"}
        self.holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
        while os.readlink(f"/proc/{self.holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.01)
        self.enter = ("nsenter", f"--net=/proc/{self.holder.pid}/ns/net")
        command("ip", "link", "add", self.link, "type", "veth", "peer", "name", inside)
        command("ip", "link", "set", inside, "netns", self.holder.pid)
        command("ip", "addr", "add", f"10.77.{number}.1/24", "dev", self.link)
        command("ip", "link", "set", self.link, "up")
        for words in (("addr", "add", self.address + "/24", "dev", inside), ("link", "set", inside, "up"),
                      ("link", "set", "lo", "up")):
            command(*self.enter, "ip", *words)
        self.daemon, self.reports = None, ""
        self.start()

    def start(self) -> None:
        self.daemon = Daemon(self.model, self.spool, "--listen", self.address, "--http-port", 8080, "--ws-port", 8081,
                             *self.flags, env=self.env, prefix=self.enter, host=self.address)

    def end(self, number: signal.Signals) -> None:
        status = self.daemon.stop(number)
        self.reports += "\n".join(line for line in self.daemon.log().splitlines() if not line.startswith("ts="))
        if status != (-number if number == signal.SIGKILL else 0):
            self.reports += f"\nsignal {number} ended it with {status}"

    def set_clock(self, seconds: int) -> None:
        with open(self.clock, "r+b") as f:  # in place: it is mapped
            f.write(struct.pack("q", seconds * 10 ** 9))

    def decoders(self) -> list[int]:
        """Processes that decode: below the one that makes them, which is the daemon's child."""
        def children(pid: int) -> list[int]:
            found = []
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children") as f:
                        found += map(int, f.read().split())
            return found
        return [grandchild for child in children(self.daemon.process.pid) for grandchild in children(child)]


class Rig:
    """Two hosts and a Redis, nginx before them, clients, and what is done to them."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.chance = folder, random.Random(seed)
        self.model = make_tiny_model(folder)
        self.redis = Redis().start()
        flags = (*self.redis.flags_of_daemon(), "--snapshot-frames", 20)
        self.hosts = [Host(i, folder / f"host{i}", self.model, flags) for i in (1, 2)]
        self.nginx: Nginx | None = None  # while there is load
        self.material()
        self.clients: list[tuple[str, Path, subprocess.Popen]] = []
        self.slow: list[socket.socket] = []
        self.decoders_killed = 0

    # ---- what is sent, and what is to come back
    def material(self) -> None:
        (self.folder / "clips").mkdir()
        wanted = {}
        for i, size in enumerate(((64, 96), (96, 128))):
            clip = masks.video(self.folder / "clips" / f"{i}.mp4", cases.frames(size, 40, i), *X264)
            for name in sorted(ENDING):
                out = self.folder / f"{i}.{ENDING[name]}"
                command(TV3S, "segment", self.model, clip, "-o", out, "--format", name, "--quiet")
                wanted[f"{i}.mp4/{name}"] = hashlib.sha256(out.read_bytes()).hexdigest()
        (self.folder / "wanted.json").write_text(json.dumps(wanted))
        self.wanted = wanted
        frames = cases.frames((64, 96), FRAMES, 4)
        np.save(self.folder / "frames.npy", frames)
        (self.folder / "tool").mkdir()
        np.save(self.folder / "masks.npy", tool_masks(self.model, frames, self.folder / "tool"))

    def warm_up(self) -> None:
        """What is opened once, at first use, is no leak."""
        out = io.BytesIO()
        Image.fromarray(cases.frames((64, 96), 1, 1)[0]).save(out, "PNG")
        for d in (h.daemon for h in self.hosts):
            for one in self.wanted:
                clip, _, name = one.partition("/")
                job = d.upload(str(self.folder / "clips" / clip), "?format=" + name)
                assert d.request("DELETE", "/v1/videos/" + job["id"]).status == 204
            assert d.request("POST", "/v1/segment", out.getvalue()).status == 200
            d.wait_for(lambda d=d: d.folders() == [] and not d.json("/v1/streams")["streams"])

    # ---- clients
    def start_client(self, kind: str, journal: Path) -> None:
        """One that finds a journal goes on where its predecessor was killed."""
        arguments = (kind, self.nginx.port, self.folder, journal, self.chance.getrandbits(60))
        process = subprocess.Popen([sys.executable, os.path.join(HERE, "faults_client.py"), *map(str, arguments)])
        self.clients.append((kind, journal, process))

    def stop_client(self, i: int) -> tuple[str, Path]:
        kind, journal, process = self.clients.pop(i)
        assert process.poll() is None, "a client ended by itself"
        process.kill()
        process.wait()
        return kind, journal

    def journal(self) -> list[dict]:
        return [json.loads(line) for f in sorted(self.folder.glob("journal-*")) for line in f.read_text().splitlines()]

    # ---- faults
    def kill_daemon(self, host: Host) -> None:
        host.end(signal.SIGKILL)
        time.sleep(self.chance.uniform(0, 1))
        host.start()

    def stop_daemon(self, host: Host) -> None:
        host.end(signal.SIGTERM)
        host.start()

    def kill_client(self, _: Host) -> None:
        self.start_client(*self.stop_client(self.chance.randrange(len(self.clients))))

    def kill_decoder(self, host: Host) -> None:
        end = time.monotonic() + 5
        while not (decoders := host.decoders()) and time.monotonic() < end:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(self.chance.choice(decoders), signal.SIGKILL)
            self.decoders_killed += 1

    def kill_redis(self, _: Host) -> None:
        """It comes back empty."""
        self.redis.kill()
        time.sleep(self.chance.uniform(0, 2))
        self.redis.start()

    def full_disk(self, host: Host) -> None:
        ballast = host.spool / "ballast"
        with open(ballast, "wb", buffering=0) as f, contextlib.suppress(OSError):
            while True:
                f.write(bytes(1 << 16))
        time.sleep(self.chance.uniform(0.2, 1.5))
        ballast.unlink()

    def network_cut(self, host: Host) -> None:
        command("ip", "link", "set", host.link, "down")
        time.sleep(self.chance.uniform(0.1, 3))
        command("ip", "link", "set", host.link, "up")

    def slow_peer(self, host: Host) -> None:
        """Connections that begin something and leave it there, to nginx and to a daemon, until others take their place."""
        begun = (b"GET /v1/vid", b"POST /v1/videos HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(500),
                 b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n\x89PNG", b"")
        for address in ((host.address, 8080), (host.address, 8081), ("127.0.0.1", self.nginx.port)):
            with contextlib.suppress(OSError):
                s = socket.create_connection(address, timeout=2)
                s.sendall(self.chance.choice(begun))
                self.slow.append(s)
        while len(self.slow) > SLOW_MAX:
            self.slow.pop(0).close()

    def clock_step(self, host: Host) -> None:
        """By up to six hours: less than `job_keep`, after which results go."""
        host.set_clock(self.chance.randint(-6 * 3600, 6 * 3600))

    FAULTS = {kill_daemon: 4, stop_daemon: 2, kill_client: 3, kill_decoder: 3, kill_redis: 2, full_disk: 2, network_cut: 3,
              slow_peer: 2, clock_step: 2}  # and how often

    def run(self, count: int) -> dict[str, int]:
        done: collections.Counter = collections.Counter()
        kinds, weights = zip(*self.FAULTS.items())
        self.nginx = Nginx(self.folder / "nginx", [h.daemon for h in self.hosts]).__enter__()
        for i, kind in enumerate(("upload",) * UPLOADERS + ("stream",) * STREAMERS):
            self.start_client(kind, self.folder / f"journal-{i}")
        # Each kind once, then as they come.
        plan = [*kinds, *self.chance.choices(kinds, weights, k=max(0, count - len(kinds)))][:count]
        self.chance.shuffle(plan)
        for fault in plan:
            time.sleep(self.chance.uniform(0, 0.5))
            fault(self, self.chance.choice(self.hosts))
            done[fault.__name__] += 1
        return dict(sorted(done.items()))

    # ---- the end
    def quiet(self) -> None:
        while self.clients:
            self.stop_client(0)
        while self.slow:
            self.slow.pop().close()
        if self.nginx:
            self.nginx.__exit__()
            self.nginx = None
        for host in self.hosts:
            host.set_clock(0)

    def check_jobs(self, journal: list[dict]) -> dict:
        """Every job that was accepted, and nobody has asked to delete, where it is."""
        told = collections.defaultdict(set)
        for line in journal:
            if "job" in line:
                told[line["job"]].add(line["what"])
        where = {v["id"]: h.daemon for h in self.hosts for v in h.daemon.json("/v1/videos")["videos"]}
        figures = collections.Counter(accepted=0, lost=0, different=0, failed=0, died=0)
        problems = []
        for line in (x for x in journal if x["what"] == "accepted"):
            job, what = line["job"], told[line["job"]]
            figures["accepted"] += 1
            figures["different"] += "different" in what
            if job not in where:
                figures["lost"] += "deleting" not in what
                continue
            ended = where[job].finish(job)
            if ended["state"] == "succeeded":
                body = where[job].get(ended["masks"]).body
                figures["different"] += hashlib.sha256(body).hexdigest() != self.wanted[line["wanted"]]
                continue
            figures["died" if ended["error"]["type"].endswith("decoder-died") else "failed"] += 1
            problems.append(ended["error"])
        return {**figures, "problems": problems[:10]}

    def clean_up(self) -> None:
        for d in (h.daemon for h in self.hosts):
            for video in d.json("/v1/videos")["videos"]:
                d.finish(video["id"])
                d.request("DELETE", "/v1/videos/" + video["id"])
            d.wait_for(lambda d=d: not d.json("/v1/videos")["videos"])

    def close(self) -> None:
        self.quiet()
        for host in self.hosts:
            host.end(signal.SIGTERM)
            host.holder.kill()
            host.holder.wait()
            command("umount", host.spool)
        self.redis.__exit__()


def measure(rig: Rig) -> list[dict]:
    rig.warm_up()
    out = []
    for host in rig.hosts:
        process = Process(host.daemon.process.pid)
        out.append({**settled(process), "memory_mib": process.memory() >> 20,
                    "spool_bytes": int(metrics(host.daemon)["tv3sd_spool_bytes"])})
    return out


def check_streams(journal: list[dict]) -> dict:
    count = collections.Counter(line["what"] for line in journal)
    return {"opened": count["opened"], "resumed": sum(line.get("resumed", False) for line in journal),
            "masks": count["mask"], "wrong": count["wrong"], "frames_failed": count["frame failed"]}


def run(folder: Path, count: int, seed: int) -> dict:
    rig = Rig(folder, seed)
    try:
        before, began = measure(rig), time.monotonic()
        faults = rig.run(count)
        seconds = time.monotonic() - began
        rig.quiet()
        journal = rig.journal()
        jobs, streams = rig.check_jobs(journal), check_streams(journal)
        rig.clean_up()
        after = measure(rig)
    finally:
        rig.close()
    unanswered = [line for line in journal if line["what"] == "unanswered"]
    result = {"seed": seed, "sanitized": SANITIZED, "seconds": round(seconds), "faults": faults,
              "decoders_killed": rig.decoders_killed, "jobs": jobs, "streams": streams,
              "unanswered": len(unanswered), "unanswered_first": unanswered[:5],
              "before": before, "after": after, "reports": "".join(h.reports for h in rig.hosts)[:4000]}
    same = all(b[k] == a[k] for b, a in zip(before, after) for k in ("descriptors", "threads", "spool_bytes"))
    grown = max(a["memory_mib"] - b["memory_mib"] for b, a in zip(before, after))
    result["ok"] = bool(jobs["accepted"] and streams["masks"] and same and grown < MEMORY_MORE >> 20
                        and not result["reports"].strip() and not unanswered and not streams["wrong"]
                        and not (jobs["lost"] or jobs["different"] or jobs["failed"])
                        and jobs["died"] <= rig.decoders_killed)
    return result


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--faults", type=int, default=300)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    a = p.parse_args()
    if not a.apart:
        user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
        os.execvp("unshare", ["unshare", "--net", "--mount", *user, sys.executable, *sys.argv, "--apart"])
    command("ip", "link", "set", "lo", "up")
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), a.faults, a.seed)
    print(json.dumps(result, indent=2))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
