"""What the READMEs and docs/curl.md tell people to type, typed: every line of curl, Python and JavaScript."""
from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile

import pytest

from browser import Browser
from conftest import HERE
from daemon import PATIENCE, TV3SD, Daemon

ROOT = os.path.join(HERE, "..")
MODEL, CLIP = (os.path.join(ROOT, "models", name) for name in ("street.safetensors", "street.mp4"))


@pytest.fixture
def daemon(tmp_path):
    with Daemon(MODEL, tmp_path / "spool") as d:
        yield d


@pytest.fixture
def folder(tmp_path):
    """Where the reader stands: the repository's models, some frames."""
    os.symlink(os.path.join(ROOT, "models"), tmp_path / "models")
    (tmp_path / "frames").mkdir()
    subprocess.run(["ffmpeg", "-v", "error", "-i", CLIP, "-frames:v", "4", tmp_path / "frames/%03d.jpg"], check=True)
    shutil.copy(tmp_path / "frames/001.jpg", tmp_path / "frame.jpg")
    return tmp_path


def blocks(path: str, language: str) -> str:
    with open(os.path.join(ROOT, path)) as f:
        return "".join(re.findall(rf"^```{language}\n(.*?)^```", f.read(), re.M | re.S))


def shell(daemon, folder, lines: str) -> str:
    """Types lines of curl, and gives what is shown; an error of any is the test's."""
    begin = """set -euo pipefail
    curl() { case "$1" in -*f) command curl "$@" ;; *) command curl --fail-with-body "$@" ;; esac; }
    """
    done = subprocess.run(["bash", "-c", begin + lines.replace("localhost:8080", f"localhost:{daemon.http_port}")],
                          cwd=folder, env={**os.environ, "no_proxy": "*"}, capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr)
    return done.stdout


def test_curl_before_7_84_has_the_upload_from_its_json(daemon, folder):
    line = re.search(r"^    (job=/v1/.*)$", open(os.path.join(ROOT, "docs/curl.md")).read(), re.M)[1]
    shell(daemon, folder, f"""curl -sSf -o job.json -F file=@models/street.mp4 localhost:8080/v1/videos
    {line}
    curl -f "localhost:8080$job"
    """)


def test_the_readmes_key_opens_the_daemon(folder):
    """Its three lines, with a port and a host of ours."""
    make, start, ask = re.search(r"^```bash\n(key=.*?)^```", open(os.path.join(ROOT, "README.md")).read(), re.M | re.S)[1].splitlines()
    os.symlink(os.path.dirname(TV3SD), folder / "build")
    key = subprocess.run(["bash", "-c", make + "; printf %s \"$key\""], cwd=folder, capture_output=True, text=True, check=True).stdout
    flags = shlex.split(start)[1:]
    flags[flags.index("keys.json")] = str(folder / "keys.json")
    with Daemon(MODEL, folder / "spool", *flags) as d:
        assert d.get("/v1/models").status == 401
        done = subprocess.run(["bash", "-c", ask.replace("HOST:8080", f"127.0.0.1:{d.http_port}")], cwd=folder,
                              env={**os.environ, "key": key, "no_proxy": "*"}, capture_output=True, text=True, timeout=PATIENCE)
        assert '"street"' in done.stdout, done


def test_curl_in_the_readme(daemon, folder):
    said = shell(daemon, folder, blocks("README.md", "sh"))
    assert said.rstrip().splitlines()[-2] == "event: end" and '"succeeded"' in said
    assert (folder / "overlay-curl.mp4").read_bytes()[4:8] == b"ftyp"


