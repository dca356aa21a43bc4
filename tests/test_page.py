"""The web page in a real browser before the real daemon: what it draws is what `tv3s segment` says, and it asks
nobody else for anything."""
from __future__ import annotations

import gzip
import os
import re
import subprocess

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

import cases
import masks
from browser import RECORD, SLOW_FILM, Browser
from conftest import CLASSES, HERE, PALETTE, TV3S
from daemon import Daemon
from live import Raw
from proxy import Proxy

STREET = os.path.join(HERE, "../models/street.mp4")
MODEL = os.path.join(HERE, "../models/street.safetensors")
OURS = r"(http|ws)://127\.0\.0\.1:\d+/|blob:http://127\.0\.0\.1|about:|data:"
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "8")


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory):
    with Daemon(tiny_model, tmp_path_factory.mktemp("page") / "spool") as d:
        yield d


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("chromium")) as b:
        yield b


@pytest.fixture
def page(chromium, daemon):
    """The page, fresh. At the end: no error on the console, nothing asked of others."""
    chromium.forget()
    chromium.open(daemon)
    chromium.allowed = None
    yield chromium
    errors = [e for e in chromium.log() if not (chromium.allowed and re.search(chromium.allowed, e))]
    outside = [u for u in chromium.requests() if not re.match(OURS, u)]
    chromium.forget()
    for job in daemon.json("/v1/videos")["videos"]:
        daemon.request("DELETE", "/v1/videos/" + job["id"])
    assert errors == [] and outside == []


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """Sixteen frames of 96x64, each unlike the others."""
    return masks.video(tmp_path_factory.mktemp("clip") / "clip.mp4", cases.frames((64, 96), 16, 5), *X264)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory) -> str:
    """The bundled clip six times: 900 frames."""
    out = tmp_path_factory.mktemp("long") / "street6.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-stream_loop", "5", "-i", STREET, "-c", "copy",
                    "-movflags", "+faststart", out], check=True)
    return str(out)


def tool(model, source, out, *options) -> list[np.ndarray]:
    """The masks of `tv3s segment`."""
    subprocess.run([TV3S, "segment", model, source, "-o", out, "--format", "png", *options], check=True, capture_output=True)
    return masks.zipped(out, PALETTE) if str(out).endswith(".zip") else masks.folder(out, PALETTE)


def drawn(page, which="video") -> np.ndarray:
    mask = f"document.tv3s.{which}.stage.mask"
    w, h = page.get(f"[{mask}.width, {mask}.height]")
    return np.frombuffer(page.bytes(mask + ".labels"), np.uint8).reshape(h, w)


def upload(page, path) -> None:
    page.by("#file").send_keys(os.path.abspath(path))


def succeeded(page) -> None:
    """And at rest on the first frame: a page that follows a job goes on by itself."""
    page.wait("document.querySelector('#results a') && !document.querySelector('#seek').disabled")
    page.by("#seek").send_keys(Keys.END, Keys.HOME)
    page.wait("document.tv3s.video.player.frame === 0")


# ----------------------------------------------------------------------------------------------------- the files
def test_every_file_comes_with_its_type_its_tag_and_a_policy(daemon):
    r = daemon.get("/", Accept_Encoding="gzip")
    assert r.status == 200 and r.headers["Content-Type"] == "text/html; charset=utf-8"
    assert r.headers["Content-Encoding"] == "gzip"
    html = gzip.decompress(r.body).decode()
    assert daemon.get("/").body.decode() == html
    todo, seen = re.findall(r'(?:src|href)="([\w.]+)"', html), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        r = daemon.get("/" + name)
        assert r.status == 200, name
        if name in ("metrics", "openapi.json"):
            continue
        kind = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
        assert r.headers["Content-Type"] == kind[name.split(".")[-1]]
        assert r.headers["X-Content-Type-Options"] == "nosniff" and r.headers["Cache-Control"] == "no-cache"
        assert "default-src 'self'" in r.headers["Content-Security-Policy"]
        same = daemon.get("/" + name, If_None_Match=f'"x", {r.headers["ETag"]}')
        assert (same.status, same.body, same.headers["ETag"]) == (304, b"", r.headers["ETag"])
        assert daemon.get("/" + name, If_None_Match='"other"').status == 200
        todo += re.findall(r'from "\./([\w.]+)"', r.body.decode())
    assert {"app.js", "tv3s.js", "mask.js", "style.css", "favicon.svg"} <= seen


