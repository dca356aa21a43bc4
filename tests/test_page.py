"""The web page in a real browser before the real daemon: its files, the keyboard, what the server's view says. It asks
nobody else for anything."""
from __future__ import annotations

import gzip
import os
import re

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from browser import RECORD
from daemon import Daemon
from page_rig import chromium, clip, daemon, page, succeeded, upload  # noqa: F401


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


def test_the_policy_names_the_websocket_and_only_that(tiny_model, tmp_path):
    def connect(host):
        policy = d.get("/", Host=host).headers["Content-Security-Policy"]
        assert policy.count(";") == 7 and "unsafe" not in policy and "*" not in policy
        return re.search(r"connect-src ([^;]*);", policy)[1].split()
    with Daemon(tiny_model, tmp_path / "s", "--open-access", "true") as d:
        ws = d.ws_port
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