def calls(lines: list[str]) -> set[tuple[str, str]]:
    """(method, path as openapi.json writes it)"""
    found = set()
    for line in lines:
        line = re.sub(r"^job=\$\((.*)\)$", r"\1", line).replace("$job", "/v1/videos/{id}")
        words = shlex.split(line, comments=True)
        path = next(w for w in words if w.startswith("localhost:8080"))[len("localhost:8080"):].split("?")[0]
        path = path.replace("/cam-7", "/{id}")
        path = path.replace("/masks/7", "/masks/{n}").replace("/models/street", "/models/{name}")
        method = words[words.index("-X") + 1] if "-X" in words else "PUT" if "-T" in words else \
            "POST" if "-F" in words else "GET"
        found.add((method, path))
    return found


def test_curl_for_every_call(daemon, folder):
    lines = [line for line in blocks("docs/curl.md", "sh").splitlines() if line]
    with open(os.path.join(ROOT, "proto/openapi.json")) as f:
        paths = json.load(f)["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods
                 if method in ("get", "put", "post", "delete") and not path.endswith("/ws")}
    assert calls(lines) == described
    shell(daemon, folder, "\n".join(lines))
    assert len(zipfile.ZipFile(folder / "masks.zip").namelist()) == 150
    assert (folder / "head.zip").read_bytes() == (folder / "masks.zip").read_bytes()[:1024]
    job = json.loads((folder / "job.json").read_text())["id"]
    assert daemon.get("/v1/videos/" + job).status == 404


def python(daemon, folder, code: str) -> str:
    code = re.sub(r"(http://[a-z0-9.]+):8080", rf"\1:{daemon.http_port}", code)
    assert str(daemon.http_port) in code
    path = [os.path.join(ROOT, "clients/python"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


JPEGS = """
from pathlib import Path
jpegs = [path.read_bytes() for path in sorted(Path("frames").glob("*.jpg"))]
"""


def test_python_in_the_clients_readme(daemon, folder):
    """All of it, one after the other."""
    said = python(daemon, folder, JPEGS + blocks("clients/python/README.md", "python"))
    assert "150 of 150 frames" in said and "404 not-found" in said and "got 0\n" in said
    assert (folder / "street_masks.mp4").read_bytes()[4:8] == b"ftyp" and (folder / "000003.png").exists()
    assert (folder / "cam-7.safetensors").stat().st_size > 1000


def test_python_in_the_readme(daemon, folder):
    said = python(daemon, folder, blocks("README.md", "python"))
    assert said.splitlines()[-1] == "150 of 150 frames"
    assert (folder / "overlay-python.mp4").read_bytes()[4:8] == b"ftyp"
    assert [(folder / f"{i}.png").read_bytes()[:4] for i in range(4)] == [b"\x89PNG"] * 4


JS = """
const [texts, done] = arguments;
const [clip, photo] = texts.map((text) => new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]));
(async () => {
    const file = clip, jpeg = photo, picture = await createImageBitmap(photo), drawn = [];
    const draw = (labels, width, height, ms) => drawn.push([labels.length, width, height]);
    %s
    return {frames: job.frames.done, time, first: [labels.length, width, height], drawn, last_seq, classes: classes.length};
})().then(done, (error) => done(String(error)));"""


def test_javascript_in_the_clients_readme(daemon, folder):
    """All of it, one after the other, on a page of the daemon."""
    lines = blocks("clients/js/README.md", "js").replace(":8080", f":{daemon.http_port}")
    lines = re.sub(r'^import (\{.*\}) from "\./(.*)";', r'const \1 = await import("/\2");', lines, flags=re.M)
    given = [base64.b64encode(open(path, "rb").read()).decode() for path in (CLIP, folder / "frame.jpg")]
    with Browser(folder / "chromium") as b:
        b.open(daemon)
        out = b.driver.execute_async_script(JS % lines, given)
        assert not b.log()
    assert isinstance(out, dict), out
    area = [256 * 160, 256, 160]
    assert (out["frames"], out["first"], out["drawn"]) == (150, area, [area, area])
    assert (out["time"], out["last_seq"], out["classes"]) == (0, -1, len(daemon.json("/v1/models/street")["classes"]))
    assert daemon.get("/v1/streams/cam-8/state").body == daemon.get("/v1/streams/cam-7/state").body
