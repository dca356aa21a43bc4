"""Hand-over where something is short: the store's memory, ours, or the time between two looks at a stream."""
from __future__ import annotations

import json
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cases
from daemon import CUDA_HOST_TV3SD
from live import client
from oom import ENDLESS, Memory
from replicas import Redis, replica
from test_handover import applied, stored
from tv3s_client import ConnectionLost, Tv3sError

COUNT = 30


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return cases.frames((64, 96), COUNT, 23)


@pytest.fixture
def redis():
    with Redis() as r:
        yield r


def two(model, folder, redis, *flags):
    return [replica(model, folder / name, redis, "--snapshot-frames", 10, *flags) for name in "ab"]


# ------------------------------------------------------------------------------------------------------------ Redis is full
def test_a_full_redis_refuses_states_and_no_lease(tiny_model, tmp_path, redis, frames):
    """Who has a lease keeps it and who asks gets one; states wait, and it is told."""
    a, b = two(tiny_model, tmp_path, redis)
    with a, b, client(a).stream("cam", format="raw") as s:
        applied(s, frames, 0, 12)
        stored(a, redis, "cam", 11)
        redis.cli("CONFIG", "SET", "maxmemory", "1")
        applied(s, frames, 12, 24)
        a.wait_for(lambda: b"redis takes no states: OOM" in a.get("/readyz").body)
        assert a.get("/readyz").status == 200
        assert a.metric('tv3sd_store_states_total{outcome="refused"}') > 0
        with client(a).stream("new", format="raw") as n:     # made meanwhile: it has a lease
            applied(n, frames, 0, 3)
            lease = redis.record("new").replace(":record", ":lease")
            assert redis.cli("EXISTS", lease) == b"1"
            for id in ("cam", "new"):                           # for longer than a lease, it is not run out
                with pytest.raises(Tv3sError) as e, client(b).stream(id):
                    pass
                assert e.value.type == "elsewhere"
        assert a.metric("tv3sd_store_away") == b.metric("tv3sd_store_away") == 0 and "store_away" not in a.log() + b.log()
        assert redis.meta("cam")["seq"] == 11 and redis.meta("new") == {}
        redis.cli("CONFIG", "SET", "maxmemory", "0")
        stored(a, redis, "cam", 23)
        stored(a, redis, "new", 2)
        a.wait_for(lambda: a.get("/readyz").body == b"ok\n")
        assert a.log().count("event=store_refuses") == a.log().count("event=store_takes") == 1
        assert a.stop() == 0


def test_a_drain_into_a_full_redis_leaves_what_was_stored_before(tiny_model, tmp_path, redis, frames):
    """At once, without waiting for a lease to run out."""
    a, b = two(tiny_model, tmp_path, redis, "--stream-lease", 600, "--snapshot-frames", 1)
    with a, b:
        with client(a).stream("cam", format="raw") as s:
            applied(s, frames, 0, 1)
            stored(a, redis, "cam", 0)
            redis.cli("CONFIG", "SET", "maxmemory", "1")
            applied(s, frames, 1, 4)
            a.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionLost, match="drain"):
                for _ in s.events():
                    pass
        with client(b).stream("cam") as t:
            assert t.resumed and t.last_seq == 0
        assert a.process.wait(120) == 0


# ------------------------------------------------------------------------------------------------------------ memory
def test_a_deleted_stream_is_given_up_whatever_allocation_fails(tiny_model, tmp_path, redis):
    (tmp_path / "memory").mkdir()
    memory, lease = Memory(tmp_path / "memory"), redis.record("cam").replace(":record", ":lease")
    with replica(tiny_model, tmp_path / "a", redis, env=memory.environment) as a:
        def delete(n: int) -> int:
            """The allocations that it took."""
            assert a.request("PUT", "/v1/streams/cam").status == 201 and redis.cli("EXISTS", lease) == b"1"
            memory.fail(n)
            status = a.request("DELETE", "/v1/streams/cam").status
            memory.disarm()
            if status != 204:
                assert status == 503 and a.request("DELETE", "/v1/streams/cam").status in (204, 404)
            a.wait_for(lambda: a.metric("tv3sd_store_streams") == 0)
            assert redis.cli("EXISTS", lease) == b"0"
            return memory.used
        delete(ENDLESS)
        for n in range(1, delete(ENDLESS) + 1):
            delete(n)


