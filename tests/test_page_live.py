"""Live streams on the page: what it draws is what `tv3s segment` says."""
from __future__ import annotations

import os
import re

import numpy as np

import cases
import masks
from browser import RECORD
from conftest import CLASSES, PALETTE
from daemon import Daemon
from live import Raw
from page_rig import X264, chromium, clip, daemon, drawn, page, tool  # noqa: F401
from proxy import Proxy


def live(page, stream, video=None, **settings) -> None:
    """Chooses source and settings and starts; frames go as PNG."""
    page.by("#tab-live").click()
    page.js(RECORD)
    if video:
        page.js("document.querySelector('input[value=file]').click()")
        page.by("#live-file").send_keys(os.path.abspath(video))
    for name, value in {"stream-id": stream, "live-encoding": "image/png", **settings}.items():
        page.js("const e = document.getElementById(arguments[0]); e.value = arguments[1]; "
                "e.dispatchEvent(new Event('change', {bubbles: true}))", name.replace("_", "-"), value)
    page.by("#live-start").click()
    page.wait("document.tv3s.live.stream || !document.querySelector('#notice').hidden")


def stopped(page) -> None:
    page.by("#live-start").click()
    page.wait("document.querySelector('#live-words').textContent.startsWith('Stopped')")


def sent_frames(page) -> dict[int, bytes]:
    """By number; of a number that was given again after a loss, what was sent last."""
    numbers = page.get("wire.filter(w => w.kind === 'sent').map(w => w.seq)")
    return {n: page.bytes(f"wire.filter(w => w.kind === 'sent')[{i}].payload") for i, n in enumerate(numbers)}


def check_drawn(page, model, folder, applied=None) -> None:
    """Every mask that was drawn is the one `tv3s segment` gives for the same PNG files."""
    frames = sent_frames(page)
    os.mkdir(folder / "frames")
    for i, n in enumerate(sorted(applied if applied is not None else frames)):
        (folder / "frames" / f"{i:06d}.png").write_bytes(frames[n])
    place = {n: i for i, n in enumerate(sorted(applied if applied is not None else frames))}
    want = tool(model, folder / "frames", f"{folder}/want/")
    numbers = page.get("drawn.map(d => d.seq)")
    assert numbers == sorted(numbers) and len(numbers) > 5
    for k, n in enumerate(numbers):
        assert page.bytes(f"drawn[{k}].labels") == want[place[n]].tobytes(), n


def test_a_live_video_has_the_masks_of_the_tool_drawn_over_it(page, tiny_model, clip, tmp_path):
    live(page, "film", clip, live_credit=3)
    page.wait("drawn.length >= 20")
    stopped(page)
    check_drawn(page, tiny_model, tmp_path)
    np.testing.assert_array_equal(drawn(page, "live"), np.frombuffer(page.bytes("drawn.at(-1).labels"), np.uint8).reshape(64, 96))
    rows = page.get("[...document.querySelectorAll('#live-look li')].map(r => [r.querySelector('.name').textContent, "
                    "r.querySelector('.share').textContent])")
    assert [name for name, _ in rows] == CLASSES
    assert round(sum(float(share.split()[0]) for _, share in rows if share != "–"), 6) == 100
    counts = np.bincount(drawn(page, "live").ravel(), minlength=5) / 64 / 96
    for (_, share), exact in zip(rows, counts):
        assert abs((0 if share == "–" else float(share.split()[0]) / 100) - exact) < 0.001


def test_frames_beyond_the_credit_are_held_back(page, tmp_path):
    """Pictures that take longer than they are shown, with one frame in flight: the daemon would close at the second."""
    big = masks.video(tmp_path / "big.mp4", np.kron(cases.frames((64, 96), 16, 5), np.ones((1, 8, 8, 1), np.uint8)), *X264, rate=50)
    live(page, "held-back", big, live_credit=1, live_size="0", live_encoding="image/jpeg")
    page.wait("drawn.length >= 5 && Number(document.querySelector('#live-skipped').textContent) > 5")
    stopped(page)
    assert page.text("#live-dropped") == "0"
    kinds = page.get("wire.map(w => w.kind)")
    assert kinds[:10] == ["sent", "got"] * 5 and kinds[-1] == "got"


def test_the_colours_on_the_mask_are_those_of_the_legend(page, clip):
    live(page, "colours", clip)
    page.wait("drawn.length >= 2")
    stopped(page)
    labels = drawn(page, "live")
    rgba = np.frombuffer(page.bytes("document.querySelector('#live-stage .mask').getContext('2d')"
                                    ".getImageData(0, 0, 96, 64).data"), np.uint8).reshape(64, 96, 4)
    np.testing.assert_array_equal(rgba[..., :3], np.array(PALETTE, np.uint8)[labels])
    assert (rgba[..., 3] == 255).all()
    shown = int(np.bincount(labels.ravel()).argmax())
    page.by(f"#live-look li[data-label='{shown}'] button").click()  # that class off
    alpha = np.frombuffer(page.bytes("document.querySelector('#live-stage .mask').getContext('2d')"
                                     ".getImageData(0, 0, 96, 64).data"), np.uint8).reshape(64, 96, 4)[..., 3]
    np.testing.assert_array_equal(alpha, np.where(labels == shown, 0, 255))
    page.js("const s = document.querySelector('#live-look input[type=range]'); s.value = 20; "
            "s.dispatchEvent(new Event('input'))")
    assert page.get("getComputedStyle(document.querySelector('#live-stage .mask')).opacity") == "0.2"


