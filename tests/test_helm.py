"""deploy/helm: rendered by what Helm is made of (tests/helm/render.go), then held against the Kubernetes client's own
types, field by field, and against itself: what refers to something finds it. The settings start the real daemon, the
router's file the real HAProxy. No cluster is asked."""
from __future__ import annotations

import os
import re
import subprocess

import kubernetes.client
import pytest
import yaml

from balancers import DEPLOY, Haproxy
from conftest import HERE
from daemon import TV3SD
from keys import new_key
from test_routes import OF_A_STREAM, ROUTES, Replica, through

CHART = os.path.join(DEPLOY, "helm/tv3sd")
OPEN = {"openAccess": True}
FULL = {"keys": {"secret": "who"}, "gpu": {"enabled": True, "runtimeClassName": "nvidia"}, "tls": {"secret": "site"},
        "autoscaling": {"enabled": True, "maxReplicas": 5}, "replicas": 3, "persistence": {"storageClass": "fast"},
        "redis": {"address": "redis.space:6379", "secret": "cache"},
        "settings": {"max_streams": 500, "max_upload": 8589934592, "batch_delay": 0.0025, "dtype": "bf16",
                     "cors_origins": ["https://a.example", "https://b.example"], "gzip": False},
        "router": {"service": {"type": "LoadBalancer", "annotations": {"a.example/b": "c"}}},
        "podAnnotations": {"prometheus.io/scrape": "true"}, "nodeSelector": {"gpu": "yes"}, "imagePullSecrets": [{"name": "r"}],
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]}
BARE = {"openAccess": True, "persistence": {"enabled": False}, "replicas": 1}
VALUES = {"open": OPEN, "full": FULL, "bare": BARE}


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("render") / "render")
    subprocess.run(["go", "build", "-o", out, os.path.join(HERE, "helm/render.go")], check=True,
                   env={**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": ""})
    return out


@pytest.fixture(scope="module")
def rendered(program, tmp_path_factory):
    def render(values: dict, release="tv3sd") -> dict:
        """(kind, name) to object, for each once."""
        file = tmp_path_factory.mktemp("values") / "v.yaml"
        file.write_text(yaml.safe_dump(values))
        r = subprocess.run([program, CHART, release, "space", file], capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
        found = {}
        for o in filter(None, yaml.safe_load_all(r.stdout)):
            assert (o["kind"], o["metadata"]["name"]) not in found
            found[o["kind"], o["metadata"]["name"]] = o
        return found
    return render


@pytest.fixture(scope="module", params=sorted(VALUES))
def objects(request, rendered) -> dict:
    return rendered(VALUES[request.param])


# ------------------------------------------------------------------------------------------- Kubernetes' own types
# The client is of Kubernetes 1.22; autoscaling/v2 came with 1.23, and is v2beta2 renamed.
TYPES = {("apps/v1", "StatefulSet"): "V1StatefulSet", ("apps/v1", "Deployment"): "V1Deployment",
         ("v1", "Service"): "V1Service", ("v1", "ConfigMap"): "V1ConfigMap", ("v1", "Secret"): "V1Secret",
         ("policy/v1", "PodDisruptionBudget"): "V1PodDisruptionBudget",
         ("autoscaling/v2", "HorizontalPodAutoscaler"): "V2beta2HorizontalPodAutoscaler"}
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": (str, int, dict)}


def strictly(value, kind: str, at: str) -> None:
    """Every field is one that the type knows, and has its type; what the type wants is there."""
    if kind.startswith("list["):
        assert isinstance(value, list), at
        for i, one in enumerate(value):
            strictly(one, kind[5:-1], f"{at}[{i}]")
    elif kind.startswith("dict("):
        assert isinstance(value, dict), at
        for name, one in value.items():
            assert isinstance(name, str), at
            strictly(one, kind[5:-1].split(", ")[1], f"{at}.{name}")
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]) and (kind == "bool" or not isinstance(value, bool)), f"{at}: {value!r}"
    else:
        model = getattr(kubernetes.client, kind)
        fields = {name: attribute for attribute, name in model.attribute_map.items()}
        assert isinstance(value, dict) and not set(value) - set(fields), f"{at}: {set(value) - set(fields)}"
        model(**{fields[name]: one for name, one in value.items()})  # ValueError: one that it wants is not there
        for name, one in value.items():
            strictly(one, model.openapi_types[fields[name]], f"{at}.{name}")


def test_every_field_is_kubernetes_own(objects):
    for (kind, name), o in objects.items():
        strictly(o, TYPES[o["apiVersion"], kind], f"{kind} {name}")
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)


