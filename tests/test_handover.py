"""Streams that move from one daemon to another through a real Redis, in all the ways in which that happens."""
from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import struct

import numpy as np
import pytest

from keys import new_key
from live import AsyncClient, Client, Raw, client, header, labels, rgb
from replicas import Redis, replica
from tv3s_client import ConnectionLost, Tv3sError

SIZE, COUNT, SEED = (64, 96), 60, 23


@pytest.fixture
def redis():
    with Redis() as r:
        yield r


@pytest.fixture
def pair(tiny_model, tmp_path, redis):
    with replica(tiny_model, tmp_path / "a", redis, "--snapshot-frames", 10) as a, \
            replica(tiny_model, tmp_path / "b", redis, "--snapshot-frames", 10) as b:
        yield a, b


def applied(stream, frames, first: int, last: int) -> dict[int, np.ndarray]:
    """Sends frames first..last - 1 of an open stream, and gives their masks."""
    return {a.seq: labels(a) for a in stream.masks([rgb(f, seq=i) for i, f in enumerate(frames[first:last], first)],
                                                   end=False)}


def assert_masks(got: dict[int, np.ndarray], expected: np.ndarray, first: int, last: int) -> None:
    assert sorted(got) == list(range(first, last))
    assert [seq for seq in got if (got[seq] != expected[seq]).any()] == []


def stored(daemon, redis: Redis, id: str, seq: int, owner="") -> None:
    """Waits until the record has the state after that frame or a later one."""
    daemon.wait_for(lambda: redis.meta(id, owner).get("seq", -1) >= seq)


# ------------------------------------------------------------------------------------------------------------ moves
def test_a_drained_daemon_hands_its_streams_over(pair, frames, expected):
    a, b = pair
    with client(a).stream("cam", format="raw") as s:
        assert_masks(applied(s, frames, 0, 23), expected, 0, 23)
        a.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionLost) as e:
            for _ in s.events():
                pass
        assert e.value.bye == "drain"
        with client(b).stream("cam") as t:   # the lease is given up by the time of the bye
            assert t.last_seq == 22 and t.resumed and t.hello["format"] == "raw" and t.hello["stored"] == 22
            assert_masks(applied(t, frames, 23, COUNT), expected, 23, COUNT)
    assert a.process.wait(120) == 0 and "event=stream_handed_over stream=cam" in a.log()
    assert b.json("/v1/streams/cam")["frames"] == COUNT
    assert b.metric('tv3sd_streams_moved_total{direction="in"}') == 1


def test_a_drain_hands_over_what_has_no_connection(pair, frames, expected):
    """Also a stream that never had a frame, and one whose frames have no state."""
    a, b = pair
    with client(a).stream("left", format="raw") as s:
        applied(s, frames, 0, 7)
    with client(a).stream("single", format="raw", mode="frame") as s:
        applied(s, frames, 0, 3)
    assert a.request("PUT", "/v1/streams/empty?format=rle").status == 201
    assert a.stop() == 0
    got = b.request("PUT", "/v1/streams/left?format=raw")
    assert got.status == 200 and got.json()["last_seq"] == 6
    with client(b).stream("left") as s:
        assert_masks(applied(s, frames, 7, 20), expected, 7, 20)
    with client(b).stream("single") as s:
        assert s.last_seq == 2 and s.hello["mode"] == "frame"
    with client(b).stream("empty") as s:
        assert s.last_seq == -1 and s.hello["format"] == "rle"


def test_a_killed_daemon_loses_at_most_the_frames_of_a_snapshot(pair, redis, frames, expected):
    """The client is told where to go on, sends again what is lost, and has the masks of a stream that was never lost."""
    a, b = pair
    with client(a).stream("cam", format="raw") as s:
        assert_masks(applied(s, frames, 0, 37), expected, 0, 37)
        stored(a, redis, "cam", 30)
        a.process.kill()
    with client(b).stream("cam", format="raw", takeover=True) as t:
        assert 36 - 10 <= t.last_seq <= 36 and t.resumed
        assert_masks(applied(t, frames, t.last_seq + 1, COUNT), expected, t.last_seq + 1, COUNT)


def test_a_client_that_pauses_loses_nothing_in_a_crash(pair, redis, frames, expected):
    a, b = pair
    with client(a).stream("cam", format="raw") as s:
        applied(s, frames, 0, 3)
        stored(a, redis, "cam", 2)
        a.process.kill()
    with client(b).stream("cam", format="raw", takeover=True) as t:
        assert t.last_seq == 2
        assert_masks(applied(t, frames, 3, 9), expected, 3, 9)


