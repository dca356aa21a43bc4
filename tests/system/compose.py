"""compose.py COMPOSE.yaml: its services as processes, each with what the file gives it and no more. BUILDAH is the
command that has the image tv3sd:cpu.

No container engine runs here, so this does what one would: a network namespace for each service on one bridge, names in
/etc/hosts, mounts, read-only roots, users, environment, commands and published ports as docker-compose reads them from the
file. tv3sd's root is the image; nginx and Prometheus are Debian's, in a view of this machine's root. There is no Grafana:
what its dashboard asks is asked of Prometheus. Needs root; every statement that held begins with "ok"."""
from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../..")
CLIP, MODEL = (os.path.join(ROOT, "models", f"street.{e}") for e in ("mp4", "safetensors"))
PATIENCE, GATEWAY = 60, "10.77.0.1"
COMMANDS = {"prometheus": ["/usr/bin/prometheus", "--config.file=/etc/prometheus/prometheus.yml",
                           "--storage.tsdb.path=/prometheus"]}  # what the image runs by itself
ALWAYS = {"redis": ["--protected-mode", "no"]}                   # as Redis is built there


def sh(*args: str) -> None:
    subprocess.run(args, check=True)


def ok(what: str, holds: bool, seen: object = "") -> None:
    if not holds:
        print(f"FAILED {what}: {seen}", flush=True)
        sys.exit(1)
    print(f"ok {what}", flush=True)


def until(what, patience: float = PATIENCE):
    """The first true answer; errors of connections are none."""
    end, last = time.monotonic() + patience, None
    while time.monotonic() < end:
        try:
            if last := what():
                return last
        except OSError as e:
            last = e
        time.sleep(0.2)
    raise AssertionError(f"not in {patience} s: {last}")


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE) as r:
        return r.read()