def test_the_camera(page):
    live(page, "camera", live_size="240", live_encoding="image/jpeg")
    page.wait("drawn.length >= 5 && document.querySelector('#live-fps').textContent !== '–'")
    assert drawn(page, "live").shape[0] == 240
    for figure in ("#live-p50", "#live-p99"):
        assert re.fullmatch(r"[\d.]+ ms", page.text(figure))
    assert re.search(r"engine [\d.]+ ms", page.text("#live-stages-words"))
    stopped(page)


def test_a_stream_goes_on_under_its_id(page, daemon, tiny_model, clip, tmp_path):
    live(page, "goes-on", clip)
    page.wait("drawn.length >= 6")
    stopped(page)
    last = int(page.text("#live-seq"))
    assert daemon.json("/v1/streams/goes-on")["last_seq"] == last
    assert page.get("location.hash") == "#live/goes-on"
    page.by("#live-start").click()
    page.wait(f"drawn.at(-1).seq >= {last + 6}")
    page.js("for (const i of [1, 2]) document.querySelector('#live-start').click()")  # off and on at once
    count = page.get("drawn.length")
    page.wait(f"drawn.length >= {count + 6}")
    stopped(page)
    check_drawn(page, tiny_model, tmp_path)
    page.open(daemon, "#live/goes-on")  # another day
    assert page.get("document.querySelector('#stream-id').value") == "goes-on"


def test_reset_empties_the_memory(page, clip):
    live(page, "reset", clip)
    page.wait("drawn.length >= 4")
    page.js("window.fresh = []; document.tv3s.live.stream.addEventListener('mask', ({detail}) => fresh.push(detail.fresh))")
    page.by("#live-reset").click()
    page.wait("fresh.includes(true)")
    stopped(page)
    assert page.get("fresh.filter(f => f).length") == 1


def test_a_drop_policy_is_told_to_the_daemon_and_drops_are_counted(page, daemon, clip, tmp_path):
    page.by("#tab-live").click()
    live(page, "drops", clip, live_drop="newest", live_credit=1)
    page.wait("drawn.length >= 3")
    page.js("for (let i = 0; i < 40; i++) document.tv3s.live.stream.send(wire.find(w => w.kind === 'sent').payload)")
    page.wait("Number(document.querySelector('#live-dropped').textContent) > 0")
    stopped(page)
    assert daemon.metric('tv3sd_dropped_total{reason="newest"}') >= int(page.text("#live-dropped")) > 0


def test_a_lost_connection_comes_back_to_the_same_state(chromium, tiny_model, clip, tmp_path):
    with Proxy() as proxy, Daemon(tiny_model, tmp_path / "spool", "--ws-url", f"ws://127.0.0.1:{proxy.port}") as d:
        proxy.target = d.ws_port
        chromium.open(d)
        live(chromium, "lost", clip)
        chromium.js("window.hellos = []; window.lost = [];"
                    "document.tv3s.live.stream.addEventListener('open', ({detail}) => hellos.push(detail));"
                    "document.tv3s.live.stream.addEventListener('lost', ({detail}) => lost.push(detail.words));")
        chromium.wait("drawn.length >= 6")
        proxy.cut()
        chromium.wait("hellos.some(h => h.resumed && h.last_seq >= 5)")
        before = chromium.get("drawn.length")
        chromium.wait(f"drawn.length >= {before + 6}")
        stopped(chromium)
        assert chromium.get("lost[0]") == "The connection was lost."
        check_drawn(chromium, tiny_model, tmp_path)
        chromium.forget()  # a WebSocket that breaks is logged by the browser itself


def test_a_stream_that_another_has_is_said_so_and_may_be_taken_over(page, daemon, clip):
    import asyncio

    async def other():
        async with Raw(daemon, "taken") as c:
            live(page, "taken", clip)
            page.wait("!document.querySelector('#live-takeover').hidden")
            assert "Another connection has this stream." in page.text("#notice")
            page.by("#live-takeover").click()
            bye = await c.json()
            assert (bye["type"], bye["reason"]) == ("bye", "takeover")
        page.wait("drawn.length >= 3")
        async with Raw(daemon, "taken?takeover=1"):
            page.wait("document.querySelector('#live-words').textContent.includes('has taken this stream')")
    page.allowed = "WebSocket connection to .* failed"
    asyncio.run(other())
    page.wait("document.querySelector('#live-start').textContent === 'Start'")


def test_wrong_settings_are_said_in_words(page):
    page.by("#tab-live").click()
    page.js("document.querySelector('#stream-id').value = 'a/b'")
    page.by("#live-start").click()
    assert "A stream ID is" in page.text("#notice")
    page.js("document.querySelector('#stream-id').value = 'ab'; document.querySelector('input[value=file]').click()")
    page.by("#live-start").click()
    assert page.text("#notice p") == "Choose a video file first."