def test_a_frame_over_http_takes_the_stream_up(pair, frames, expected):
    """Its numbers go on; the daemon that had it lets it go, since nobody is connected there."""
    a, b = pair
    png = [cases_png(f) for f in frames[:8]]
    assert a.request("PUT", "/v1/streams/cam?format=raw").status == 201
    for i in range(4):
        assert a.request("POST", "/v1/streams/cam/frames", png[i]).headers["X-Tv3s-Seq"] == str(i)
    for i in range(4, 8):
        got = b.request("POST", "/v1/streams/cam/frames", png[i])
        assert got.headers["X-Tv3s-Seq"] == str(i), got.body
        assert (np.frombuffer(got.body, np.uint8).reshape(SIZE) == expected[i]).all()
    assert a.get("/v1/streams/cam").status == 404
    assert b.request("DELETE", "/v1/streams/cam").status == 204
    assert a.request("POST", "/v1/streams/cam/frames", png[0]).status == 404


def cases_png(frame: np.ndarray) -> bytes:
    import io

    from PIL import Image
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "PNG")
    return out.getvalue()


def test_a_reset_is_stored_before_it_is_acknowledged(pair, redis, frames, expected):
    a, b = pair
    with client(a).stream("cam", format="raw") as s:
        applied(s, frames, 0, 12)
        s.reset()
        assert redis.meta("cam")["seq"] == 11 and redis.cli("HGET", redis.record("cam"), "state") == b""
        a.process.kill()
    with client(b).stream("cam", format="raw", takeover=True) as t:
        assert t.last_seq == 11
        got = {x.seq: x for x in t.masks([rgb(f) for f in frames[:6]], end=False)}
        assert got[12].from_zero and [(labels(got[12 + i]) == expected[i]).all() for i in range(6)] == [True] * 6


# ------------------------------------------------------------------------------------------------------------ leases
def test_a_stream_that_another_replica_has_is_refused(pair, frames):
    a, b = pair
    with client(a).stream("cam", format="raw") as s:
        applied(s, frames, 0, 3)
        with pytest.raises(Tv3sError) as e, client(b).stream("cam"):
            pass
        assert (e.value.status, e.value.type) == (409, "elsewhere")
        refused = b.request("PUT", "/v1/streams/cam")
        assert refused.problem() == "elsewhere" and refused.status == 409 and refused.headers["Retry-After"]
        assert b.json("/v1/streams")["streams"] == []
        assert len(applied(s, frames, 3, 5)) == 2   # it does not notice


def test_another_replica_takes_a_stream_over_from_a_connection(pair, frames, expected):
    a, b = pair
    with client(a).stream("cam", format="raw") as s:
        assert_masks(applied(s, frames, 0, 13), expected, 0, 13)
        with client(b).stream("cam", takeover=True) as t:
            assert t.last_seq == 12
            assert_masks(applied(t, frames, 13, 30), expected, 13, 30)
            with pytest.raises(ConnectionLost) as e:
                for _ in s.events():
                    pass
            assert e.value.bye == "takeover" and e.value.code == 4001


def test_a_daemon_that_was_stopped_too_long_cannot_write_and_says_so(pair, redis, frames, expected):
    a, b = pair
    with client(a).stream("cam", format="raw") as s:
        applied(s, frames, 0, 12)
        stored(a, redis, "cam", 11)
        a.process.send_signal(signal.SIGSTOP)
        with client(b).stream("cam", format="raw") as t:   # waits for the lease to run out
            assert t.last_seq == 11
            assert_masks(applied(t, frames, 12, 30), expected, 12, 30)
            stored(b, redis, "cam", 29)
            a.process.send_signal(signal.SIGCONT)
            with pytest.raises(ConnectionLost) as e:
                for _ in s.events():
                    pass
            assert e.value.bye == "takeover"
            assert a.get("/v1/streams/cam").status == 404 and a.metric("tv3sd_streams_lost_total") == 1
            assert redis.meta("cam")["seq"] == 29
            assert_masks(applied(t, frames, 30, COUNT), expected, 30, COUNT)