# ------------------------------------------------------------------------------------------------ one service
class Service:
    def __init__(self, name: str, about: dict, address: str, folder: str, image: tuple[str, dict]):
        self.name, self.about, self.address = name, about, address
        self.folder = os.path.join(folder, name)
        os.makedirs(self.folder)
        self.image, self.config = image if about["image"].startswith("tv3sd:") else ("/", None)

    def connect(self, number: int) -> None:
        sh("ip", "netns", "add", self.name)
        sh("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        sh("ip", "link", "set", f"v{number}", "master", "br0", "up")
        sh("ip", "-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        sh("ip", "-n", self.name, "link", "set", "eth0", "up")
        sh("ip", "-n", self.name, "link", "set", "lo", "up")

    def script(self, hosts: str) -> str:
        """Runs in namespaces of its own: the mounts, then the command as its user."""
        root, lines = os.path.join(self.folder, "root"), ["set -e"]
        os.makedirs(root)
        uid = self.config["User"] if self.config else ":".join([self.about.get("user", "0")] * 2)

        def line(*args: str) -> None:
            lines.append(shlex.join(args))

        def mount(source: str, target: str, readonly: bool) -> None:
            lines.append(f"[ -e {root}{target} ] || mkdir -p {root}{target} 2> /dev/null || true")
            line("mount", "--bind", source, root + target)
            if readonly:
                line("mount", "-o", "remount,ro,bind", root + target)
        # An overlay whose upper half is thrown away: containers write there, unless they are read-only.
        line("mount", "-t", "tmpfs", "tmpfs", self.folder)
        for d in ("root", "up", "work", "volumes"):
            line("mkdir", "-p", os.path.join(self.folder, d))
        line("mount", "-t", "overlay", "overlay", "-o",
             f"lowerdir={self.image},upperdir={self.folder}/up,workdir={self.folder}/work", root)
        lines += [f"mkdir -p {root}{v['target']}" for v in self.about.get("volumes", ()) if os.path.isdir(v["source"])
                  or v["type"] == "volume"]
        lines += [f"mkdir -p {root}{os.path.dirname(v['target'])} && touch {root}{v['target']}"
                  for v in self.about.get("volumes", ()) if os.path.isfile(v["source"])]
        lines.append(f"printf '%s' {shlex.quote(hosts)} > {root}/etc/hosts")
        if not self.config:  # the user that nginx's image has, and where that puts bodies
            lines.append(f"rm -rf {root}/var/lib/nginx && ln -s /var/cache/nginx {root}/var/lib/nginx")
            lines.append(f"grep -q '^nginx:' {root}/etc/passwd || echo nginx:x:33:33::/:/bin/false >> {root}/etc/passwd")
            lines.append(f"grep -q '^nginx:' {root}/etc/group || echo nginx:x:33: >> {root}/etc/group")
        line("mount", "-t", "proc", "proc", root + "/proc")
        line("mount", "--rbind", "/dev", root + "/dev")
        for target in self.about.get("tmpfs", ()):
            line("mkdir", "-p", root + target)
            line("mount", "-t", "tmpfs", "tmpfs", root + target)
        for v in self.about.get("volumes", ()):
            if v["type"] == "volume":  # made by the engine, with the owner of what the image has there
                line("mount", "-t", "tmpfs", "-o", f"uid={uid.split(':')[0]},gid={uid.split(':')[1]},mode=700", "tmpfs",
                     root + v["target"])
            else:
                mount(v["source"], v["target"], v.get("read_only", False))
        if self.about.get("read_only"):
            line("mount", "-o", "remount,ro", root)
        env = [*(self.config or {}).get("Env", ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]),
               *(f"{k}={v}" for k, v in (self.about.get("environment") or {}).items())]
        command = [*(self.config or {}).get("Entrypoint", []), *(self.about.get("command") or COMMANDS.get(self.name, [])),
                   *ALWAYS.get(self.name, [])]
        rights = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"] if self.about.get("cap_drop") else []
        if uid != "0:0":
            rights += [f"--reuid={uid.split(':')[0]}", f"--regid={uid.split(':')[1]}", "--clear-groups"]
        lines.append("exec " + shlex.join(["chroot", root, *(["setpriv", *rights] if rights else []), "env", "-i", *env,
                                           *command]))
        return "\n".join(lines)

    def start(self, hosts: str, number: int) -> None:
        self.connect(number)
        with open(self.folder + ".log", "w") as log:
            self.process = subprocess.Popen(["ip", "netns", "exec", self.name, "unshare", "--mount", "--propagation", "private",
                                             "/bin/sh", "-c", self.script(hosts)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def log(self) -> str:
        with open(self.folder + ".log") as f:
            return f.read()

    def stop(self, number=signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


# ------------------------------------------------------------------------------------------- a published port
def publish(address: str, port: int, to: str, to_port: int) -> None:
    async def pump(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    async def come(reader, writer):
        try:
            inner = await asyncio.open_connection(to, to_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))

    async def serve():
        async with await asyncio.start_server(come, address, port) as s:
            await s.serve_forever()
    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()


# --------------------------------------------------------------------------------------------------- the whole
def asked(prometheus: str, path: str, **query: str) -> dict:
    got = json.loads(get(f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(query)}"))
    assert got["status"] == "success", got
    return got["data"]


def status_of(request: urllib.request.Request) -> int:
    try:
        return urllib.request.urlopen(request, timeout=PATIENCE).status
    except urllib.error.HTTPError as e:
        return e.code


def check_front(front: str, folder: str) -> None:
    """Uploads, streams and the page through nginx, as a user of this machine."""
    job = json.loads(subprocess.run(["curl", "-sSf", "-F", f"file=@{CLIP}", f"{front}/v1/videos?format=raw"], check=True,
                                    capture_output=True).stdout)["id"]
    until(lambda: json.loads(get(f"{front}/v1/videos/{job}"))["state"] == "succeeded")
    wanted = os.path.join(folder, "wanted.raw")
    sh(os.path.join(ROOT, "build/tv3s"), "segment", MODEL, CLIP, "-o", wanted, "--format", "raw")
    with open(wanted, "rb") as f:
        masks = f.read()
    ok("an upload through nginx has the tool's masks", get(f"{front}/v1/videos/{job}/masks") == masks)
    for name in ("a", "b", "c", "d"):
        done = subprocess.run([os.path.join(ROOT, "build/tv3s-client"), "--url", front, "--id", name, "--quiet", "--format",
                               "raw", "-o", "-", "stream", CLIP], capture_output=True)
        ok(f"and stream {name}, its WebSocket where the server says", done.stdout == masks, done.stderr)
    ok("the page is there", b"<html" in get(front + "/"))
    ok("and no metrics", status_of(urllib.request.Request(front + "/metrics")) == 404)
    ok("a page whose name was bent to this machine is not answered",
       status_of(urllib.request.Request(front + "/v1/streams", headers={"Host": "evil.example:8080"})) == 403)


def check_prometheus(prometheus: str, replicas: list[Service]) -> None:
    def up():
        targets = asked(prometheus, "targets")["activeTargets"]
        return len(targets) == len(replicas) and all(t["health"] == "up" for t in targets)
    ok("Prometheus scrapes every replica", bool(until(up)))
    rules = [r for g in asked(prometheus, "rules")["groups"] for r in g["rules"]]
    until(lambda: all(r["health"] == "ok" for g in asked(prometheus, "rules")["groups"] for r in g["rules"]))
    ok(f"its {len(rules)} alerts are well and still", len(rules) >= 6 and all(r["state"] == "inactive" for r in rules), rules)
    with open(os.path.join(ROOT, "deploy/grafana/dashboards/tv3sd.json")) as f:
        dashboard = json.load(f)
    asks = [t["expr"] for p in dashboard["panels"] for t in p["targets"]]

    def answered():
        return all(asked(prometheus, "query", query=a)["result"] for a in asks if "failed" not in a and "dropped" not in a)
    until(answered)
    ok(f"every one of the dashboard's {len(asks)} questions is answered", all(asked(prometheus, "query", query=a) for a in asks))
    with open(os.path.join(ROOT, "deploy/grafana/provisioning/datasources/prometheus.yaml")) as f:
        url = yaml.safe_load(f)["datasources"][0]["url"]
    ok("and Grafana would ask where Prometheus is", url == "http://prometheus:9090", url)


def inside(compose: str, image: str, config: str, folder: str) -> None:
    sh("mount", "--make-rprivate", "/")
    os.makedirs("/run/netns", exist_ok=True)
    sh("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "link", "add", "br0", "type", "bridge")
    sh("ip", "addr", "add", f"{GATEWAY}/24", "dev", "br0")
    sh("ip", "link", "set", "br0", "up")
    with open(config) as f:
        about = json.load(f)["Docker"]["config"]
    with open(compose) as f:
        file = yaml.safe_load(f)["services"]
    names = [n for n in file if n != "grafana"]
    services = {n: Service(n, full(file[n], os.path.dirname(compose)), f"10.77.0.{i}", folder, (image, about))
                for i, n in enumerate(names, 10)}
    hosts = "127.0.0.1 localhost\n" + "".join(f"{s.address} {s.name}\n" for s in services.values())
    replicas = [s for s in services.values() if s.config]
    for number, s in enumerate(services.values()):
        s.start(hosts, number)
        for p in s.about["ports"]:
            publish(p["host"], p["published"], s.address, p["target"])
    try:
        for s in replicas:
            until(lambda: get(f"http://{s.address}:8080/readyz"))
        ok(f"{len(replicas)} replicas are ready, as {about['User']}", len(replicas) == 2)
        front, prometheus = "http://localhost:8080", "http://localhost:9090"
        until(lambda: get(front + "/readyz"))
        check_front(front, folder)
        at = [json.loads(get(f"http://{s.address}:8080/v1/streams"))["streams"] for s in replicas]
        ok("both replicas have streams", all(at) and sum(map(len, at)) == 4, at)
        ok("and Redis answers them", b'tv3sd_store_away 0' in get(f"http://{replicas[0].address}:8080/metrics"))
        check_prometheus(prometheus, replicas)
        status = replicas[0].stop()
        ok("a replica that is told to stop does so, and in order", status == 0, replicas[0].log()[-2000:])
        ok("the other serves", bool(until(lambda: get(front + "/readyz"))))
        ok("and the alert for the one is on its way", bool(until(lambda: any(
            r["name"] == "Tv3sdDown" and r["state"] in ("pending", "firing")
            for g in asked(prometheus, "rules")["groups"] for r in g["rules"]))))
        for s in list(services.values())[::-1]:
            if s.process.poll() is None:
                s.stop()
        ok("the other stops in order too", replicas[1].process.returncode == 0, replicas[1].log()[-2000:])
    except BaseException:
        for s in services.values():
            print(f"---- {s.name}\n{s.log()[-1500:]}", flush=True)
        raise
    finally:
        for s in services.values():
            s.process.kill()
    print("all passed")


def full(service: dict, folder: str) -> dict:
    """docker-compose's short forms, as it prints them for this file: volumes and ports."""
    def volume(text: str) -> dict:
        source, target, *mode = text.split(":")
        own = source.startswith(".")
        return {"type": "bind" if own else "volume", "target": target, "read_only": mode == ["ro"],
                "source": os.path.realpath(os.path.join(folder, source)) if own else source}

    def port(text: str) -> dict:
        host, published, target = text.split(":")
        return {"host": host, "published": int(published), "target": int(target)}
    environment = {k: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(v)) for k, v in (service.get("environment") or {}).items()}
    command = [text.replace("$$", "$") for text in service.get("command", ())]
    return {**service, "command": command, "volumes": [volume(v) for v in service.get("volumes", ())], "environment": environment,
            "ports": [port(p) for p in service.get("ports", ())]}


def main() -> None:
    if sys.argv[1] == "inside":
        return inside(*sys.argv[2:])
    buildah = shlex.split(os.environ["BUILDAH"])
    at = subprocess.run([*buildah, "from", "--pull-never", "tv3sd:cpu"], check=True, capture_output=True, text=True).stdout.strip()
    folder = tempfile.mkdtemp(dir="/var/tmp", prefix="tv3sd-compose.")
    try:
        image = subprocess.run([*buildah, "mount", at], check=True, capture_output=True, text=True).stdout.strip()
        config = os.path.join(folder, "image.json")
        with open(config, "w") as f:
            subprocess.run([*buildah, "inspect", "--type", "image", "tv3sd:cpu"], check=True, stdout=f)
        sh("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", sys.executable, __file__, "inside",
           os.path.abspath(sys.argv[1]), image, config, folder)
    finally:
        subprocess.run([*buildah, "rm", at], stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
