"""Uploaded videos on the page: what it draws is what `tv3s segment` says."""
from __future__ import annotations

import re
import subprocess
import time

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

import cases
import masks
from browser import SLOW_FILM
from conftest import TV3S
from daemon import PATIENCE, Daemon
from page_rig import MODEL, X264, chromium, clip, daemon, drawn, long_clip, page, succeeded, tool, upload  # noqa: F401


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


def test_what_is_missing_of_a_video_is_said(page, daemon, clip, tmp_path):
    """Beside its name, to who sees it and to who hears it, and after a reload; of a whole video nothing is."""
    cut = tmp_path / "cut.mkv"
    masks.ffmpeg("-i", clip, "-c", "copy", cut)
    cut.write_bytes(cut.read_bytes()[:cut.stat().st_size * 8 // 10])
    upload(page, cut)
    succeeded(page)
    (warning,) = {job["warning"] for job in daemon.json("/v1/videos")["videos"]}
    words = "Warning: " + warning
    assert warning.startswith("the file is cut off: ") and page.text("#jobs .warning") == words
    assert page.by("#jobs .pick").accessible_name.endswith(words)
    assert page.by("#progress-words").get_attribute("role") == "status"
    said = page.wait("document.querySelector('#progress-words').textContent")
    assert re.fullmatch(r"cut\.mkv: succeeded, \d+ frames\. " + re.escape(words), said)
    page.open(daemon)
    page.wait("document.querySelector('#jobs .warning')")
    assert page.text("#jobs .warning") == words
    upload(page, clip)
    succeeded(page)
    assert page.text("#jobs li .warning") == ""
    assert page.wait("document.querySelector('#progress-words').textContent") == "clip.mp4: succeeded, 16 frames"


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


def test_who_watches_what_is_not_there_is_told(page):
    page.allowed = " 404 "
    page.js("""document.tv3s.client.watch("nobodys-job", () => {}, () => {}, ({status, type}) => { window.refused = [status, type]; });""")
    assert page.wait("window.refused") == [404, "/problems/not-found"]


def test_an_error_of_who_watches_is_his_own(page, clip):
    """It is not taken for a lost connection, and told again and again."""
    upload(page, clip)
    succeeded(page)
    page.allowed = "Uncaught .*mine"
    page.js("""const {client} = document.tv3s, mine = () => { throw new Error("mine"); };
        client.videos().then(([{id}]) => client.watch(id, () => {}, mine));""")
    end = time.monotonic() + PATIENCE
    while not any("mine" in line for line in page.log()) and time.monotonic() < end:
        time.sleep(0.02)
    assert ["mine" in line for line in page.log()] == [True]


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