def test_a_deleted_stream_does_not_come_back_from_a_daemon_that_was_stopped(pair, redis, frames):
    a, b = pair
    with client(a).stream("cam", format="raw") as s:
        applied(s, frames, 0, 12)
        stored(a, redis, "cam", 11)
        a.process.send_signal(signal.SIGSTOP)
        assert b.request("DELETE", "/v1/streams/cam").status == 204
        a.process.send_signal(signal.SIGCONT)
        with pytest.raises(ConnectionLost) as e:
            for _ in s.events():
                pass
        assert e.value.bye == "takeover"
    with client(b).stream("cam") as t:
        assert t.last_seq == -1 and not t.resumed


# ------------------------------------------------------------------------------------------------------------ Redis
def test_streams_go_on_while_redis_is_away(pair, redis, frames, expected):
    a, b = pair
    assert a.get("/readyz").body == b"ok\n"
    with client(a).stream("cam", format="raw") as s:
        applied(s, frames, 0, 12)
        redis.kill()
        a.wait_for(lambda: a.metric("tv3sd_store_away") == 1)
        ready = a.get("/readyz")
        assert ready.status == 200 and b"redis is away" in ready.body, ready.body
        assert_masks(applied(s, frames, 12, 24), expected, 12, 24)
        with client(a).stream("new", format="raw") as n:     # without a lease
            applied(n, frames, 0, 12)
            redis.start()                                    # empty
            for d in pair:
                d.wait_for(lambda: d.metric("tv3sd_store_away") == 0)
            assert a.get("/readyz").body == b"ok\n" and "event=store_back" in a.log()
            stored(a, redis, "cam", 23)
            stored(a, redis, "new", 11)
            assert_masks(applied(s, frames, 24, 30), expected, 24, 30)
    assert a.stop() == 0
    with client(b).stream("cam", format="raw") as t:
        assert t.last_seq == 29
        assert_masks(applied(t, frames, 30, 40), expected, 30, 40)
    with client(b).stream("new", format="raw") as t:
        assert t.last_seq == 11
        assert_masks(applied(t, frames, 12, 20), expected, 12, 20)


@contextlib.contextmanager
def parted(redis: Redis, daemon):
    """Redis keeps what it has, and does not answer the daemon; at the end it does again."""
    redis.process.send_signal(signal.SIGSTOP)
    try:
        daemon.wait_for(lambda: daemon.metric("tv3sd_store_away") == 1)
        yield
    finally:
        redis.process.send_signal(signal.SIGCONT)
    daemon.wait_for(lambda: daemon.metric("tv3sd_store_away") == 0)


def test_a_stream_that_is_deleted_while_redis_is_away_does_not_come_back(pair, redis, frames):
    """Neither one that had its lease, nor one that began while Redis has what an earlier one left."""
    a, b = pair
    with client(b).stream("left", format="raw") as s:
        applied(s, frames, 0, 3)
    assert b.stop() == 0 and redis.meta("left")["seq"] == 2
    with client(a).stream("cam", format="raw") as s:
        applied(s, frames, 0, 12)
        stored(a, redis, "cam", 11)
    with parted(redis, a):
        assert a.request("PUT", "/v1/streams/left").status == 201
        for id in ("left", "cam"):
            assert a.request("DELETE", f"/v1/streams/{id}").status == 204
        a.wait_for(lambda: a.metric("tv3sd_store_deletions_waiting") == 2)
    assert a.metric("tv3sd_store_deletions_waiting") == a.metric("tv3sd_store_streams") == 0
    for id in ("left", "cam"):
        assert redis.meta(id) == {} and redis.cli("EXISTS", redis.record(id).replace(":record", ":lease")) == b"0"
        with client(a).stream(id) as s:
            assert s.last_seq == -1 and not s.resumed


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_deletion_that_redis_was_not_told_of_outlives_the_daemon(tiny_model, tmp_path, pair, redis, frames, end):
    a, b = pair
    with client(a).stream("cam", format="raw") as s:
        applied(s, frames, 0, 12)
        stored(a, redis, "cam", 11)
    redis.process.send_signal(signal.SIGSTOP)
    try:
        a.wait_for(lambda: a.metric("tv3sd_store_away") == 1)
        assert a.request("DELETE", "/v1/streams/cam").status == 204
        a.wait_for(lambda: a.metric("tv3sd_store_deletions_waiting") == 1)
        a.stop(end)
        with replica(tiny_model, a.spool, redis) as again:
            assert again.metric("tv3sd_store_deletions_waiting") == 1
            redis.process.send_signal(signal.SIGCONT)
            again.wait_for(lambda: again.metric("tv3sd_store_deletions_waiting") == 0)
            assert redis.meta("cam") == {} and not (tmp_path / "a" / "deletions").exists()
            with client(b).stream("cam") as s:
                assert s.last_seq == -1 and not s.resumed
    finally:
        redis.process.send_signal(signal.SIGCONT)