def test_a_record_that_is_too_long_stays_in_redis(tiny_model, tmp_path, redis):
    redis.cli("HSET", redis.record("cam"), "meta", data=bytes(64 << 20))
    with replica(tiny_model, tmp_path / "a", redis) as a:
        def sent() -> int:
            return int(redis.cli("INFO", "stats").split(b"total_net_output_bytes:")[1].split()[0])
        before = sent()
        with client(a).stream("cam") as s:
            assert s.last_seq == -1
        assert sent() - before < 1 << 20 and "event=stream_anew" in a.log()


# ------------------------------------------------------------------------------------------------------------ races
class Monitor:
    """What Redis is asked, by whom."""

    def __init__(self, redis: Redis):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(120)
        self.socket.connect(redis.path)
        self.socket.sendall(b"MONITOR\r\n")
        self.lines = self.socket.makefile("rb")

    def wait(self, *words: bytes) -> None:
        for line in self.lines:
            if all(w in line for w in words):
                return
        raise AssertionError("Redis hung up")


def test_who_attaches_to_a_stream_that_is_just_leaving_is_told(tiny_model, tmp_path, redis, picture):
    """It was idle when another replica wanted it, and leaves when the engine comes to it: the engine is held."""
    with replica(tiny_model, tmp_path / "a", redis, "--device", "cuda", "--room-size", "", program=CUDA_HOST_TV3SD) as a, \
            replica(tiny_model, tmp_path / "b", redis, "--stream-lease", 600) as b, ThreadPoolExecutor() as pool:
        monitor = Monitor(redis)
        assert a.request("PUT", "/v1/streams/cam").status == 201
        a.process.send_signal(signal.SIGUSR2)
        labelled = pool.submit(a.request, "POST", "/v1/segment", picture)
        a.wait_log("the stand-in is waited for")
        moved = pool.submit(b.request, "PUT", "/v1/streams/cam")
        monitor.wait(b'"SET"', b"cam}:want")
        for _ in range(2):   # a renewal tells of it; by the next one the stream was asked to leave
            monitor.wait(b'"GET"', b"cam}:want")
        with client(a).stream("cam") as s:
            a.process.send_signal(signal.SIGUSR2)
            with pytest.raises(ConnectionLost) as e:
                for _ in s.events():
                    pass
            assert e.value.bye == "takeover"
        assert moved.result().status == 200 and labelled.result().status == 200


def test_a_stream_may_be_asked_for_while_it_is_taken_up(tiny_model, tmp_path, redis, frames):
    """For ThreadSanitizer: who looks for it compares its owner."""
    a, b = two(tiny_model, tmp_path, redis)
    with a, b:
        with client(a).stream("cam", format="raw") as s:
            applied(s, frames, 0, 12)
            stored(a, redis, "cam", 11)
        a.process.kill()
        done, seen = threading.Event(), []

        def look():
            while not done.is_set():
                seen.append(b.get("/v1/streams/cam"))
        lookers = [threading.Thread(target=look) for _ in range(2)]
        for t in lookers:
            t.start()
        opened = b.request("PUT", "/v1/streams/cam?format=raw")   # once the lease has run out
        done.set()
        for t in lookers:
            t.join()
        assert opened.status == 200 and opened.json()["last_seq"] == 11
        told = [x.problem() if x.status >= 400 else json.loads(x.body)["last_seq"] for x in seen]
        assert set(told) <= {"overloaded", "not-found", 11} and "overloaded" in told
