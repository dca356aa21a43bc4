"""deploy/'s Prometheus, Grafana, compose and Helm files, by the tools that read them, and against a daemon's metrics."""
from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess

import yaml

from balancers import DEPLOY, Nginx
from daemon import PATIENCE, Daemon


def run(*args, cwd=DEPLOY) -> str:
    r = subprocess.run(args, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE)
    assert r.returncode == 0, r.stdout + r.stderr
    return r.stdout


def read_yaml(path: str) -> dict:
    with open(os.path.join(DEPLOY, path)) as f:
        return yaml.safe_load(f)


def alerts() -> list[dict]:
    return [rule for group in read_yaml("prometheus/alerts.yml")["groups"] for rule in group["rules"]]


def expressions() -> list:
    with open(os.path.join(DEPLOY, "grafana/dashboards/tv3sd.json")) as f:
        found = [t["expr"] for panel in json.load(f)["panels"] for t in panel["targets"]]
    return found + [rule["expr"] for rule in alerts()]


def test_the_alerts_fire_where_they_should():
    """Every one does in a case of promtool's, and does not in another."""
    asked = [case for test in read_yaml("prometheus/alerts_test.yml")["tests"] for case in test["alert_rule_test"]]
    for fires in (True, False):
        assert {case["alertname"] for case in asked if bool(case.get("exp_alerts")) == fires} == {a["alert"] for a in alerts()}
    assert "SUCCESS" in run("promtool", "check", "config", "prometheus.yml", cwd=os.path.join(DEPLOY, "prometheus"))
    assert "SUCCESS" in run("promtool", "test", "rules", "alerts_test.yml", cwd=os.path.join(DEPLOY, "prometheus"))


def test_prometheus_has_a_key_where_its_comments_are_taken(tmp_path):
    with open(os.path.join(DEPLOY, "prometheus/prometheus.yml")) as f:
        text = re.sub(r"^    # (authorization|scheme):", r"    \1:", f.read(), flags=re.M)
    (tmp_path / "key").write_text("tv3s_x")
    shutil.copy(os.path.join(DEPLOY, "prometheus/alerts.yml"), tmp_path)
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus/tv3sd.key", str(tmp_path / "key")))
    [job] = yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"]
    assert job["scheme"] == "https" and job["authorization"] == {"credentials_file": str(tmp_path / "key")}
    assert "SUCCESS" in run("promtool", "check", "config", "prometheus.yml", cwd=tmp_path)


def test_alerts_and_dashboard_ask_for_metrics_that_are_there(daemon, tmp_path):
    """Names and label values; every expression is PromQL to promtool."""
    text = daemon.get("/metrics").body.decode()
    asked = expressions()
    assert len(asked) > 12
    for expr in asked:
        for name, labels in re.findall(r"(tv3sd_\w+)(?:\{([^}]*)\})?", expr):
            lines = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
            assert lines, name
            for label in re.findall(r'(\w+="[^"]*")', labels or ""):
                assert any(label in line for line in lines), (name, label)
    rules = [{"record": f"asked:{i}", "expr": expr} for i, expr in enumerate(asked)]
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    assert f"{len(asked)} rules found" in run("promtool", "check", "rules", str(tmp_path / "asked.yml"))


class ComposesNginx(Nginx):
    """With the file that its command makes."""
    def adapt(self, text: str) -> str:
        command = yaml.safe_load(run("docker-compose", "-f", "compose.yaml", "config"))["services"]["nginx"]["command"]
        pipe = command[2].replace("$$", "$").split(" && ")[1]
        with open(self.path("given"), "w") as f:
            f.write(text)
        for name, own in (("/etc/tv3sd/nginx.conf", "given"), ("/tmp/nginx.conf", "made")):
            assert pipe.count(name) == 1
            pipe = pipe.replace(name, self.path(own))
        run("sh", "-c", pipe)
        with open(self.path("made")) as f:
            return super().adapt(f.read())


def test_composes_nginx_is_called_by_the_names_of_this_machine(tiny_model, tmp_path):
    """The replicas let everybody in, so a page of another site may not come by its own name (DNS rebinding)."""
    with Daemon(tiny_model, tmp_path / "s", "--open-access", "true") as d, ComposesNginx(tmp_path / "nginx", [d]) as b:
        def asked(host: str, path="/v1/streams") -> int:
            c = http.client.HTTPConnection("127.0.0.1", b.port, timeout=PATIENCE)
            c.request("GET", path, headers={"Host": host, "Origin": "http://" + host})
            return c.getresponse().status

        assert [asked(h) for h in ("localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080")] == [200] * 4
        for host in ("evil.example", "evil.example:8080", "localhost.evil.example", "127x0.0.1", "127.0.0.1.evil.example"):
            assert asked(host) == asked(host, "/v1/streams/a/ws") == 403


def test_compose_takes_its_file():
    """And every file that it mounts is there."""
    services = yaml.safe_load(run("docker-compose", "-f", "compose.yaml", "config"))["services"]
    assert set(services) == {"tv3sd-1", "tv3sd-2", "redis", "nginx", "prometheus", "grafana"}
    for name in ("tv3sd-1", "tv3sd-2"):
        assert services[name]["read_only"] and services[name]["cap_drop"] == ["ALL"]
    mounts = [v.split(":")[0] for s in services.values() for v in s.get("volumes", []) if v.startswith("/")]
    assert len(mounts) == 4 and all(os.path.exists(m) for m in mounts), mounts
