"""The HTTP half, synchronous, on the standard library alone. One connection per call: thread-safe."""
from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import IO, Any, Callable, Dict, Generator, Iterator, List, Optional, Tuple, Union
from urllib.parse import quote, urlencode, urlsplit

from .errors import JobFailed, ProtocolError, Tv3sError, naming
from .message import Answer, authorization
from .stream import AsyncStream, Frames, resuming
from .sync import Stream, iterate_alone

Path = Union[str, "os.PathLike[str]"]
Source = Union[Path, bytes, IO[bytes]]
"""What is sent: a path, the bytes, or a file to read from."""
Progress = Callable[[int, Optional[int]], None]
"""Called as progress(bytes so far, bytes in all or None)."""
CHUNK = 1 << 18
PROBE_SECONDS = 5


@dataclass
class Job:
    """An uploaded video, as the server describes it."""

    raw: Dict[str, Any]

    @property
    def id(self) -> str:
        """Names it in every call."""
        return str(self.raw["id"])

    @property
    def state(self) -> str:
        """queued, running, succeeded, failed or cancelled."""
        return str(self.raw["state"])

    @property
    def done(self) -> int:
        """Frames done."""
        return int(self.raw["frames"]["done"])

    @property
    def total(self) -> Optional[int]:
        """Frames there are: an estimate until the end."""
        total: Optional[int] = self.raw["frames"]["total"]
        return total

    @property
    def error(self) -> Optional[Dict[str, Any]]:
        """Why it failed: a problem object."""
        return self.raw.get("error")

    @property
    def warning(self) -> Optional[str]:
        """What of the video is missing or damaged, if anything."""
        return self.raw.get("warning")

    @property
    def decoder(self) -> Optional[str]:
        """What decoded its last frame so far: "nvdec", a GPU, or "cpu"."""
        return self.raw.get("decoder")

    @property
    def ended(self) -> bool:
        """Nothing will change any more."""
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass
class Mask:
    """The mask of one image sent over HTTP."""

    data: bytes
    mime: str
    seq: Optional[int]
    size: Tuple[int, int]
    restarted: bool


