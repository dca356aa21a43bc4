"""Many live streams by TLS through nginx, for a long time. Prints JSON; `make soak` runs it.

    soak.py [--streams N] [--seconds S] [--share PART | --rate FPS] [--out FILE]

The daemon serves the bundled model behind deploy/nginx.conf, its lines of TLS switched on. First all streams send as fast
as they are answered, four frames in flight each: `full` is what the machine holds. Then they send at `share` of that,
evenly, each the bundled clip again and again, and every mask is compared, byte for byte, with that of `tv3s segment`.
Latency is from when a frame was due. Meanwhile memory and descriptors of the daemon, its decoding processes and nginx are
looked at. The first fifth of the time is theirs to warm up; a line through what follows says how much they grow. At the end
the streams are deleted, and all is to be as before. `checks` says what holds, and the exit status whether all does."""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import numpy as np

import load
sys.path[:0] = [os.path.join(load.HERE, "..")]
import chaos  # noqa: E402
from authority import Authority  # noqa: E402
from balancers import Nginx  # noqa: E402
from conftest import TV3S  # noqa: E402
from daemon import Daemon  # noqa: E402
from sandbox import children, zygote  # noqa: E402

BATCHES = range(1, 17)   # batch_max: for each size of a batch the engine keeps about 1 MB from its first one on
CALIBRATE = 10       # seconds
SAMPLE = 10          # seconds between two looks
PART = 60            # seconds whose latencies are told by themselves
WARM = 0.2           # of the time, before memory has to be flat
GROWTH_MB = {"daemon": 4, "decoders": 2, "nginx": 2}   # at most, in the rest of the time: of 380, 63 and 55
HELD = 0.99          # of the frames a second that were to be sent


class Rig:
    """The daemon, nginx before it, and what loads them."""

    def __init__(self, model: str, folder: Path, daemon: Daemon, nginx: Nginx, ca: Path, images: int | None):
        (folder / "images").mkdir()
        self.daemon, self.nginx, self.process = daemon, nginx, chaos.Process(daemon.process.pid)
        self.load = load.Load(daemon, str(folder / "images"), port=nginx.tls_port, ca=ca)
        self.load.images, self.masks = self.load.images[:images], folder / "masks"
        self.label(model, folder / "labelled")

    def label(self, model: str, images: Path) -> None:
        """The masks that are to come back: the tool's, of the same images."""
        images.mkdir()
        for path in self.load.images:
            os.link(path, images / os.path.basename(path))
        subprocess.run([TV3S, "segment", model, images, "-o", f"{self.masks}/", "--format", "png", "--quiet"], check=True)

    def processes(self) -> dict[str, list[chaos.Process]]:
        decoders, nginx = zygote(self.daemon), self.nginx.process.pid
        pids = {"daemon": [self.daemon.process.pid], "decoders": [decoders, *children(decoders)],
                "nginx": [nginx, *children(nginx)]}
        return {name: [chaos.Process(p) for p in of] for name, of in pids.items()}

    def of_each(self, figure: Callable[[chaos.Process], float]) -> dict[str, float]:
        """Its sum over the processes; one that just died has none."""
        def one(process: chaos.Process) -> float:
            try:
                return figure(process)
            except (FileNotFoundError, ProcessLookupError):
                return 0
        return {name: round(sum(map(one, of)), 3) for name, of in self.processes().items()}

    def descriptors(self) -> dict[str, float]:
        return self.of_each(chaos.Process.descriptors)

    def look(self, begun: float, http: HTTPConnection) -> dict:
        http.request("GET", "/metrics")
        metrics = chaos.metrics_in(http.getresponse().read())
        return {"at_s": round(time.monotonic() - begun, 1), "memory_mb": self.of_each(lambda p: p.memory() / 1e6),
                "cpu_s": self.of_each(chaos.Process.cpu_seconds),
                "descriptors": self.descriptors(), "connections": int(metrics['tv3sd_connections{protocol="ws"}'])}

    def watch(self, running: subprocess.Popen, every: float) -> list[dict]:
        """Looks from when all are connected until the report is there; thereafter they are closed."""
        def over(seconds: float) -> bool:
            return bool(select.select([running.stdout], [], [], seconds)[0])
        looks: list[dict] = []
        if running.stdout.readline() != "begun\n":
            return looks
        begun, http = time.monotonic(), self.daemon.connect()
        with contextlib.closing(http):   # one for all looks, since a descriptor of the daemon's is this connection
            while True:
                one = self.look(begun, http)
                if over(0):
                    return looks
                looks.append(one)
                print(json.dumps(one), file=sys.stderr, flush=True)
                if over(every - (time.monotonic() - begun) % every):
                    return looks

    def warm_up(self) -> None:
        """What is there from its first use on. Frames of streams that are deleted may be under way after that."""
        with open(self.load.images[0], "rb") as f:
            chaos.warm_decoders(self.daemon, f.read())
        for size in BATCHES:
            self.load.report(self.load.start(streams=size, credit=1, warmup=0, seconds=0.5, prefix="warm"))
            self.load.forget("warm")
        self.daemon.wait_for(lambda: not chaos.at_rest(self.daemon, self.process, chaos.figures(self.process)))

    def left_behind(self, before: dict, nginx: int) -> dict:
        """What is there that was not there before."""
        left = chaos.settle(self.daemon, self.process, before)
        end = time.monotonic() + chaos.SETTLE
        while (now := self.descriptors()["nginx"]) != nginx and time.monotonic() < end:
            time.sleep(0.05)
        return left | ({} if now == nginx else {"nginx's descriptors": [nginx, now]})


