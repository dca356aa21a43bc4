"""deploy/'s nginx and HAProxy as they are, but for the addresses of the replicas and their own."""
from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time

from conftest import HERE
from daemon import PATIENCE

DEPLOY = os.path.join(HERE, "../deploy")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Balancer:
    """`with Nginx(folder, daemons) as b`: replicas tv3sd-1 to tv3sd-3 are the daemons, more where there are."""
    SOURCE, COMMAND = "", []

    def __init__(self, folder, daemons, port=None):
        self.folder, self.port = str(folder), port or free_port()
        self.peers_port = free_port()
        os.makedirs(self.folder, exist_ok=True)
        self.configure(daemons)
        with open(self.path("log"), "w") as log:
            self.process = subprocess.Popen([*self.COMMAND], cwd=self.folder, stdout=log, stderr=log)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def configure(self, daemons) -> None:
        """Writes the file: a fourth replica is every line of the third once more, one that is not there has none."""
        with open(os.path.join(DEPLOY, self.SOURCE)) as f:
            text = f.read()
        assert text.count("tv3sd-3") == text.count("tv3sd-1")
        for i in range(4, len(daemons) + 1):
            text = re.sub(r"^.*tv3sd-3.*\n", lambda line: line[0] + line[0].replace("tv3sd-3", f"tv3sd-{i}")
                          .replace("id 3", f"id {i}"), text, flags=re.M)
        for i in range(len(daemons) + 1, 4):
            text = re.sub(rf"^.*tv3sd-{i}.*\n", "", text, flags=re.M)
        for i, d in enumerate(daemons, 1):
            text = text.replace(f"tv3sd-{i}:8080", f"{d.host}:{d.http_port}")
            text = text.replace(f"tv3sd-{i}:8081", f"{d.host}:{d.ws_port}")
        with open(self.path(self.SOURCE), "w") as f:
            f.write(self.adapt(text))

    def adapt(self, text: str) -> str:
        raise NotImplementedError

    def reload(self, daemons) -> None:
        raise NotImplementedError

    def log(self) -> str:
        with open(self.path("log")) as f:
            return f.read()

    def __enter__(self) -> "Balancer":
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log()
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return self
            except OSError:
                time.sleep(0.02)
        raise AssertionError(self.log())

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)


class Nginx(Balancer):
    SOURCE, COMMAND = "nginx.conf", ["/usr/sbin/nginx", "-e", "stderr", "-c", "nginx.conf", "-p", ".", "-g",
                                     "daemon off;"]

    def __init__(self, folder, daemons, port=None, tls=None):
        """`tls`: files of a certificate and its key, for the lines of TLS that the file has as comments; on tls_port."""
        self.tls, self.tls_port = tls, free_port() if tls else None
        super().__init__(folder, daemons, port)

    def adapt(self, text: str) -> str:
        if self.tls:
            for was, now in (("listen 443 ssl", f"listen 127.0.0.1:{self.tls_port} ssl"),
                             ("ssl_certificate     /etc/ssl/tv3sd.pem", f"ssl_certificate {self.tls[0]}"),
                             ("ssl_certificate_key /etc/ssl/private/tv3sd.key", f"ssl_certificate_key {self.tls[1]}")):
                assert text.count("# " + was) == 1, was
                text = text.replace("# " + was, now)
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):  # folders of its own
            os.makedirs(self.path(kind), exist_ok=True)
            text = text.replace("    access_log off;", f"    {kind}_temp_path {kind};\n    access_log off;")
        text = text.replace("/run/tv3sd/", "").replace("/run/nginx.pid", "nginx.pid")
        user = "user root;\n" if os.geteuid() == 0 else ""       # the folder is the test's
        return user + text.replace("listen 8080 reuseport", f"listen 127.0.0.1:{self.port} reuseport")

    def reload(self, daemons) -> None:
        """Workers that are new serve, when the old ones have been told to go."""
        def workers() -> set:
            pid = self.process.pid
            with open(f"/proc/{pid}/task/{pid}/children") as f:
                return set(f.read().split())
        before = workers()
        self.configure(daemons)
        self.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + PATIENCE
        while workers() & before and time.monotonic() < end:
            time.sleep(0.02)
        assert not workers() & before, self.log()


class Haproxy(Balancer):
    SOURCE = "haproxy.cfg"
    COMMAND = ["/usr/sbin/haproxy", "-W", "-S", "unix@master.sock", "-f", "haproxy.cfg"]

    def adapt(self, text: str) -> str:
        text = text.replace("bind :8080", f"bind 127.0.0.1:{self.port}")
        text = text.replace("127.0.0.1:10000", f"127.0.0.1:{self.peers_port}")
        return text.replace("maxconn 20000", "maxconn 2000")

    def master(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.path("master.sock"))
            s.sendall(command.encode() + b"\n")
            s.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: s.recv(65536), b"")).decode()

    def reload(self, daemons) -> None:
        def worker() -> str:
            return re.search(r"^(\d+)\s+worker", self.master("show proc"), re.M)[1]
        before = worker()
        self.configure(daemons)
        self.process.send_signal(signal.SIGUSR2)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if worker() != before:
                    return
            except OSError:
                pass  # the master starts itself again
            time.sleep(0.02)
        raise AssertionError(self.log())
