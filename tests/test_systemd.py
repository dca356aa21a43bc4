"""The units as `make install` puts them there, in systemd's own judgement; sockets that it passes. The package in a
booted system is `make system-test`."""
from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from balancers import free_port
from conftest import BUILD, HERE
from daemon import PATIENCE, TV3SD
from live import Client

UNITS = ["tv3sd.service", "tv3sd-http.socket", "tv3sd-ws.socket"]


def run(*args, **more) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, args)], capture_output=True, text=True, timeout=PATIENCE, **more)


def make(target: str, **variables) -> None:
    r = run("make", "-C", os.path.join(HERE, ".."), target, f"BUILD={os.path.abspath(BUILD)}",
            *(f"{name}={value}" for name, value in variables.items()))
    assert r.returncode == 0, r.stderr


def files(folder) -> set:
    return {os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names}


@pytest.fixture
def installed(tmp_path):
    make("install-files", PREFIX=tmp_path / "usr", SYSCONFDIR=tmp_path / "etc")
    return tmp_path


def test_the_units_are_right(installed):
    """Every path in them exists, every setting is known."""
    r = run("systemd-analyze", "verify", *(installed / "usr/lib/systemd/system" / unit for unit in UNITS))
    assert "tv3sd" not in r.stderr and r.returncode == 0, r.stderr


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_sandbox_is_strict(installed, device):
    unit = installed / "usr/lib/systemd/system"
    assert (unit / "tv3sd.service.d/device.conf").read_text() == (installed / "usr/share/tv3sd/systemd/cpu.conf").read_text()
    (unit / "tv3sd.service.d/device.conf").write_text((installed / f"usr/share/tv3sd/systemd/{device}.conf").read_text())
    r = run("systemd-analyze", "security", "--offline=yes", f"--root={installed}", "tv3sd.service")
    exposure = re.search(r"Overall exposure level for tv3sd.service: ([0-9.]+)", r.stdout)
    assert exposure, r.stderr
    assert float(exposure[1]) < 2.0 and r.returncode == 0, r.stdout


def test_links_between_installed_documents_hold(installed):
    docs = installed / "usr/share/doc/tv3sd"
    pages = list(docs.rglob("*.md"))
    assert {"README.md", "docs/operating.md", "docs/curl.md", "clients/python/README.md"} <= \
        {str(page.relative_to(docs)) for page in pages}
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert "://" in link or (page.parent / link).exists(), (page, link)
    for name in ("deploy/nginx.conf", "deploy/haproxy.cfg", "deploy/prometheus/alerts.yml", "clients/js/tv3s.js"):
        assert (docs / name).read_bytes() == open(os.path.join(HERE, "..", name), "rb").read()
    assert run(sys.executable, "-c", "import tv3s_client", env={**os.environ, "PYTHONPATH": docs / "clients/python",
                                                           "PYTHONDONTWRITEBYTECODE": "1"}).returncode == 0


def test_the_installed_c_library_links(installed):
    (installed / "a.c").write_text('#include <tv3s_client.h>\n#include <stdio.h>\nint main(void)\n{\n'
                                   '    struct tv3s *t;\n    int r = tv3s_open(&(struct tv3s_options){0}, &t);\n'
                                   '    tv3s_close(t);\n    printf("%d\\n", r);\n}\n')
    libraries = run("pkg-config", "--libs", "libcurl", "libwebsockets", "jansson").stdout.split()
    sanitize = {"asan": "-fsanitize=address,undefined", "tsan": "-fsanitize=thread"}.get(os.path.basename(BUILD.rstrip("/")))
    built = run("cc", *([sanitize] if sanitize else []), "-I", installed / "usr/include", "-o", installed / "a", installed / "a.c",
                installed / "usr/lib/libtv3s_client.a", *libraries, "-lm")
    assert built.returncode == 0, built.stderr
    assert run(installed / "a").stdout == "0\n"


def test_what_is_installed_starts_and_goes_again(tmp_path):
    """The settings name files that are there; a second install leaves them; uninstall leaves them and nothing else."""
    where = {"PREFIX": tmp_path / "usr", "SYSCONFDIR": tmp_path / "etc"}
    make("install-files", **where)
    config = tmp_path / "etc/tv3sd/tv3sd.json"
    r = run(tmp_path / "usr/bin/tv3sd", "--config", config, "--check", cwd="/")
    assert r.returncode == 0 and "event=model_opened" in r.stderr
    assert run(tmp_path / "usr/bin/tv3s-client", "--help").returncode == 0
    config.write_text(config.read_text().replace('"http_port": 8080', '"http_port": 9000'))
    make("install-files", **where)
    assert '"http_port": 9000' in config.read_text()
    make("uninstall", **where)
    assert files(tmp_path) == {"etc/tv3sd/tv3sd.json"}


def test_the_daemon_takes_sockets_that_are_passed(tiny_model, tmp_path):
    """Nobody is refused before it listens by itself, which it does not."""
    http, ws = free_port(), free_port()
    keep = [f"--setenv={name}" for name in os.environ if name.endswith("SAN_OPTIONS") or name.startswith("OMP_")]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            ["systemd-socket-activate", f"--listen=127.0.0.1:{http}", f"--listen=127.0.0.1:{ws}", "--fdname=http:ws",
             *keep, TV3SD, "--model", tiny_model, "--spool", str(tmp_path / "spool"), "--http-port", "1", "--ws-port", "2"],
            stdin=subprocess.DEVNULL, stderr=log)
    try:
        end = time.monotonic() + PATIENCE
        while "Listening" not in (tmp_path / "log").read_text() or ":%d" % ws not in (tmp_path / "log").read_text():
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.02)
        c = Client(f"http://127.0.0.1:{http}", timeout=PATIENCE)
        assert c.ready() and c.server()["websocket"]["port"] == ws
        with c.stream("a") as s:
            assert s.hello["stream"] == "a"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
    assert f"http={http} ws={ws}" in (tmp_path / "log").read_text()


def test_a_passed_file_that_does_not_listen_is_refused(tiny_model, tmp_path):
    with socket.socket() as s:
        script = f"exec 3<&{s.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=ws GOMP_SPINCOUNT=1000; " \
                 f'exec "$@"'
        r = run("/bin/bash", "-c", script, "bash", TV3SD, "--model", tiny_model, "--spool", tmp_path / "s", "--http-port", "0",
                pass_fds=[s.fileno()])
    assert r.returncode == 1 and "none that listens" in r.stderr


def test_without_keys_the_message_names_the_socket_that_was_passed(tiny_model, tmp_path):
    with socket.socket() as s:
        s.bind(("0.0.0.0", 0))
        s.listen()
        script = f'exec 3<&{s.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=ws; exec "$@"'
        r = run("/bin/bash", "-c", script, "bash", TV3SD, "--model", tiny_model, "--spool", tmp_path / "s", "--http-port", "0",
                pass_fds=[s.fileno()])
    assert r.returncode == 2 and "not on that of the socket that systemd passed as ws;" in r.stderr, r.stderr
