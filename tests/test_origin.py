"""What a browser is made to ask by pages of other sites: by a name that was bent to this machine (DNS rebinding), or
blindly from their own."""
from __future__ import annotations

import http.client

import pytest

from daemon import Daemon
from keys import ALL, bearer, new_key
from test_ws_wire import upgrade


def asked(d: Daemon, host: str, **headers) -> tuple[int, int, str]:
    """Of HTTP and of WebSocket the status, and why HTTP said no."""
    r = d.get("/v1/models", Host=host, **headers)
    return r.status, upgrade(d, "/v1/streams/a/ws?takeover=1", Host=host, **headers)[0], \
        r.problem() if r.status != 200 else ""


@pytest.fixture(scope="module")
def daemon(tiny_model, tmp_path_factory):
    with Daemon(tiny_model, tmp_path_factory.mktemp("spool") / "s", "--cors-origins", "https://good.example") as d:
        yield d


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "LOCALHOST:1", "127.0.0.1:8080", "127.3.2.1", "[::1]:8080",
                                  "[::1]"])
def test_without_keys_it_is_called_by_the_names_of_this_machine(daemon, host):
    assert asked(daemon, host) == (200, 101, "")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example",
                                  "128.0.0.1", "[::2]", "localhos", "127.0.0.1x", "1" * 300])
def test_and_by_no_other(daemon, host):
    """`Origin` is then of the host that was called: only the name tells."""
    assert asked(daemon, host, Origin="http://" + host) == (403, 403, "origin")
    assert daemon.request("DELETE", "/v1/streams/a", Host=host).problem() == "origin"


def test_who_sends_no_name_is_no_browser(daemon):
    c = http.client.HTTPConnection("127.0.0.1", daemon.http_port, timeout=60)
    c._http_vsn, c._http_vsn_str = 10, "HTTP/1.0"
    c.putrequest("GET", "/readyz", skip_host=True)
    c.endheaders()
    assert c.getresponse().status == 200


@pytest.mark.parametrize("flags", ["keys", "open"])
def test_with_keys_or_open_to_all_it_may_be_called_anything(tiny_model, tmp_path, flags):
    key = new_key(tmp_path / "keys", "a", ALL) if flags == "keys" else "tv3s_none"
    given = ("--keys-file", tmp_path / "keys") if flags == "keys" else ("--open-access", "true")
    with Daemon(tiny_model, tmp_path / "s", *given) as d:
        assert asked(d, "tv3sd.example", **bearer(key)) == (200, 101, "")


@pytest.mark.parametrize("origin, allowed", [("http://127.0.0.1:1", True), ("https://good.example", True),
                                             ("https://evil.example", False), ("null", False)])
def test_pages_of_other_sites_change_nothing(daemon, origin, allowed):
    """They may send an upload without a preflight, if blindly."""
    before = len(daemon.json("/v1/videos")["videos"])
    r = daemon.request("POST", "/v1/videos", b"x", Origin=origin, Content_Type="text/plain")
    assert (r.status == 202) == allowed and (allowed or r.problem() == "origin")
    assert daemon.request("PUT", "/v1/streams/b", Origin=origin).status == (403 if not allowed else 201)
    assert len(daemon.json("/v1/videos")["videos"]) == before + allowed
    assert daemon.get("/v1/videos", Origin=origin).status == 200
    daemon.request("DELETE", "/v1/streams/b")


def test_with_keys_pages_have_none(tiny_model, tmp_path):
    """So whoever has one may say it comes from anywhere over HTTP; a WebSocket is a page's to open."""
    key = new_key(tmp_path / "keys", "a", ALL)
    with Daemon(tiny_model, tmp_path / "s", "--keys-file", tmp_path / "keys") as d:
        assert d.request("PUT", "/v1/streams/b", Origin="https://evil.example", **bearer(key)).status == 201
        assert d.request("PUT", "/v1/streams/b", Origin="https://evil.example").status == 401
        assert upgrade(d, "/v1/streams/b/ws", Origin="https://evil.example", **bearer(key))[0] == 403