@contextlib.contextmanager
def started(model: str, folder: Path, images: int | None = None, **env: str) -> Iterator[Rig]:
    """`images`: so many of the clip; `env`: more of the daemon's environment."""
    authority, files = Authority(folder), (folder / "nginx.pem", folder / "nginx.key")
    authority.certify(*files, 1)
    with Daemon(model, folder / "spool", env={**os.environ, **env}) as daemon, \
            Nginx(folder / "nginx", [daemon], tls=files) as nginx:
        yield Rig(model, folder, daemon, nginx, authority.file, images)


def growth(looks: list[dict]) -> dict[str, float]:
    """Megabytes that a line through each memory rises by, from the first look to the last."""
    def rise(name: str) -> float:
        at = [one["at_s"] for one in looks]
        return float(np.polyfit(at, [one["memory_mb"][name] for one in looks], 1)[0]) * (at[-1] - at[0])
    return {name: rise(name) for name in GROWTH_MB} if len(looks) > 1 else {}


def flat(looks: list[dict]) -> bool:
    grown = growth(looks)
    return bool(grown) and all(grown[name] < limit for name, limit in GROWTH_MB.items())


def nginx_errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if any(f"[{level}]" in line for level in ("error", "crit", "alert", "emerg"))]


def total(before: dict, after: dict) -> dict[str, int]:
    return {name: int(n - before[name]) for name, n in after.items() if name.partition("{")[0].endswith("_total")}


def run(rig: Rig, streams: int, seconds: float, share: float, every: float = SAMPLE, rate: float | None = None) -> dict:
    """`rate`: frames a second, whatever the machine holds."""
    rig.warm_up()
    before, nginx = chaos.settled(rig.process), rig.descriptors()["nginx"]
    counted, logged = chaos.metrics(rig.daemon), len(rig.nginx.log())
    # The same streams then go on: beside their states there was room for as many frames as they may have in flight.
    of_all = {"streams": streams, "prefix": "soak", "masks": rig.masks}
    full = rig.load.report(rig.load.start(seconds=CALIBRATE, warmup=CALIBRATE / 5, **of_all))
    rate = rate or share * full["frames_per_second"]
    running = rig.load.start(rate=rate / streams, seconds=seconds, every=PART, **of_all)
    try:
        looks = rig.watch(running, every)
    except BaseException:
        running.kill()
        raise
    told = rig.load.report(running)
    rig.load.forget("soak")
    left, totals = rig.left_behind(before, nginx), total(counted, chaos.metrics(rig.daemon))
    warm = [one for one in looks if one["at_s"] >= WARM * seconds]
    frames = {k: totals[f'tv3sd_frames_total{{kind="live",outcome="{k}"}}'] for k in ("ok", "failed", "dropped")}
    complaints = nginx_errors(rig.nginx.log()[logged:])
    checks = {
        "no_errors": not (full["errors"] or told["errors"] or told["dropped"] or told["failed"]),
        "all_answered": not (told["unanswered"] or told["resets_unanswered"]),
        "every_mask_right": 0 < told["sent"] == told["masks_right"],
        "daemon_counts_the_same": frames == {"ok": full["sent"] + told["sent"], "failed": 0, "dropped": 0},
        "no_decoder_died": not any(n for name, n in totals.items() if name.startswith("tv3sd_decoders_died")),
        "nginx_without_errors": not complaints,
        "all_connected": bool(looks) and all(one["connections"] == streams for one in looks),
        "memory_flat": flat(warm),
        "descriptors_same": len({json.dumps(one["descriptors"]) for one in warm}) == 1,
        "nothing_left": not left,
        "rate_held": told["frames_per_second"] >= HELD * rate,
    }
    return {"machine": load.machine(), "streams": streams, "seconds": seconds, "share": share, "full": full, "rate": rate,
            "soak": told, "growth_mb": growth(warm), "growth_mb_limit": GROWTH_MB, "nginx_errors": complaints[:5],
            "daemon_frames": frames, "left_behind": left, "looks": looks, "checks": checks, "ok": all(checks.values())}


def main() -> int:
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--streams", type=int, default=200)
    a.add_argument("--seconds", type=float, default=600)
    a.add_argument("--share", type=float, default=0.6, help="of what the machine holds")
    a.add_argument("--rate", type=float, help="frames a second of all streams, whatever the machine holds")
    a.add_argument("--out")
    a = a.parse_args()
    with tempfile.TemporaryDirectory() as folder, started(load.MODEL, Path(folder)) as rig:
        result = run(rig, a.streams, a.seconds, a.share, rate=a.rate)
    text = json.dumps(result, indent=1)
    print(text)
    if a.out:
        with open(a.out, "w") as f:
            f.write(text + "\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
