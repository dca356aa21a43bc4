"""Headless Chromium before the daemon's page, with what it logs and asks for."""
from __future__ import annotations

import json
import time

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from daemon import PATIENCE

FLAGS = ("--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync --disable-default-apps --disable-dev-shm-usage "
         "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream "
         "--autoplay-policy=no-user-gesture-required --force-color-profile=srgb").split()

# Everything that goes over WebSockets, in order: ["sent", seq, bytes] and ["got", seq] of answers.
RECORD = """
if (!window.wire) {
    window.wire = [];
    const send = WebSocket.prototype.send, Plain = WebSocket, seq = (b) => Number(new DataView(b).getBigInt64(8, true));
    WebSocket.prototype.send = function (data) {
        if (data instanceof ArrayBuffer)
            wire.push({kind: "sent", seq: seq(data), payload: new Uint8Array(data.slice(32)),
                       codec: new Uint8Array(data)[6], key: (new Uint8Array(data)[7] & 1) !== 0});
        return send.call(this, data);
    };
    window.WebSocket = class extends Plain {
        constructor(...args) {
            super(...args);
            this.addEventListener("message", ({data}) => data instanceof ArrayBuffer && wire.push({kind: "got", seq: seq(data)}));
        }
    };
    window.drawn = [];
    const stage = document.tv3s.live.stage, shown = stage.onmask;
    stage.onmask = (mask) => { drawn.push({seq: mask.seq, labels: mask.labels}); shown(mask); };
}"""

# The film of an upload counts as loaded only when its job has ended.
SLOW_FILM = """
window.slow = false;
import("/film.js").then(({Film}) => {
    const ready = Film.prototype.ready;
    Film.prototype.ready = async function () {
        const there = await ready.call(this);
        while (document.tv3s.video.player.job?.state !== "succeeded")
            await new Promise((resolve) => setTimeout(resolve, 5));
        return there;
    };
    window.slow = true;
});"""


class Browser:
    """`with Browser(folder) as b`: only 127.0.0.1 has a name there."""

    def __init__(self, profile, *flags, size=(1280, 800)):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in (*FLAGS, *flags, f"--user-data-dir={profile}", "--window-size=%d,%d" % size,
                     "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
        self.driver.set_script_timeout(PATIENCE)
        self.driver.get("about:blank")
        self.driver.get_log("performance")  # the page of a new tab, the browser's own
        self.console, self.urls = [], []

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_):
        self.driver.quit()

    # ---- the page
    def open(self, daemon, address="") -> None:
        self.driver.get("about:blank")
        self.driver.get(f"http://127.0.0.1:{daemon.http_port}/{address}")
        self.wait("document.documentElement.dataset.ready")

    def js(self, script: str, *args):
        return self.driver.execute_script(script, *args)

    def get(self, expression: str):
        return self.js(f"return {expression}")

    def wait(self, expression: str):
        """The expression's value as soon as it is true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if value := self.get(expression):
                return value
            time.sleep(0.02)
        raise AssertionError(f"{expression} does not come true; the page says {self.get('document.body.innerText')!r}; "
                             f"console: {self.log()}")

    def by(self, css: str):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        return self.by(css).text

    def bytes(self, expression: str) -> bytes:
        """A typed array of the page."""
        return self.get("(a => { let s = ''; for (let i = 0; i < a.length; i += 8192) "
                        f"s += String.fromCharCode(...a.subarray(i, i + 8192)); return s; }})({expression})"
                        ).encode("latin-1")

    # ---- what happened
    def log(self) -> list[str]:
        """Everything on the console so far that is no plain message."""
        self.console += [e["message"] for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")
                         and "willReadFrequently" not in e["message"]]  # the tests read canvases back, not the page
        return self.console

    def forget(self) -> None:
        """Leaves the page, and what it left behind."""
        self.driver.get("about:blank")
        self.driver.get_log("browser"), self.driver.get_log("performance")
        self.console.clear(), self.urls.clear()

    def requests(self) -> list[str]:
        """Every address that was asked for so far."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.urls.append(message["params"]["request"]["url"])
            elif message["method"] == "Network.webSocketCreated":
                self.urls.append(message["params"]["url"])
        return self.urls