def test_a_stream_that_is_made_anew_after_its_deletion_stays(pair, redis, frames, expected):
    """Redis learns of the deletion first; the new one is not taken for another replica's."""
    a, b = pair
    with client(a).stream("cam", format="raw") as s:
        applied(s, frames, 0, 12)
        stored(a, redis, "cam", 11)
    with parted(redis, a):
        assert a.request("DELETE", "/v1/streams/cam").status == 204
        with client(a).stream("cam", format="raw") as s:
            assert s.last_seq == -1
            assert_masks(applied(s, frames, 0, 3), expected, 0, 3)
    a.wait_for(lambda: redis.meta("cam").get("seq") == 2)
    assert a.metric("tv3sd_streams_lost_total") == 0 and a.stop() == 0
    with client(b).stream("cam", format="raw") as s:
        assert s.last_seq == 2
        assert_masks(applied(s, frames, 3, 9), expected, 3, 9)


def test_a_redis_that_hangs_holds_nobody_up(pair, redis, frames, expected):
    a, _ = pair
    with client(a).stream("cam", format="raw") as s:
        applied(s, frames, 0, 5)
        redis.process.send_signal(signal.SIGSTOP)
        try:
            a.wait_for(lambda: a.metric("tv3sd_store_away") == 1)
            assert b"no answer in time" in a.get("/readyz").body
            assert_masks(applied(s, frames, 5, 40), expected, 5, 40)
        finally:
            redis.process.send_signal(signal.SIGCONT)
        a.wait_for(lambda: a.metric("tv3sd_store_away") == 0)
        assert_masks(applied(s, frames, 40, COUNT), expected, 40, COUNT)


def test_a_daemon_that_drains_without_redis_ends(pair, redis, frames):
    a, _ = pair
    with client(a).stream("cam", format="raw") as s:
        applied(s, frames, 0, 5)
        redis.kill()
        assert a.stop() == 0
        with pytest.raises(ConnectionLost, match="drain"):
            for _ in s.events():
                pass
    redis.start()


def test_a_password_is_wanted_and_given(tiny_model, tmp_path, frames):
    (tmp_path / "password").write_text("open sesame\n")
    with Redis(password="open sesame") as redis:
        with replica(tiny_model, tmp_path / "a", redis) as d:
            d.wait_for(lambda: b"NOAUTH" in d.get("/readyz").body)
        with replica(tiny_model, tmp_path / "b", redis, "--redis-password-file", tmp_path / "password") as d:
            d.wait_for(lambda: redis.cli("DBSIZE") == b"0" and d.get("/readyz").body == b"ok\n")
            d.request("PUT", "/v1/streams/cam")
            assert d.stop() == 0
            assert redis.meta("cam")["id"] == "cam"
            assert "sesame" not in d.log()


# ------------------------------------------------------------------------------------------------------------ what is in it
def handed(a, redis: Redis, frames, id="cam") -> bytes:
    """The name of a record of 12 frames whose lease is given up."""
    with client(a).stream(id, format="raw") as s:
        applied(s, frames, 0, 12)
    assert a.stop() == 0
    return redis.record(id)