@pytest.mark.parametrize("path, value", [(("spec", "replica"), 2), (("spec", "serviceName"), None), (("spec", "replicas"), "2"),
                                         (("spec", "template", "spec", "containers", 0, "readynessProbe"), {})])
def test_a_typing_error_would_be_found(rendered, path, value):
    o = rendered(OPEN)["StatefulSet", "tv3sd"]
    at = o
    for step in path[:-1]:
        at = at[step]
    at.pop(path[-1], None) if value is None else at.update({path[-1]: value})
    with pytest.raises((AssertionError, ValueError)):
        strictly(o, "V1StatefulSet", "")


# -------------------------------------------------------------------------------------------------- in themselves
def workloads(objects: dict) -> list[dict]:
    return [o for (kind, _), o in objects.items() if kind in ("StatefulSet", "Deployment")]


def test_selectors_find_what_they_are_for(objects):
    pods = {o["metadata"]["name"]: o["spec"]["template"]["metadata"]["labels"] for o in workloads(objects)}

    def selected(selector: dict) -> list[str]:
        return [name for name, labels in pods.items() if selector.items() <= labels.items()]
    for o in workloads(objects):
        assert selected(o["spec"]["selector"]["matchLabels"]) == [o["metadata"]["name"]]
    assert selected(objects["Service", "tv3sd"]["spec"]["selector"]) == ["tv3sd-router"]
    assert selected(objects["Service", "tv3sd-pods"]["spec"]["selector"]) == ["tv3sd"]
    assert selected(objects["PodDisruptionBudget", "tv3sd"]["spec"]["selector"]["matchLabels"]) == ["tv3sd"]
    for (kind, _), o in objects.items():
        if kind == "Service":
            of, = selected(o["spec"]["selector"])
            container, = next(w for w in workloads(objects) if w["metadata"]["name"] == of)["spec"]["template"]["spec"]["containers"]
            named = {p["name"] for p in container["ports"]}
            assert {p["targetPort"] for p in o["spec"]["ports"]} <= named
    service = objects["Service", objects["StatefulSet", "tv3sd"]["spec"]["serviceName"]]
    assert service["spec"]["clusterIP"] == "None"