def problem_of(status: int, reason: str, body: bytes) -> Dict[str, Any]:
    """The problem object of an answer; one of our own making where it has none."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    return problem if isinstance(problem, dict) else {"type": "about:blank", "title": reason, "status": status}


def connection_to(tls: bool, host: str, port: Optional[int], timeout: float,
                  trusted: Optional[ssl.SSLContext]) -> http.client.HTTPConnection:
    """Not made yet: the first request does."""
    if tls:
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=trusted)
    return http.client.HTTPConnection(host, port, timeout=timeout)


def _other_scheme(tls: bool, host: str, port: int, timeout: float) -> bool:
    """Where no answer came: whether one does by plain HTTP, after TLS, or by TLS, after plain HTTP. No key is shown."""
    try:
        if tls:
            with contextlib.closing(connection_to(False, host, port, timeout, None)) as plain:
                plain.request("GET", "/livez")
                return plain.getresponse().status > 0
        anybody = ssl.create_default_context()
        anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE  # whoever it is, it is asked nothing
        with socket.create_connection((host, port), timeout) as s, anybody.wrap_socket(s):
            return True
    except (OSError, http.client.HTTPException):
        return False


class Cutter:
    """Lets another thread end a call whose answer it waits for."""

    def __init__(self) -> None:
        self._socket: Optional[socket.socket] = None
        self._cut = False

    def connected(self, to: Optional[socket.socket]) -> None:
        """The call has a connection."""
        self._socket = to
        if self._cut:
            self.cut()

    def cut(self) -> None:
        """The call meets the end of its answer, now or when it has a connection."""
        self._cut = True
        if self._socket:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class Client:
    """A server. `ws_url` is where its WebSocket is; None: where the server says, asked with the first stream.
    `key`: an API key; None: that of the environment (TV3S_KEY), if it has one. `ca`: a PEM file of the certificates to
    trust; None: those of the system."""

    def __init__(self, url: str = "http://127.0.0.1:8080", ws_url: Optional[str] = None, *, key: Optional[str] = None,
                 ca: Optional[Path] = None, timeout: float = 60, headers: Optional[Dict[str, str]] = None):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"{url!r} is no URL: it begins with http:// or https://")
        tls = parts.scheme == "https"
        self.url = url
        with naming(ca):
            self._trusted = ssl.create_default_context(cafile=ca) if ca else None
        self._scheme = "wss" if tls else "ws"
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or (443 if tls else 80)
        self._base = parts.path.rstrip("/")
        self._ws_url = ws_url
        self.timeout = timeout
        self._key = key or os.environ.get("TV3S_KEY")
        self._headers = {**authorization(self._key), **(headers or {})}

    # ---- requests ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _request(self, method: str, path: str, query: Optional[Dict[str, Any]] = None, body: Any = None,
                 headers: Optional[Dict[str, str]] = None,
                 cutter: Optional[Cutter] = None) -> Iterator[http.client.HTTPResponse]:
        """An answer whose body is still to be read. Statuses from 400 on are Tv3sError; what goes wrong on the way is an
        OSError, also where it breaks off in the middle of the answer."""
        given = {k: v for k, v in (query or {}).items() if v is not None}
        target = self._base + path + ("?" + urlencode(given) if given else "")
        connection = connection_to(self._scheme == "wss", self._host, self._port, self.timeout, self._trusted)
        try:
            with self._right_scheme():
                with naming(self.url):
                    connection.connect()
                try:
                    connection.request(method, target, body, {**self._headers, **(headers or {})})
                except (BrokenPipeError, ConnectionResetError):
                    pass  # refused before the body was whole: the answer says why
                if cutter:
                    cutter.connected(connection.sock)
                answer = connection.getresponse()
            if answer.status >= 400:
                raise Tv3sError(problem_of(answer.status, answer.reason, answer.read()))
            yield answer
        except http.client.HTTPException as e:
            raise ConnectionError(f"no whole answer from {self.url}: {e!r}") from e
        finally:
            connection.close()

    @contextlib.contextmanager
    def _right_scheme(self) -> Iterator[None]:
        """What is wrong with the URL, where plain HTTP was spoken to TLS or TLS to plain HTTP."""
        try:
            yield
        except (ssl.SSLError, ConnectionResetError, http.client.BadStatusLine) as e:
            tls = self._scheme == "wss"
            if isinstance(e, ssl.SSLCertVerificationError) or \
                    not _other_scheme(tls, self._host, self._port, min(self.timeout, PROBE_SECONDS)):
                raise
            spoken, scheme = ("plain HTTP", "http") if tls else ("TLS", "https")
            rest = self.url.split("://", 1)[1]
            raise ConnectionError(f"{self.url}: the server speaks {spoken} there: {scheme}://{rest}") from e

    def _json(self, method: str, path: str, query: Optional[Dict[str, Any]] = None, body: Any = None,
              headers: Optional[Dict[str, str]] = None) -> Dict[str, Any]:
        """The object that it answers; {} for 204, which has none."""
        with self._request(method, path, query, body, headers) as answer:
            status, text = answer.status, answer.read()
        try:
            said = json.loads(text) if status != 204 else {}
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise ProtocolError(f"{method} {path} is not answered with a JSON object")
        return said

    def ws_url(self) -> str:
        """Where streams connect to."""
        if self._ws_url is None:
            said = self.server()["websocket"]
            host = f"[{self._host}]" if ":" in self._host else self._host
            self._ws_url = said["url"] or f"{self._scheme}://{host}:{said['port']}{self._base}"
        return self._ws_url.rstrip("/")

    # ---- the server -------------------------------------------------------------------------------------------------

    def server(self) -> Dict[str, Any]:
        """Its version, its WebSocket, its limits."""
        return self._json("GET", "/v1/server")

    def models(self) -> List[Dict[str, Any]]:
        """The models that are served, the default first."""
        models: List[Dict[str, Any]] = self._json("GET", "/v1/models")["models"]
        return models

    def model(self, name: str) -> Dict[str, Any]:
        """One of them: its architecture, classes and colours."""
        return self._json("GET", f"/v1/models/{quote(name, safe='')}")

    def ready(self) -> bool:
        """Whether the server is there and its engines label frames. A certificate that is not trusted is an error: no
        waiting mends it."""
        try:
            with self._request("GET", "/readyz"):
                return True
        except ssl.SSLCertVerificationError:
            raise
        except (Tv3sError, OSError):
            return False

    def metrics(self) -> str:
        """Counters and gauges, in Prometheus' text format."""
        with self._request("GET", "/metrics") as answer:
            return answer.read().decode()

    # ---- images -----------------------------------------------------------------------------------------------------

    def _image(self, path: str, image: Source, query: Dict[str, Any]) -> Mask:
        with _opened(image) as (file, size):
            headers = {"Content-Type": "application/octet-stream"}
            if size is not None:
                headers["Content-Length"] = str(size)
            with self._request("POST", path, query, file, headers) as answer:
                seq, size_text = answer.headers.get("X-Tv3s-Seq"), answer.headers.get("X-Tv3s-Size", "0x0")
                width, height = size_text.split("x")
                return Mask(answer.read(), answer.headers.get_content_type(), int(seq) if seq else None,
                            (int(width), int(height)), answer.headers.get("X-Tv3s-Restarted") == "1")

    def segment(self, image: Source, *, model: Optional[str] = None, format: Optional[str] = None,
                resize: Optional[str] = None) -> Mask:
        """One image, one mask, no state. `image`: a path, bytes or a file."""
        return self._image("/v1/segment", image, {"model": model, "format": format, "resize": resize})

    # ---- videos -----------------------------------------------------------------------------------------------------

    def upload(self, video: Source, *, model: Optional[str] = None, mode: Optional[str] = None,
               format: Optional[str] = None, resize: Optional[str] = None, webhook: Optional[str] = None,
               progress: Optional[Progress] = None) -> Job:
        """Sends a video: a path, bytes or a file. `progress(sent, total)` is called as it goes. `webhook`: the URL that the
        server tells of the end; its host must be one of the server's `webhook_hosts`."""
        query = {"model": model, "mode": mode, "format": format, "resize": resize, "webhook": webhook}
        with _opened(video) as (file, size):
            headers = {"Content-Type": "application/octet-stream"}
            if size is not None:
                headers["Content-Length"] = str(size)
            return Job(self._json("POST", "/v1/videos", query, _chunks(file, size, progress), headers))

    def jobs(self) -> List[Job]:
        """All uploads, newest first."""
        return [Job(raw) for raw in self._json("GET", "/v1/videos")["videos"]]

    def job(self, job: Union[Job, str]) -> Job:
        """The upload as it is now."""
        return Job(self._json("GET", f"/v1/videos/{_id(job)}"))

    def events(self, job: Union[Job, str], *, cutter: Optional[Cutter] = None) -> Generator[Job, None, None]:
        """The job at every change, as the server sends it. Ends with the job; `cutter` can end it before."""
        with self._request("GET", f"/v1/videos/{_id(job)}/events", cutter=cutter) as answer:
            data = ""
            for line in io.TextIOWrapper(answer, encoding="utf-8"):
                line = line.rstrip("\r\n")
                if line.startswith("data:"):
                    data += line[5:].strip()
                elif not line and data:
                    yield Job(json.loads(data))
                    data = ""

    def wait(self, job: Union[Job, str], *, progress: Optional[Callable[[Job], None]] = None,
             timeout: Optional[float] = None) -> Job:
        """Waits until the job has ended. JobFailed when that is without masks, TimeoutError."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            with contextlib.closing(self.events(job)) as events:
                for now in _until_lost(events):
                    if progress:
                        progress(now)
                    if now.ended or (until is not None and time.monotonic() > until):
                        break
            now = self.job(job)
            if now.ended:
                if now.state != "succeeded":
                    raise JobFailed(now)
                return now
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"video {_id(job)} is not done")
            time.sleep(0.2)

    def download(self, job: Union[Job, str], to: Union[Path, IO[bytes], None] = None, *,
                 progress: Optional[Progress] = None) -> bytes:
        """The masks of a whole video into a path or file, or returned when `to` is None. A transfer that breaks off
        is taken up where it was; a file that it makes is whole or absent."""
        if isinstance(to, (str, os.PathLike)):
            with _whole(to) as file:
                self._download(job, file, progress)
            return b""
        if to is not None:
            self._download(job, to, progress)
            return b""
        masks = io.BytesIO()
        self._download(job, masks, progress)
        return masks.getvalue()

    def _download(self, job: Union[Job, str], file: IO[bytes], progress: Optional[Progress]) -> None:
        got, tries = 0, 0
        total: Optional[int] = None
        tag: Optional[str] = None
        while total is None or got < total:
            headers: Dict[str, str] = {"Range": f"bytes={got}-"} if got else {}
            if got and tag:
                headers["If-Range"] = tag
            with self._request("GET", f"/v1/videos/{_id(job)}/masks", headers=headers) as answer:
                if got and answer.status != 206:
                    raise Tv3sError({"title": "the result changed while it was read", "status": 409})
                length = answer.headers.get("Content-Length", "")
                if not length.isdecimal():
                    raise ProtocolError("the masks come without their length")
                total = got + int(length)
                tag = answer.headers.get("ETag")
                before = got
                for chunk in iter(lambda: _some(answer), b""):
                    file.write(chunk)
                    got += len(chunk)
                    if progress:
                        progress(got, total)
            tries = 0 if got > before else tries + 1
            if tries == 5:
                raise ConnectionError("the masks do not arrive")

    def mask(self, job: Union[Job, str], frame: int) -> bytes:
        """One frame's mask, as soon as it is done."""
        with self._request("GET", f"/v1/videos/{_id(job)}/masks/{frame}") as answer:
            return answer.read()

    def delete(self, job: Union[Job, str]) -> None:
        """Cancels, and deletes everything of it."""
        self._json("DELETE", f"/v1/videos/{_id(job)}")

    # ---- streams ----------------------------------------------------------------------------------------------------

    def open_stream(self, id: Optional[str] = None, *, model: Optional[str] = None, mode: Optional[str] = None,
                    format: Optional[str] = None, resize: Optional[str] = None) -> Dict[str, Any]:
        """Opens a stream, or finds it; without an ID the server makes one. Its description."""
        query = {"model": model, "mode": mode, "format": format, "resize": resize}
        if id is None:
            return self._json("POST", "/v1/streams", query)
        return self._json("PUT", f"/v1/streams/{quote(id, safe='')}", query)

    def streams(self) -> List[Dict[str, Any]]:
        """All streams, described."""
        streams: List[Dict[str, Any]] = self._json("GET", "/v1/streams")["streams"]
        return streams

    def describe(self, id: str) -> Dict[str, Any]:
        """A stream: its parameters, last frame, state."""
        return self._json("GET", f"/v1/streams/{quote(id, safe='')}")

    def delete_stream(self, id: str) -> None:
        """Ends it, and its connection if it has one."""
        self._json("DELETE", f"/v1/streams/{quote(id, safe='')}")

    def frame(self, id: str, image: Source) -> Mask:
        """One image of the stream over HTTP."""
        return self._image(f"/v1/streams/{quote(id, safe='')}/frames", image, {})

    def reset(self, id: str) -> None:
        """The hidden state is zero again."""
        self._json("POST", f"/v1/streams/{quote(id, safe='')}/reset")

    def save_state(self, id: str, to: Optional[Path] = None) -> bytes:
        """The hidden state as a safetensors file."""
        with self._request("GET", f"/v1/streams/{quote(id, safe='')}/state") as answer:
            state = answer.read()
        if to is not None:
            with _whole(to) as file:
                file.write(state)
        return state

    def restore_state(self, id: str, state: Source) -> None:
        """Replaces the hidden state of a stream by that of bytes, a path or a file; makes the stream where there is none."""
        self.open_stream(id)
        with _opened(state) as (file, _):
            self._json("PUT", f"/v1/streams/{quote(id, safe='')}/state", body=file.read(),
                       headers={"Content-Type": "application/x-safetensors"})

    def stream(self, id: str, *, model: Optional[str] = None, mode: Optional[str] = None,
               format: Optional[str] = None, resize: Optional[str] = None, drop: Optional[str] = None,
               credit: Optional[int] = None, takeover: bool = False, deflate: bool = False,
               timeout: float = 30) -> Stream:
        """A live stream over WebSocket; see AsyncStream for the options."""
        return Stream(self._stream(id, model=model, mode=mode, format=format, resize=resize, drop=drop, credit=credit,
                                   takeover=takeover, deflate=deflate, timeout=timeout))

    def resuming(self, id: str, frames_from: Callable[[int], Frames], *, attempts: int = 5, pause: float = 0.5,
                 **options: Any) -> Iterator[Answer]:
        """The answers of a stream that outlives its connection: see stream.resuming; `options` as of `stream`."""
        return iterate_alone(resuming(lambda: self._stream(id, takeover=True, **options), frames_from,
                                      attempts=attempts, pause=pause))

    def _stream(self, id: str, **options: Any) -> AsyncStream:
        return AsyncStream(self.ws_url, id, key=self._key, trusted=self._trusted, **options)


def _id(job: Union[Job, str]) -> str:
    return quote(job.id if isinstance(job, Job) else job, safe="")


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Tuple[IO[bytes], Optional[int]]]:
    """A file to read from, and its size if that is known."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source), len(source)
    elif isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    else:
        yield source, None


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which has its name when it is whole. What is no regular file is written as it is."""
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            yield file
        return
    target = os.path.realpath(path)
    part = f"{target}.{os.getpid()}-{threading.get_ident()}.part"
    try:
        with open(part, "xb") as file:
            yield file
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise


def _some(answer: http.client.HTTPResponse) -> bytes:
    """The next bytes; none at the end, and where it broke off."""
    try:
        return answer.read(CHUNK)
    except (OSError, http.client.IncompleteRead):
        return b""


def _until_lost(events: Iterator[Job]) -> Iterator[Job]:
    """Those that come before the connection breaks."""
    while True:
        try:
            now = next(events)
        except (StopIteration, OSError):
            return
        yield now


def _chunks(file: IO[bytes], size: Optional[int], progress: Optional[Progress]) -> Iterator[bytes]:
    sent = 0
    for chunk in iter(lambda: file.read(CHUNK), b""):
        yield chunk
        sent += len(chunk)
        if progress:
            progress(sent, size)