def damaged_state(state: bytes, how: str) -> bytes:
    size = struct.unpack("<Q", state[:8])[0]
    if how == "cut":
        return state[:len(state) // 2]
    if how == "not finite":
        return state[:-4] + b"\0\0\xc0\x7f"
    if how == "another geometry":
        return state[:8] + state[8:8 + size].replace(b"frame=96x64", b"frame=64x96") + state[8 + size:]
    return b"\xff" * len(state)


@pytest.mark.parametrize("how", ["cut", "not finite", "another geometry", "noise"])
def test_a_damaged_state_is_not_used(pair, redis, frames, expected, how):
    a, b = pair
    record = handed(a, redis, frames)
    state = a_state(redis, record)
    redis.cli("HSET", record, "state", data=damaged_state(state, how))
    with client(b).stream("cam", format="raw") as t:
        assert t.last_seq == -1
        assert_masks(applied(t, frames, 0, 12), expected, 0, 12)
    assert "event=stream_anew" in b.log()


def a_state(redis: Redis, record: str) -> bytes:
    return redis.cli("HGET", record, "state")


@pytest.mark.parametrize("change", [
    {"seq": 2 ** 63 - 1}, {"seq": -2}, {"frames": -1}, {"size": [10 ** 9, 5]}, {"size": [1]}, {"owner": "eve"}, {"id": "dog"},
    {"mode": "dream"}, {"resize": "0x0"}, {"format": "gif"}, {"version": 2}, {"seq": "7"}, {"more": 1}, {"weights": "0" * 64},
    {"model": "nobody"}, {"created": None}], ids=str)
def test_a_record_that_says_nonsense_is_not_used(pair, redis, frames, change):
    a, b = pair
    record = handed(a, redis, frames)
    redis.cli("HSET", record, "meta", data=json.dumps({**redis.meta("cam"), **change}).encode())
    with client(b).stream("cam", format="raw") as t:
        assert t.last_seq == -1 and len(applied(t, frames, 0, 3)) == 3


@pytest.mark.parametrize("meta", [b"", b"{", b"[]", b"\0" * 100, b"{" * 100000, b'{"id":"cam","id":"cam"}'], ids=range(6))
def test_a_record_that_is_no_record_is_not_used(pair, redis, frames, meta):
    a, b = pair
    record = handed(a, redis, frames)
    redis.cli("HSET", record, "meta", data=meta)
    with client(b).stream("cam", format="raw") as t:
        assert t.last_seq == -1


@pytest.mark.parametrize("key", ["record", "lease", "want"])
def test_a_foreign_value_at_a_key_is_an_error_of_that_stream_alone(pair, redis, frames, expected, key):
    """It goes on, without a lease; all is well again when the value is gone. The others do not notice."""
    a, b = pair
    place = redis.record("cam").removesuffix("record") + key
    with client(a).stream("cam", format="raw") as s, client(a).stream("dog", format="raw") as other:
        applied(s, frames, 0, 12)
        stored(a, redis, "cam", 11)
        redis.cli("EVAL", "redis.call('DEL', KEYS[1]) redis.call('RPUSH', KEYS[1], 'foreign')", "1", place)
        a.wait_log(r"event=store_broken stream=cam .*WRONGTYPE")
        assert a.metric("tv3sd_store_streams_broken") == 1
        if key != "want":   # of which who opens a stream makes one of its own
            with client(b).stream("cam", format="raw") as t:
                assert t.last_seq == -1 and len(applied(t, frames, 0, 3)) == 3
            assert b.request("DELETE", "/v1/streams/cam").status == 204
            assert redis.cli("LRANGE", place, "0", "-1") == b"foreign"
        assert_masks(applied(s, frames, 12, 24), expected, 12, 24)
        applied(other, frames, 0, 12)
        stored(a, redis, "dog", 11)
        redis.cli("DEL", place)
        a.wait_log("event=store_mended stream=cam")
        stored(a, redis, "cam", 23)
    assert a.metric("tv3sd_store_streams_broken") == b.metric("tv3sd_store_streams_broken") == 0
    assert "store_away" not in a.log() + b.log() and a.stop() == 0
    with client(b).stream("cam", format="raw") as t:
        assert t.last_seq == 23
        assert_masks(applied(t, frames, 24, 30), expected, 24, 30)


def test_a_stream_goes_on_with_the_parameters_that_it_has(pair, redis, frames):
    a, b = pair
    with client(a).stream("cam", format="rle", mode="frame", resize="128x64") as s:
        s.stats()
    assert a.stop() == 0
    with pytest.raises(Tv3sError) as e, client(b).stream("cam", mode="stream"):
        pass
    assert e.value.type == "conflict"
    assert b.request("PUT", "/v1/streams/cam").problem() == "conflict"
    with client(b).stream("cam") as t:
        assert (t.hello["mode"], t.hello["format"]) == ("frame", "rle")
    assert b.request("PUT", "/v1/streams/cam?mode=frame&resize=128x64").status == 200


# ------------------------------------------------------------------------------------------------------------ owners
def test_a_key_gets_its_own_streams_alone(tiny_model, tmp_path, redis, frames):
    keys = tmp_path / "keys.json"
    ann, bob = new_key(keys, "ann"), new_key(keys, "bob")
    flags = ("--keys-file", keys, "--snapshot-frames", 10)
    with replica(tiny_model, tmp_path / "a", redis, *flags, key=ann) as a, \
            replica(tiny_model, tmp_path / "b", redis, *flags, key=ann) as b:
        with Client(f"http://127.0.0.1:{a.http_port}", key=ann).stream("cam", format="raw") as s:
            applied(s, frames, 0, 12)
            with Client(f"http://127.0.0.1:{b.http_port}", key=bob).stream("cam", format="raw") as t:
                assert t.last_seq == -1 and not t.resumed   # his own
                applied(t, frames, 0, 4)
        assert a.stop() == 0
        assert b.request("POST", "/v1/streams/cam/reset", Authorization="Bearer " + bob).status == 204
        # whoever can write to Redis gives bob ann's record: it says whose it is
        redis.cli("RENAME", redis.record("cam", "ann"), redis.record("dog", "bob"))
        with Client(f"http://127.0.0.1:{b.http_port}", key=bob).stream("dog", format="raw") as t:
            assert t.last_seq == -1
        assert "record is of another version, owner or stream" in b.log()


# ------------------------------------------------------------------------------------------------------------ under load
def test_fifty_live_streams_move_and_no_frame_is_answered_twice_or_passed_over(tiny_model, tmp_path, redis, frames, expected):
    """SIGTERM in the middle of it all. Each stream is a client that goes on by itself."""
    streams, answered = 50, {}
    with replica(tiny_model, tmp_path / "a", redis) as a, replica(tiny_model, tmp_path / "b", redis) as b:
        at = [a]

        async def one(id: str) -> None:
            def stream():
                return AsyncClient(f"http://127.0.0.1:{at[0].http_port}", timeout=120).stream(
                    id, format="raw", takeover=True, timeout=120)

            from tv3s_client.stream import resuming
            got = answered.setdefault(id, [])
            async for answer in resuming(stream, lambda n: [rgb(f) for f in frames[n:]], pause=0.01, attempts=50):
                got.append((answer.seq, bool((labels(answer) == expected[answer.seq]).all())))
                if at[0] is a and sum(map(len, answered.values())) > streams * COUNT / 3:
                    at[0] = b
                    a.process.send_signal(signal.SIGTERM)

        async def run() -> None:
            await asyncio.gather(*(one(f"cam-{i}") for i in range(streams)))
        asyncio.run(run())
        assert a.process.wait(120) == 0, a.log()[-4000:]
        assert b.metric('tv3sd_streams_moved_total{direction="in"}') == streams
        seconds = float(a.wait_log(r"event=drained seconds=([\d.]+)")[1])
        print(f"{streams} streams moved within {seconds} s")
        assert [id for id, got in answered.items() if got != [(seq, True) for seq in range(COUNT)]] == []
        assert {s["frames"] for s in b.json("/v1/streams")["streams"]} == {COUNT}


def test_a_client_is_told_what_is_stored(pair, redis, frames):
    """So that it may forget what came before."""
    a, _ = pair

    async def run() -> None:
        async with Raw(a, "cam?format=raw&credit=1") as c:
            assert c.hello["stored"] == -1
            said = []
            for i in range(40):
                await c.send(header(i, width=SIZE[1], height=SIZE[0]) + frames[i].tobytes())
                message = await c.recv()
                while isinstance(message, str):
                    said.append(json.loads(message))
                    message = await c.recv()
                if i % 10 == 9:
                    await asyncio.to_thread(stored, a, redis, "cam", i - 9)
            assert {m["type"] for m in said} == {"stored"}
            assert all(x["seq"] < y["seq"] for x, y in zip(said, said[1:])) and said[-1]["seq"] >= 20
    asyncio.run(run())


def test_without_a_store_nothing_is_said_of_one(tiny_model, tmp_path):
    from daemon import Daemon
    with Daemon(tiny_model, tmp_path / "a") as d:
        with client(d).stream("cam") as s:
            assert "stored" not in s.hello
        assert d.get("/readyz").body == b"ok\n"


@pytest.mark.parametrize("flags", [("--state-store", "memcached"), ("--state-store", "redis", "--redis", ":0"),
                                   ("--state-store", "redis", "--redis-prefix", "a{b"),
                                   ("--state-store", "redis", "--redis-password-file", "/nowhere")], ids=str)
def test_settings_that_are_none_stop_the_start(tiny_model, tmp_path, flags):
    import subprocess

    from daemon import TV3SD
    done = subprocess.run([TV3SD, "--model", tiny_model, "--spool", tmp_path / "s", "--http-port", "0", "--ws-port", "0",
                           *flags], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "event=failed" in done.stderr
