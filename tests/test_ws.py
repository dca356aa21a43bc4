"""Live streams over WebSocket, by the Python client: masks, flow, what outlives a connection."""
from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import subprocess
import time

import numpy as np
import pytest
import websockets
from PIL import Image

import cases
from conftest import CLASSES, SANITIZED
from daemon import Daemon
from live import Frame, Raw, async_client, client, cut, labels, rgb, tool_masks
from tv3s_client import Answer, ConnectionLost, Dropped, Failed, FrameFailed, Restarted, Tv3sError

SIZE = (64, 96)  # height, width
COUNT, SEED = 12, 21


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory):
    with Daemon(tiny_model, tmp_path_factory.mktemp("spool") / "s", "--ws-timeout", "600") as d:
        yield d


def png(frame: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "PNG")
    return out.getvalue()


def stream_masks(daemon, name, frames, **options) -> list[Answer]:
    with client(daemon).stream(name, format="raw", **options) as s:
        return list(s.masks(frames))


def assert_masks(answers, expected) -> None:
    assert len(answers) == len(expected)
    for a, e in zip(answers, expected):
        assert (labels(a) == e).all()


def eventually(condition, seconds=60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- masks ------------------------------------------------------------------------------------------------
def test_hello_says_what_the_client_needs(daemon):
    with client(daemon).stream("hello", mode="frame", format="rle", credit=7, drop="newest") as s:
        h = s.hello
        assert (h["stream"], h["mode"], h["format"], h["credit"], h["drop"]) == ("hello", "frame", "rle", 7, "newest")
        assert [c["name"] for c in h["classes"]] == CLASSES
        assert h["last_seq"] == -1 and not h["resumed"] and h["model"] == "tiny" and h["max_message"] == 1 << 25


def test_masks_are_those_of_the_tool(daemon, frames, expected):
    answers = stream_masks(daemon, "rgb", map(rgb, frames))
    assert_masks(answers, expected)
    assert [a.seq for a in answers] == list(range(COUNT))
    assert [a.from_zero for a in answers] == [True] + [False] * (COUNT - 1)
    assert all(a.compute_us > 0 and (a.width, a.height) == SIZE[::-1] and a.pts is None for a in answers)


def test_images_give_the_masks_of_their_pixels(daemon, frames, expected):
    assert_masks(stream_masks(daemon, "png", map(png, frames)), expected)


def test_bare_images_are_numbered_by_the_server(daemon, frames):
    async def run():
        async with Raw(daemon, "bare?format=raw") as c:
            for i in range(3):
                await c.send(png(frames[i]))
                assert await c.answer() == i
    asyncio.run(run())


def test_nv12_and_silent_frames_advance_the_state(daemon, frames):
    h, w = SIZE
    gray = [bytes([y]) * (h * w) + bytes([128]) * (h * w // 2) for y in (40, 90, 150, 200)]
    loud = stream_masks(daemon, "loud", [Frame.nv12(g, w, h, pts=i * 40000) for i, g in enumerate(gray)])
    quiet = stream_masks(daemon, "quiet", [Frame.nv12(g, w, h, silent=i != 3) for i, g in enumerate(gray)])
    assert [a.format for a in quiet] == [None, None, None, "raw"] and quiet[0].data == b""
    assert quiet[3].data == loud[3].data and [a.pts for a in loud] == [0, 40000, 80000, 120000]


def test_sixteen_interleaved_streams_of_three_sizes_keep_apart(daemon, tiny_model, tmp_path):
    sizes = [(64, 64), (48, 96), (72, 98)]
    clips = [cases.frames(s, 6, i) for i, s in enumerate(sizes)]
    want = []
    for i, c in enumerate(clips):
        (tmp_path / str(i)).mkdir()
        want.append(tool_masks(tiny_model, c, tmp_path / str(i)))

    async def one(number):
        async with async_client(daemon).stream(f"many-{number}", format="raw") as s:
            return [a async for a in s.masks([rgb(f) for f in clips[number % 3]])]

    async def run():
        return await asyncio.gather(*(one(n) for n in range(16)))
    for number, answers in enumerate(asyncio.run(run())):
        assert_masks(answers, want[number % 3])


def test_deflated_messages_give_the_same_masks(tiny_model, tmp_path, frames, expected):
    with Daemon(tiny_model, tmp_path / "s", "--deflate", "true") as d:
        assert_masks(stream_masks(d, "deflate", map(rgb, frames), deflate=True), expected)
        assert_masks(stream_masks(d, "plain", map(rgb, frames)), expected)

        async def negotiated():
            async with Raw(d, "more", compression="deflate") as c:
                negotiated = getattr(c.socket, "protocol", c.socket)  # of websockets from 15 on; before
            assert [e.name for e in negotiated.extensions] == ["permessage-deflate"]
        asyncio.run(negotiated())


# ---- control ----------------------------------------------------------------------------------------------
def test_a_reset_makes_the_state_zero(daemon, frames, expected):
    with client(daemon).stream("reset", format="raw") as s:
        assert_masks(list(s.masks(map(rgb, frames[:5]), end=False)), expected[:5])
        s.reset()
        again = list(s.masks(map(rgb, frames)))
    assert_masks(again, expected)
    assert again[0].from_zero and again[0].seq == 5


def test_the_format_changes_for_frames_to_come(daemon, frames):
    with client(daemon).stream("format", format="raw") as s:
        assert [a.format for a in s.masks([rgb(frames[0])], end=False)] == ["raw"]
        s.set_format("coco_rle")
        assert [a.format for a in s.masks([rgb(frames[1])])] == ["coco_rle"]


def test_stats_count(daemon, frames):
    with client(daemon).stream("stats") as s:
        list(s.masks(map(rgb, frames[:3]), end=False))
        stats = s.stats()
        assert (stats["received"], stats["answered"], stats["in_flight"], stats["credit"]) == (3, 3, 0, 4)
        assert stats["stream"]["frames"] == 3 and stats["stream"]["connected"] and stats["stream"]["last_seq"] == 2


def test_a_change_of_size_restarts_and_says_so(daemon, frames, expected):
    small = cases.frames((48, 64), 1, 3)
    with client(daemon).stream("sizes", format="raw") as s:
        events = list(s.results([rgb(small[0]), *map(rgb, frames[:3])]))
    answers = [e for e in events if isinstance(e, Answer)]
    assert [e.seq for e in events if isinstance(e, Restarted)] == [1]
    assert [a.from_zero for a in answers] == [True, True, False, False]
    assert_masks(answers[1:], expected[:3])


def test_a_failing_frame_fails_alone(daemon, frames, expected):
    sent = [rgb(frames[0]), b"\x89PNG\r\n\x1a\nnot an image", Frame.image(b"GIF89a"), rgb(frames[1])]
    with client(daemon).stream("failing", format="raw") as s:
        events = list(s.results(sent))
    failed = [e for e in events if isinstance(e, Failed)]
    assert sorted(e.seq for e in failed) == [1, 2] and all(400 <= e.problem["status"] < 500 for e in failed)
    assert_masks([e for e in events if isinstance(e, Answer)], expected[:2])
    with client(daemon).stream("failing") as s, pytest.raises(FrameFailed) as e:
        list(s.masks([b"\xff\xd8\xff nothing"]))
    assert e.value.problem["type"].startswith("/problems/")


# ---- flow -------------------------------------------------------------------------------------------------
def flood(daemon, name, drop, count=40):
    """(answered, dropped, close code) of frames sent without a look at credit."""
    frame = cases.frames((256, 384), 1, 0)[0]
    message = frame.tobytes()

    async def run():
        async with Raw(daemon, f"{name}?drop={drop}&credit=2&format=rle") as c:
            with contextlib.suppress(websockets.ConnectionClosed):
                for i in range(count):
                    await c.send(header_rgb(i, frame) + message)
                await c.send('{"type":"end"}')
            return await collect(c)
    return asyncio.run(run())


def header_rgb(seq, frame) -> bytes:
    return rgb(frame).pack(seq)[:32]


async def collect(c: Raw):
    answered, dropped = [], []
    try:
        while True:
            message = await c.recv()
            if isinstance(message, bytes):
                answered.append(int.from_bytes(message[8:16], "little"))
            elif json.loads(message)["type"] == "dropped":
                dropped += [(n, json.loads(message)["reason"]) for n in json.loads(message)["seq"]]
    except websockets.ConnectionClosed:
        return answered, dropped, c.socket.close_code


def test_without_a_drop_policy_a_flood_is_closed(daemon):
    answered, dropped, code = flood(daemon, "flood-none", "none")
    assert code == 1008 and not dropped and len(answered) < 40


@pytest.mark.parametrize("drop", ["oldest", "newest"])
def test_a_drop_policy_answers_or_reports_every_frame(daemon, drop):
    counted = daemon.metric(f'tv3sd_dropped_total{{reason="{drop}"}}')
    answered, dropped, code = flood(daemon, "flood-" + drop, drop)
    assert daemon.metric(f'tv3sd_dropped_total{{reason="{drop}"}}') - counted == len(dropped)
    assert code == 1000 and answered == sorted(answered) and dropped
    assert sorted(answered + [n for n, _ in dropped]) == list(range(40))
    assert {reason for _, reason in dropped} == {drop}
    assert answered[:2] == [0, 1]
    if drop == "oldest":
        assert answered[-1] == 39
    assert client(daemon).describe("flood-" + drop)["frames"] == len(answered)


@pytest.mark.parametrize("drop", ["none", "oldest"])
def test_overload_is_answered(tiny_model, tmp_path, drop):
    """One frame may wait, sixteen come: the others fail with 503, or are dropped where the stream has a policy."""
    frame = cases.frames((256, 384), 1, 0)[0]
    with Daemon(tiny_model, tmp_path / "s", "--queue-max", "1") as d:
        with client(d).stream("busy", drop=drop, credit=16, format="rle") as s:
            events = list(s.results(rgb(frame) for _ in range(16)))
        assert sorted(e.seq for e in events) == list(range(16))
        refused = [e for e in events if not isinstance(e, Answer)]
        assert refused and len(refused) < 16
        if drop == "none":
            assert {(e.problem["type"], e.problem["status"]) for e in refused} == {("/problems/overloaded", 503)}
        else:
            assert {e.reason for e in refused} == {"overload"}
        assert d.metric('tv3sd_dropped_total{reason="overload"}') == len(refused)
        assert client(d).describe("busy")["frames"] == 16 - len(refused)


def test_a_client_with_a_drop_policy_does_not_wait(daemon):
    frame = cases.frames((256, 384), 1, 0)[0]
    with client(daemon).stream("camera", drop="oldest", credit=1, format="rle") as s:
        events = list(s.results(rgb(frame) for _ in range(30)))
    assert sorted(e.seq for e in events) == list(range(30))
    assert any(isinstance(e, Dropped) for e in events)


# ---- what outlives a connection -----------------------------------------------------------------------------
def test_a_second_connection_is_refused_or_takes_over(daemon, frames, expected):
    c = client(daemon)
    with c.stream("taken", format="raw") as first:
        assert_masks(list(first.masks(map(rgb, frames[:4]), end=False)), expected[:4])
        with pytest.raises(Tv3sError) as e:
            c.stream("taken").open()
        assert e.value.status == 409 and e.value.type == "conflict" and "takeover=1" in str(e.value)
        with c.stream("taken", format="raw", takeover=True) as second:
            assert second.resumed and second.last_seq == 3
            with pytest.raises(ConnectionLost) as lost:
                list(first.events())
            assert lost.value.code == 4001 and lost.value.bye == "takeover"
            assert_masks(list(second.masks(map(rgb, frames[4:]))), expected[4:])


def test_a_lost_connection_goes_on_where_it_was(daemon, frames, expected):
    async def run():
        got = {}
        while COUNT - 1 not in got:
            s = async_client(daemon).stream("lost", format="raw", takeover=True)
            await s.open()
            frame = s.last_seq + 1
            for number in range(frame, min(frame + 4, COUNT)):
                await s.send(rgb(frames[number]))
            if frame + 4 < COUNT:  # without a word, with frames on their way
                event = await s.events().__anext__()
                got[event.seq] = labels(event)
                cut(s)
            else:
                await s.end()
            try:
                async for event in s.events():
                    got[event.seq] = labels(event)
            except ConnectionLost:
                pass
            await s.close()
        return got
    got = asyncio.run(run())
    for seq, mask in got.items():
        assert (mask == expected[seq]).all(), seq


def test_resuming_reconnects_by_itself(daemon, frames, expected):
    async def run():
        c = async_client(daemon)
        opened, seen = [], []

        def open_stream():
            opened.append(c.stream("self", format="raw", takeover=True))
            return opened[-1]

        from tv3s_client.stream import resuming
        async for a in resuming(open_stream, lambda n: [rgb(f) for f in frames[n:]], pause=0.01):
            seen.append(a)
            if len(opened) == 1 and len(seen) == 3:
                cut(opened[0])
        return opened, seen
    opened, seen = asyncio.run(run())
    assert len(opened) == 2 and seen[-1].seq == COUNT - 1
    assert all((labels(a) == expected[a.seq]).all() for a in seen)


def test_an_exported_state_continues_with_the_same_masks(daemon, tiny_model, frames, expected, tmp_path):
    """On the same daemon, and on another one."""
    stream_masks(daemon, "export", map(rgb, frames[:6]))
    client(daemon).save_state("export", tmp_path / "state")
    with Daemon(tiny_model, tmp_path / "s") as other:
        for d in (daemon, other):
            client(d).open_stream("import")
            client(d).restore_state("import", tmp_path / "state")
            assert_masks(stream_masks(d, "import", map(rgb, frames[6:])), expected[6:])


def test_a_deleted_stream_says_bye(daemon):
    c = client(daemon)
    with c.stream("deleted") as s:
        c.delete_stream("deleted")
        with pytest.raises(ConnectionLost) as lost:
            list(s.events())
    assert lost.value.code == 4004 and lost.value.bye == "deleted"


def test_what_was_answered_before_the_connection_went_is_given(daemon, frames):
    """Also where the next frame, which cannot be sent any more, is the first to tell of the loss."""
    async def run() -> list:
        async with async_client(daemon).stream("early", credit=3) as s:
            gone = asyncio.Event()

            async def source():
                for f in frames[:3]:
                    yield rgb(f)
                await gone.wait()
                yield rgb(frames[3])

            got, answers = [], s.masks(source())
            got.append((await answers.__anext__()).seq)
            async with s._changed:
                await s._changed.wait_for(lambda: not s.in_flight)
            assert (await asyncio.to_thread(daemon.request, "DELETE", "/v1/streams/early")).status == 204
            await s._reader
            gone.set()
            await asyncio.wait([t for t in asyncio.all_tasks() if t.get_coro().__name__ == "_send_all"])
            with pytest.raises(ConnectionLost, match="deleted"):
                async for answer in answers:
                    got.append(answer.seq)
            return got
    assert asyncio.run(run()) == [0, 1, 2]


def test_a_drain_answers_what_is_in_flight(tiny_model, tmp_path, frames):
    with Daemon(tiny_model, tmp_path / "s") as d:
        with client(d).stream("drain", format="raw") as s:
            for f in frames[:4]:
                s.send(rgb(f))
            eventually(lambda: s.stats()["received"] == 4)
            d.process.send_signal(signal.SIGTERM)
            got = []
            with pytest.raises(ConnectionLost) as lost:
                for event in s.events():
                    got.append(event)
        assert lost.value.bye == "drain" and lost.value.code == 1001
        assert [e.seq for e in got if isinstance(e, Answer)] == [0, 1, 2, 3]
        assert d.process.wait(60) == 0


def test_connections_that_vanish_leave_nothing_behind(tiny_model, tmp_path, frames):
    rng = np.random.default_rng(5)
    with Daemon(tiny_model, tmp_path / "s", "--ws-timeout", "600") as d:
        async def one(number):
            s = async_client(d).stream(f"gone-{number % 5}", takeover=True, drop=("none", "oldest")[number % 2])
            try:
                await s.open()
                for f in frames[:rng.integers(0, 5)]:
                    await s.send(rgb(f))
                await asyncio.sleep(rng.random() * 0.05)
                cut(s)
                await s.close()
            except (ConnectionLost, Tv3sError, OSError, asyncio.TimeoutError):
                pass

        async def run():
            for i in range(6):
                await asyncio.gather(*(one(10 * i + n) for n in range(10)))
        asyncio.run(run())
        eventually(lambda: d.metric('tv3sd_connections{protocol="ws"}') == 0)
        for stage in ("decode", "engine", "encode"):
            eventually(lambda: d.metric(f'tv3sd_queue_depth{{stage="{stage}"}}') == 0)
        for s in client(d).streams():
            assert not s["connected"]
            client(d).delete_stream(s["id"])
        eventually(lambda: d.metric("tv3sd_state_bytes") == 0)


def test_idle_connections_are_cheap(tiny_model, tmp_path):
    count = 20 if SANITIZED else 300

    def memory(pid):
        out = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
        return int(out.stdout)

    with Daemon(tiny_model, tmp_path / "s") as d:
        async def run():
            held = [Raw(d, f"idle-{i}", ping_interval=None) for i in range(count)]
            await held[0].__aenter__()
            before = memory(d.process.pid)
            for c in held[1:]:
                await c.__aenter__()
            assert d.metric('tv3sd_connections{protocol="ws"}') == count
            if not SANITIZED:
                assert memory(d.process.pid) - before < 40 * count  # KiB
            await asyncio.gather(*(c.socket.close() for c in held))
        asyncio.run(run())