def test_nothing_is_inline(daemon):
    html = daemon.get("/").body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|https?://", html)


def test_the_policy_names_the_websocket_and_only_that(daemon):
    def connect(host):
        policy = daemon.get("/", Host=host).headers["Content-Security-Policy"]
        assert policy.count(";") == 7 and "unsafe" not in policy and "*" not in policy
        return re.search(r"connect-src ([^;]*);", policy)[1].split()
    ws = daemon.ws_port
    assert connect("127.0.0.1:80") == ["'self'", f"ws://127.0.0.1:{ws}", f"wss://127.0.0.1:{ws}"]
    assert connect("tv.example") == ["'self'", f"ws://tv.example:{ws}", f"wss://tv.example:{ws}"]
    for strange in ("[::1]:80", "a;script-src b", "a b", "*", "x" * 300):
        assert connect(strange) == ["'self'", "ws:", "wss:"]


def test_the_server_says_where_its_websocket_is(daemon, tiny_model, tmp_path):
    told = daemon.json("/v1/server")
    assert told["websocket"] == {"url": None, "port": daemon.ws_port, "protocol": "tv3s.v1"}
    assert told["limits"]["credit"] == 64 and told["version"]
    with Daemon(tiny_model, tmp_path / "spool", "--ws-url", "wss://tv.example/tv3s") as d:
        assert d.json("/v1/server")["websocket"]["url"] == "wss://tv.example/tv3s"
        assert "connect-src 'self' wss://tv.example;" in d.get("/").headers["Content-Security-Policy"]


# -------------------------------------------------------------------------------------------------- uploaded videos
def test_masks_appear_while_the_bundled_clip_is_worked_on(chromium, long_clip, tmp_path):
    with Daemon(MODEL, tmp_path / "spool") as d:
        chromium.open(d)
        chromium.js("""window.seen = [];
            const {stage, player} = document.tv3s.video, shown = stage.onmask;
            stage.onmask = (mask) => { seen.push([player.job.state, player.job.frames.done, player.job.frames.total]); shown(mask); };""")
        upload(chromium, long_clip)
        chromium.wait("seen.length >= 5")
        state, done, total = chromium.get("seen[0]")
        assert state == "running" and 0 < done < total == 900
        assert re.match(r"frame \d+ of 900, 256 × 160", chromium.text("#jobs .state"))
        chromium.by("#jobs .quiet").click()  # Cancel
        chromium.wait("document.querySelector('#jobs-section').hidden")
        assert d.json("/v1/videos")["videos"] == []
        assert chromium.log() == []


def test_what_is_on_the_stage_is_what_the_tool_says(page, daemon, tiny_model, clip, tmp_path):
    upload(page, clip)
    succeeded(page)
    want = tool(tiny_model, clip, tmp_path / "want.zip")
    seek = page.by("#seek")
    for i in range(16):
        np.testing.assert_array_equal(drawn(page), want[i])
        if i < 15:
            seek.send_keys(Keys.ARROW_RIGHT)
            page.wait(f"document.tv3s.video.player.frame === {i + 1}")
    assert page.text("#position") == "16 / 16"
    shares = [float(s.split()[0]) for s in page.get(
        "[...document.querySelectorAll('#video-look .share')].map(s => s.textContent)") if s != "–"]
    assert round(sum(shares), 6) == 100


@pytest.mark.parametrize("codec", [X264, ("-vf", "setpts=PTS+gte(N\\,5)*0.31/TB+gte(N\\,9)*1.7/TB", "-fps_mode", "vfr", *X264),
                                   ("-c:v", "libvpx", "-b:v", "2M")], ids=["steady", "uneven", "webm"])