def test_what_is_mounted_is_there(objects):
    given = {"Secret/who", "Secret/site", "Secret/cache"}  # the operator's
    for o in workloads(objects):
        pod = o["spec"]["template"]["spec"]
        container, = pod["containers"]
        claims = {c["metadata"]["name"] for c in o["spec"].get("volumeClaimTemplates", ())}
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod.get("volumes", ())} | claims
        for v in pod.get("volumes", ()):
            for kind, name in (("ConfigMap", v.get("configMap", {}).get("name")), ("Secret", v.get("secret", {}).get("secretName"))):
                assert not name or (kind, name) in objects or f"{kind}/{name}" in given
        for source in container.get("envFrom", ()):
            assert ("ConfigMap", source["configMapRef"]["name"]) in objects
        named = {p["name"] for p in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            for how in (container.get(probe) or {}).values():
                assert not isinstance(how, dict) or how["port"] in named


def test_pods_have_no_rights(objects):
    for o in workloads(objects):
        pod = o["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert not pod["automountServiceAccountToken"] and not pod["enableServiceLinks"]
        for c in pod["containers"]:
            s = c["securityContext"]
            assert s["readOnlyRootFilesystem"] and not s["allowPrivilegeEscalation"] and s["capabilities"] == {"drop": ["ALL"]}


def test_a_pod_has_the_time_to_drain(objects):
    pod = objects["StatefulSet", "tv3sd"]["spec"]["template"]["spec"]
    wait = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = float(objects["ConfigMap", "tv3sd-settings"]["data"]["TV3SD_DRAIN_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] >= wait + drain + 10
    probes = {name: pod["containers"][0][name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"startupProbe": "/readyz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_values_do_what_they_say(rendered, program):
    full, bare = rendered(FULL), rendered(BARE, "my-film")
    pod = full["StatefulSet", "tv3sd"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "tv3sd:cuda" and pod["runtimeClassName"] == "nvidia"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    scaler = full["HorizontalPodAutoscaler", "tv3sd"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 5) and "replicas" not in full["StatefulSet", "tv3sd"]["spec"]
    assert ("StatefulSet", scaler["scaleTargetRef"]["name"]) in full
    assert "my-film-tv3sd" in {name for _, name in bare} and "volumeClaimTemplates" not in bare["StatefulSet", "my-film-tv3sd"]["spec"]
    written = rendered({"keys": {"file": '{"keys":[]}'}})
    assert written["Secret", "tv3sd-keys"]["stringData"] == {"keys.json": '{"keys":[]}'}
    nobody = subprocess.run([program, CHART, "tv3sd", "space"], capture_output=True, text=True)
    assert nobody.returncode != 0 and "who may come" in nobody.stderr


# ------------------------------------------------------------------------------------------- the real programs
@pytest.mark.parametrize("values", sorted(VALUES))
def test_the_daemon_takes_the_settings(rendered, values, tmp_path):
    """With what the image sets besides; files are where they are here."""
    objects = rendered(VALUES[values])
    data = dict(objects["ConfigMap", "tv3sd-settings"]["data"])
    new_key(tmp_path / "keys.json", "a")
    if "TV3SD_KEYS_FILE" in data:
        mounts = {m["name"]: m["mountPath"] for m in
                  objects["StatefulSet", "tv3sd"]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]}
        assert data["TV3SD_KEYS_FILE"] == mounts["keys"] + "/keys.json"
        data["TV3SD_KEYS_FILE"] = str(tmp_path / "keys.json")
    r = subprocess.run([TV3SD, "--dump-config"], capture_output=True, text=True, env={**os.environ, **data, "TV3SD_LISTEN": "0.0.0.0"})
    assert r.returncode == 0, r.stderr
    settings = yaml.safe_load(r.stdout)
    assert settings["open_access"] or settings["keys_file"]
    assert settings["state_store"] == ("redis" if "redis" in VALUES[values] else "none")
    assert ("redis", "redis.space:6379") in settings.items() or "redis" not in VALUES[values]
    for name, value in VALUES[values].get("settings", {}).items():
        assert settings[name] == value, name


class Router(Haproxy):
    """The chart's own file."""
    text = ""

    def configure(self, daemons) -> None:
        text = self.text
        for i, d in enumerate(daemons):
            host = f"tv3sd-{i}.tv3sd-pods.space.svc.cluster.local"
            assert host in text
            text = text.replace(f"{host}:8080", f"127.0.0.1:{d.http_port}").replace(f"{host}:8081", f"127.0.0.1:{d.ws_port}")
        text = text.replace(" ssl crt /etc/tv3sd/tls/tls.crt alpn h2,http/1.1", "")
        with open(self.path(self.SOURCE), "w") as f:
            f.write(self.adapt(text))


def test_the_router_takes_its_file_and_routes_alike(rendered, tmp_path):
    """With three of the five replicas that it may have: the others have no address, and are down."""
    objects = rendered(FULL)
    Router.text = objects["ConfigMap", "tv3sd-router"]["data"]["haproxy.cfg"]
    assert "ssl crt" in Router.text and len(re.findall(r"^ +server replica-", Router.text, re.M)) == 4 * 5
    replicas = [Replica(f"tv3sd-{i}") for i in range(3)]
    with Router(tmp_path / "router", replicas) as b:
        for method, target, headers, port, seen, path in ROUTES:
            status, got = through(b, method, target, headers)
            assert (status, got and got["port"], got and got["method"]) == (200 if port else 404, port, seen), target
            assert not port or re.fullmatch(path, got["target"])
        for i in range(30):
            assert len({through(b, m, t.format(f"cam-{i}"), h)[1]["replica"] for m, t, h in OF_A_STREAM}) == 1
    for r in replicas:
        r.stop()
