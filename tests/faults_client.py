"""A client of faults.py: `faults_client.py upload|stream PORT FOLDER JOURNAL SEED`. It talks to a load balancer, goes on
whatever happens, and may be killed at any moment: what it was told is in its journal, a line of JSON each, by then. One that
finds a journal goes on with the stream that is the last in it.

FOLDER has what it sends and what is to come back: clips/, wanted.json (the result's SHA-256 by clip and format), frames.npy
and masks.npy (of an uninterrupted stream of these frames)."""
from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import random
import sys
import time
from pathlib import Path

import numpy as np

from live import Client, rgb
from tv3s_client import ConnectionLost, FrameFailed, Tv3sError

TIMEOUT = 60  # seconds: an answer that takes longer is none


class Journal:
    def __init__(self, path: str):
        self.file = open(path, "a+", buffering=1)
        self.file.seek(0)
        self.before = [json.loads(line) for line in self.file if line.endswith("\n")]

    def __call__(self, what: str, **more) -> None:
        self.file.write(json.dumps({"what": what, **more}) + "\n")  # one write(2): all of the line, or nothing


def ask(port: int, journal: Journal, method: str, path: str, body=None, **headers):
    """(status, body); status 0 where the answer was cut off in the middle, or there was none: that is an error."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    status = 0
    try:
        c.request(method, path, body, headers)
        r = c.getresponse()
        status = r.status
        return status, r.read()
    except (OSError, http.client.HTTPException) as e:
        if not status:
            journal("unanswered", method=method, path=path, error=repr(e))
        return 0, b""
    finally:
        c.close()


def upload(port: int, folder: Path, journal: Journal, chance: random.Random) -> None:
    wanted = json.loads((folder / "wanted.json").read_text())
    while True:
        one = chance.choice(sorted(wanted))
        clip, _, name = one.partition("/")
        data, key, status = (folder / "clips" / clip).read_bytes(), f"{chance.getrandbits(64):x}", 0
        while status != 202:
            status, body = ask(port, journal, "POST", f"/v1/videos?format={name}", data, **{"Idempotency-Key": key})
            if status != 202:
                time.sleep(0.2)
        job = json.loads(body)["id"]
        journal("accepted", job=job, wanted=one)
        follow(port, journal, job, wanted[one], chance.random() < 0.7)


def follow(port: int, journal: Journal, job: str, digest: str, delete: bool) -> None:
    """To its end, which may be far: its daemon may be away."""
    path = "/v1/videos/" + job
    while True:
        status, body = ask(port, journal, "GET", path)
        state = json.loads(body)["state"] if status == 200 else ""
        if state in ("failed", "cancelled"):
            return journal("failed", job=job, error=json.loads(body)["error"])
        if state == "succeeded":
            status, body = ask(port, journal, "GET", path + "/masks")
            if status == 200:
                break
        time.sleep(0.2)
    journal("right" if hashlib.sha256(body).hexdigest() == digest else "different", job=job)
    if delete:
        journal("deleting", job=job)
        ask(port, journal, "DELETE", path)


def stream(port: int, folder: Path, journal: Journal, chance: random.Random) -> None:
    frames, masks = np.load(folder / "frames.npy"), np.load(folder / "masks.npy")
    client = Client(f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}", timeout=TIMEOUT)

    def paced(first: int):
        for frame in frames[first:]:
            time.sleep(0.02)
            yield rgb(frame)

    begun = [line["stream"] for line in journal.before if line["what"] == "opened"][-1:]
    while True:
        name, whole = begun.pop() if begun else f"stream-{chance.getrandbits(60):x}", False
        while not whole:
            try:
                with client.stream(name, format="raw", takeover=True) as s:
                    at = s.last_seq + 1
                    journal("opened", stream=name, resumed=s.resumed, at=at)
                    for answer in s.masks(paced(at)):
                        right = answer.seq == at and answer.data == masks[at].tobytes()
                        journal("mask" if right else "wrong", stream=name, seq=answer.seq)
                        at += 1
                    whole = True
            except FrameFailed as e:
                if e.seq is None:  # no frame: the stream is elsewhere still
                    journal("cut", error=repr(e))
                    time.sleep(0.2)
                    continue
                journal("frame failed", problem=e.problem)
                break
            except (ConnectionLost, OSError, Tv3sError, asyncio.TimeoutError) as e:
                journal("cut", error=repr(e))
                time.sleep(0.2)


if __name__ == "__main__":
    kind, port_, folder_, journal_, seed = sys.argv[1:]
    {"upload": upload, "stream": stream}[kind](int(port_), Path(folder_), Journal(journal_), random.Random(int(seed)))