def test_the_picture_under_a_mask_is_its_frame(page, tmp_path, codec):
    """The browser's own decoder, jumped to the frame, against FFmpeg's; also where time goes in leaps."""
    clip = masks.video(tmp_path / ("clip.webm" if "libvpx" in codec else "clip.mp4"), cases.frames((64, 96), 16, 5), *codec)
    upload(page, clip)
    succeeded(page)
    rgb = subprocess.run(["ffmpeg", "-v", "error", "-i", clip, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
                         check=True, capture_output=True).stdout
    frames = np.frombuffer(rgb, np.uint8).reshape(16, 64, 96, 3).astype(float)
    for i in (0, 7, 8, 15, 3, 5, 9):
        page.js("const s = document.querySelector('#seek'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))", i)
        page.wait(f"document.tv3s.video.player.frame === {i}")
        got = np.frombuffer(page.bytes(
            "document.querySelector('#video-stage .picture').getContext('2d').getImageData(0, 0, 96, 64).data"),
            np.uint8).reshape(64, 96, 4)[..., :3]
        distance = np.abs(frames - got).mean(axis=(1, 2, 3))
        assert distance.argmin() == i, distance


def test_a_job_may_end_before_the_film_is_loaded(page, clip):
    page.js(SLOW_FILM)
    page.wait("slow")
    upload(page, clip)
    succeeded(page)
    page.by("#seek").send_keys(Keys.END)
    page.wait("document.querySelector('#position').textContent === '16 / 16'")


def test_it_plays_to_the_end_with_every_mask_on_its_frame(page, tiny_model, clip, tmp_path):
    upload(page, clip)
    succeeded(page)
    want = tool(tiny_model, clip, tmp_path / "want.zip")
    page.js("""window.played = [];
        const {stage, player} = document.tv3s.video, shown = stage.onmask;
        stage.onmask = (mask) => { shown(mask); played.push([player.frame, mask.labels]); };""")
    page.by("#play").click()
    page.wait("document.querySelector('#play').ariaPressed === 'false' && document.tv3s.video.player.frame === 15")
    order = page.get("played.map(p => p[0])")
    assert order == sorted(order) and order[-1] == 15
    for k, n in enumerate(order):
        assert page.bytes(f"played[{k}][1]") == want[n].tobytes()


def test_other_results_are_made_on_demand(page, daemon, tiny_model, clip, tmp_path):
    upload(page, clip)
    succeeded(page)
    for name, ending in (("overlay", "mp4"), ("rle", "jsonl"), ("labels", "mkv")):
        page.by(f"#results [data-format={name}] button").click()
        page.wait(f"document.querySelector('#results [data-format={name}] a')")
        link = page.by(f"#results [data-format={name}] a")
        assert link.get_attribute("download") == f"clip.{ending}"
        out = tmp_path / f"want.{ending}"
        subprocess.run([TV3S, "segment", tiny_model, clip, "-o", out, "--format", name], check=True, capture_output=True)
        assert daemon.get(link.get_attribute("href").split(str(daemon.http_port))[1]).body == out.read_bytes()
    assert len(page.driver.find_elements("css selector", "#jobs li")) == 1
    page.by("#jobs .quiet").click()  # Delete: all four
    page.wait("document.querySelector('#jobs-section').hidden")
    assert daemon.json("/v1/videos")["videos"] == []


def test_a_video_can_be_dropped(page, clip):
    data = list(open(clip, "rb").read())
    page.js("""const files = new DataTransfer();
        files.items.add(new File([new Uint8Array(arguments[0])], "dropped.mp4"));
        const at = document.querySelector("#drop");
        for (const type of ["dragover", "drop"])
            at.dispatchEvent(new DragEvent(type, {bubbles: true, cancelable: true, dataTransfer: files}));""", data)
    succeeded(page)
    assert "dropped.mp4" in page.text("#jobs")


def test_what_is_no_video_is_refused_in_words(page, clip, tmp_path):
    (tmp_path / "letter.txt").write_text("Dear daemon,\n" * 100)
    upload(page, tmp_path / "letter.txt")
    page.wait("!document.querySelector('#notice').hidden")
    assert page.by("#notice").get_attribute("role") == "alert"
    assert "letter.txt" in page.text("#notice") and "neither a video nor an image" in page.text("#notice")
    assert "neither a video nor an image" in page.text("#jobs .state")
    upload(page, clip)  # and it goes on
    succeeded(page)
    assert page.get("document.querySelector('#notice').hidden")


def test_videos_are_still_there_after_a_reload(page, daemon, tiny_model, clip, tmp_path):
    upload(page, clip)
    succeeded(page)
    page.open(daemon)
    page.wait("document.querySelector('#jobs .pick')")
    assert "clip.mp4" in page.text("#jobs")
    page.by("#jobs .pick").click()
    page.wait("document.tv3s.video.player.frame === 0")  # the masks alone: the file is not at hand
    want = tool(tiny_model, clip, tmp_path / "want.zip")
    np.testing.assert_array_equal(drawn(page), want[0])
    page.by("#play").click()
    page.wait("document.tv3s.video.player.frame === 15")
    np.testing.assert_array_equal(drawn(page), want[15])


@pytest.mark.parametrize("name", ["png", "raw", "rle", "labels"])
def test_the_client_reads_every_format_of_labels(page, daemon, tiny_model, clip, tmp_path, name):
    job = daemon.upload(clip, f"?format={name}")
    page.js(f"window.got = null; document.tv3s.client.video('{job['id']}')"
            ".then(job => document.tv3s.client.mask(job, 11)).then(mask => { window.got = mask; });")
    page.wait("window.got")
    assert page.bytes("got.labels") == tool(tiny_model, clip, tmp_path / "want.zip")[11].tobytes()
    assert page.get("got.time") == pytest.approx(11 / 25, abs=1e-6)


def test_every_filter_of_png_is_read(page):
    labels = np.random.default_rng(3).integers(0, 256, (23, 17), np.uint8)
    png = masks.filtered_png(labels)
    np.testing.assert_array_equal(masks.png(png), labels)  # Pillow agrees
    page.js("window.got = null; import('/tv3s.js').then(({decodeMask}) => decodeMask('png', new Uint8Array(arguments[0])))"
            ".then((mask) => { window.got = mask; });", list(png))
    assert page.wait("window.got && [got.width, got.height]") == [17, 23]
    assert page.bytes("got.labels") == labels.tobytes()


def test_broken_masks_are_refused(page):
    page.js("""window.told = null;
        const text = (o) => new TextEncoder().encode(JSON.stringify(o)), size = {width: 4, height: 4};
        const png = [137, 80, 78, 71, 13, 10, 26, 10];
        const broken = [["raw", new Uint8Array(15)], ["rle", text({size: [4, 4], runs: [1, 15]})],
                        ["rle", text({size: [4, 4], runs: [1, 17]})], ["png", new Uint8Array(20)],
                        ["png", new Uint8Array(png)], ["png", new Uint8Array([...png, 0xff, 0, 0, 0, ...new Uint8Array(9)])],
                        ["overlay", new Uint8Array(20)]];
        import("/tv3s.js").then(async ({decodeMask}) => {
            const words = [];
            for (const [format, bytes] of broken)
                words.push(await decodeMask(format, bytes, size).then(() => "", (e) => e.message));
            window.told = words;
        });""")
    assert all(page.wait("window.told")), page.get("window.told")


# ------------------------------------------------------------------------------------------------------ live streams
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


# ------------------------------------------------------------------------------------------------------- everywhere
def press(page, *keys) -> None:
    for key in keys:
        ActionChains(page.driver).send_keys(key).perform()


def tab_to(page, css) -> None:
    """By Tab alone; each stop on the way is visible and has a visible focus and a name."""
    for _ in range(80):
        press(page, Keys.TAB)
        ok, what = page.js("""const e = document.activeElement, ring = e.closest("label.button, label.drop, .choice label") ?? e;
            const name = e.ariaLabel || e.textContent.trim() || [...(e.labels ?? [])].map(l => l.textContent).join("").trim();
            const style = getComputedStyle(ring), box = ring.getBoundingClientRect();
            return [e === document.body || (style.outlineStyle !== "none" && box.width > 0 && name !== ""), e.outerHTML];""")
        assert ok, what
        if page.js("return document.activeElement.matches(arguments[0])", css):
            return
    raise AssertionError(f"Tab does not come to {css}")


def test_the_keyboard_is_enough(page, clip):
    tab_to(page, "#tab-video")
    tab_to(page, "#drop-file")
    tab_to(page, "#file")
    upload(page, clip)  # the file dialogue is the system's
    succeeded(page)
    page.js("document.activeElement.blur()")
    tab_to(page, "#seek")
    press(page, Keys.END)
    page.wait("document.tv3s.video.player.frame === 15")
    press(page, Keys.HOME)
    page.wait("document.tv3s.video.player.frame === 0")
    press(page, " ")
    page.wait("document.tv3s.video.player.frame === 15")
    press(page, "m")
    assert page.get("document.querySelector('#video-stage .mask').hidden")
    tab_to(page, "#results a")
    tab_to(page, "#video-look input[type=range]")
    press(page, Keys.ARROW_LEFT)
    assert page.text("#video-look output") == "54 %"
    tab_to(page, "#video-look .legend button")
    press(page, " ")
    assert page.get("document.activeElement.ariaPressed") == "false"
    page.js("document.activeElement.blur()")
    tab_to(page, "#tab-video")
    press(page, Keys.ARROW_RIGHT)
    assert page.get("document.activeElement.id") == "tab-live" and page.by("#live").is_displayed()
    tab_to(page, "#source input")
    press(page, Keys.ARROW_RIGHT)
    tab_to(page, "#live-file")
    page.driver.switch_to.active_element.send_keys(os.path.abspath(clip))
    page.js(RECORD)
    tab_to(page, "#live-start")
    press(page, Keys.ENTER)
    page.wait("drawn.length >= 3")
    press(page, Keys.ENTER)
    page.wait("document.querySelector('#live-words').textContent.startsWith('Stopped')")


def test_the_server_view_says_what_the_metrics_say(page, daemon, clip):
    upload(page, clip)
    succeeded(page)
    daemon.request("PUT", "/v1/streams/some-camera")
    page.by("#tab-server").click()
    page.wait("document.querySelector('#board').innerText.includes('some-camera')")
    frames = sum(daemon.metric(f'tv3sd_frames_total{{kind="{kind}",outcome="ok"}}') for kind in ("live", "upload", "single"))
    tiles = dict(zip(page.get("[...document.querySelectorAll('.tiles dt')].map(e => e.textContent)"),
                     page.get("[...document.querySelectorAll('.tiles dd')].map(e => e.textContent)")))
    assert int(tiles["frames so far"].replace(",", "")) == frames
    assert tiles["engine"] == "ready" and int(tiles["streams idle"]) >= 1
    assert "tiny" in page.text("#board") and page.get("document.querySelector('#pulse').dataset.state") == "ready"
    daemon.request("DELETE", "/v1/streams/some-camera")
    page.wait("!document.querySelector('#board').innerText.includes('some-camera')")


def test_a_daemon_that_goes_away_is_said_so(chromium, tiny_model, tmp_path):
    with Daemon(tiny_model, tmp_path / "spool") as d:
        chromium.open(d)
        chromium.wait("document.querySelector('#pulse').dataset.state === 'ready'")
        d.stop()
        chromium.wait("document.querySelector('#pulse').dataset.state === 'wrong'")
        assert chromium.text("#pulse .text") == "The server cannot be reached."
        chromium.forget()  # the browser logs requests that are refused


def test_it_fits_narrow_screens_and_follows_the_systems_colours(page):
    backgrounds = set()
    for scheme in ("light", "dark"):
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                    {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        backgrounds.add(page.get("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2
    for width, height in ((360, 740), (768, 1024), (1600, 900)):
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
        for view in ("video", "live", "server"):
            page.by(f"#tab-{view}").click()
            assert page.get("document.documentElement.scrollWidth <= innerWidth"), (width, view)
            if width > 900:
                assert page.get("document.documentElement.scrollHeight <= innerHeight"), view
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
