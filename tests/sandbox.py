"""The decoding processes of a daemon, from outside."""
from __future__ import annotations

import os
import signal

from daemon import Daemon


def children(pid: int) -> list[int]:
    """Of a process of one thread or several."""
    out = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as f:
                out += [int(p) for p in f.read().split()]
    except FileNotFoundError:
        pass
    return out


def name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def alive(pid: int) -> bool:
    """A process that is more than something to be waited for."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def zygote(d: Daemon) -> int:
    pid, = (p for p in children(d.process.pid) if name(p) == "tv3sd-decoders")
    return pid


def decoders(d: Daemon, kind: str) -> list[int]:
    """Living children, the newest last; kind: video, images or packets."""
    return sorted(p for p in children(zygote(d)) if name(p) == f"tv3sd-{kind}" and alive(p))


def decoder(d: Daemon, kind: str) -> int:
    """The one that there is, or is to come."""
    d.wait_for(lambda: decoders(d, kind))
    pid, = decoders(d, kind)
    return pid


def kill(pid: int, number=signal.SIGKILL) -> None:
    os.kill(pid, number)
