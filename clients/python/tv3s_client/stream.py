"""The WebSocket half: one connection, one stream. Asynchronous; sync.py wraps it."""
from __future__ import annotations

import asyncio
import itertools
import json
import ssl
from typing import Any, AsyncIterable, AsyncIterator, Callable, Dict, Iterable, List, Optional, Set, Union
from urllib.parse import quote, urlencode

from .errors import ConnectionLost, FrameFailed, ProtocolError, Tv3sError, naming
from .message import Answer, Dropped, Event, Failed, Frame, Restarted

Frames = Union[Iterable[Union[Frame, bytes]], AsyncIterable[Union[Frame, bytes]]]


class AsyncStream:
    """A live stream:

        async with AsyncStream("ws://127.0.0.1:8081", "cam-7") as stream:
            async for answer in stream.masks(frames):
                ...

    The server keeps the stream and its hidden state when the connection ends; whoever opens the same ID goes on with
    frame `last_seq` + 1. `drop` says what becomes of frames beyond `credit` in flight: with "none" `send` waits, with
    "oldest" and "newest" it does not, and the server drops."""

    def __init__(self, ws_url: Union[str, Callable[[], str]], id: str, *, model: Optional[str] = None,
                 mode: Optional[str] = None, format: Optional[str] = None, resize: Optional[str] = None,
                 drop: Optional[str] = None, credit: Optional[int] = None, takeover: bool = False,
                 deflate: bool = False, timeout: float = 30, key: Optional[str] = None,
                 trusted: Optional[ssl.SSLContext] = None):
        query = {"model": model, "mode": mode, "format": format, "resize": resize, "drop": drop, "credit": credit,
                 "takeover": "1" if takeover else None}
        given = {k: v for k, v in query.items() if v is not None}
        self._server = ws_url
        self._path = f"/v1/streams/{quote(id, safe='')}/ws" + ("?" + urlencode(given) if given else "")
        self.url = ""
        self.id, self.timeout = id, timeout
        self.hello: Dict[str, Any] = {}
        """The server's first message: model, classes, and more."""
        self.credit = 0
        """Frames that may be in flight now."""
        self.in_flight: Set[int] = set()
        """Numbers of frames sent and not answered."""
        self.next_seq = 0
        self._deflate, self._key, self._trusted = deflate, key, trusted
        self._socket: Any = None
        self._events: "asyncio.Queue[Optional[Event]]"  # made by open: before Python 3.10 they are of one loop
        self._changed: asyncio.Condition
        self._lost: Optional[ConnectionLost] = None
        self._failure: Optional[BaseException] = None
        self._bye: Optional[str] = None
        self._waiting: Dict[str, List["asyncio.Future[Dict[str, Any]]"]] = {}
        self._reader: Optional["asyncio.Task[None]"] = None

    # ---- opening and closing ----------------------------------------------------------------------------------------

    async def open(self) -> "AsyncStream":
        """Connects. Tv3sError when the server refuses, such as 409 for a stream that has a connection, or that another
        replica has."""
        from .socket import connect  # here, so that uploads do without its package
        self._events, self._changed = asyncio.Queue(), asyncio.Condition()
        server = self._server if isinstance(self._server, str) else await asyncio.to_thread(self._server)
        self.url = server + self._path
        self._socket = await connect(self.url, self._deflate, self.timeout, self._key, self._trusted)
        try:
            with naming(self.url):
                first = json.loads(await asyncio.wait_for(self._socket.recv(), self.timeout))
                if first.get("type") == "bye":
                    self._bye = first["reason"]
                    await asyncio.wait_for(self._socket.recv(), self.timeout)
        except ConnectionLost as e:
            raise self._ended(e) from None
        if first.get("type") == "error":
            await self._socket.close()
            raise Tv3sError(first["problem"])
        if first.get("type") != "hello":
            raise ProtocolError(f"the first message is {first!r}")
        self.hello = first
        self.credit = self.hello["credit"]
        self.next_seq = self.last_seq + 1
        self._reader = asyncio.create_task(self._read())
        return self

    async def close(self) -> None:
        """Ends the connection. The stream stays on the server."""
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)

    async def __aenter__(self) -> "AsyncStream":
        return await self.open()

    async def __aexit__(self, *_: Any) -> None:
        await self.close()

    @property
    def last_seq(self) -> int:
        """The last frame whose effect was in the state when the connection opened; -1: none."""
        return int(self.hello["last_seq"])

    @property
    def resumed(self) -> bool:
        """The stream was there before."""
        return bool(self.hello["resumed"])

    # ---- what comes in ----------------------------------------------------------------------------------------------

    def _ended(self, e: ConnectionLost) -> ConnectionLost:
        return ConnectionLost(e.code, e.reason, self._bye)

    async def _send(self, message: Union[str, bytes]) -> None:
        try:
            await self._socket.send(message)
        except ConnectionLost as e:
            raise self._ended(e) from None

    async def _read(self) -> None:
        try:
            while True:
                await self._take(await self._socket.recv())
        except ConnectionLost as e:
            self._lost = self._ended(e)
        except Exception as e:
            self._failure = e
            self._lost = ConnectionLost(None, str(e), self._bye)
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(self._lost)
        self._events.put_nowait(None)
        async with self._changed:
            self._changed.notify_all()

    async def _settle(self, event: Event) -> None:
        if not isinstance(event, Restarted) and event.seq is not None:
            async with self._changed:
                self.in_flight.discard(event.seq)
                self._changed.notify_all()
        self._events.put_nowait(event)

    async def _take(self, message: Union[str, bytes]) -> None:
        if isinstance(message, bytes):
            await self._settle(Answer.unpack(message))
            return
        text = json.loads(message)
        kind = text.get("type")
        if kind == "credit":
            async with self._changed:
                self.credit = text["credit"]
                self._changed.notify_all()
        elif kind == "dropped":
            for seq in text["seq"]:
                await self._settle(Dropped(seq, text["reason"]))
        elif kind == "error":
            await self._settle(Failed(text["seq"], text["problem"]))
        elif kind == "restarted":
            await self._settle(Restarted(text["seq"]))
        elif kind == "bye":
            self._bye = text["reason"]
        elif self._waiting.get(kind):
            future = self._waiting[kind].pop(0)
            if not future.done():
                future.set_result(text)

    async def events(self) -> AsyncIterator[Event]:
        """Everything about frames, until the connection ends: answers, dropped, failed, restarted."""
        while True:
            event = await self._events.get()
            if event is None:
                self._events.put_nowait(None)
                if self._failure:
                    raise self._failure
                if self._bye != "end" and not (self._lost and self._lost.code == 1000):
                    assert self._lost
                    raise self._lost
                return
            yield event

    # ---- what goes out ----------------------------------------------------------------------------------------------

    async def send(self, frame: Union[Frame, bytes]) -> int:
        """Sends one frame, and returns its number. Waits for a credit where the drop policy is "none"."""
        if not isinstance(frame, (Frame, bytes, bytearray, memoryview)):
            raise TypeError(f"a frame is a Frame, or an image file's bytes, and no {type(frame).__name__}")
        if not isinstance(frame, Frame):
            frame = Frame.image(frame)
        if self.hello["drop"] == "none":
            async with self._changed:
                await self._changed.wait_for(lambda: self._lost or len(self.in_flight) < self.credit)
        if self._lost:
            raise self._lost
        seq = self.next_seq if frame.seq is None else frame.seq
        self.next_seq = seq + 1
        self.in_flight.add(seq)
        await self._send(frame.pack(seq))
        return seq

    async def _send_all(self, frames: Frames, end: bool) -> None:
        if isinstance(frames, AsyncIterable):
            async for frame in frames:
                await self.send(frame)
        else:  # the iterator may wait for a camera: not in our loop
            iterator = iter(frames)
            while True:
                some = await asyncio.to_thread(lambda: list(itertools.islice(iterator, 1)))
                if not some:
                    break
                await self.send(some[0])
        if end:
            await self.end()

    async def results(self, frames: Frames, *, end: bool = True) -> AsyncIterator[Event]:
        """Sends the frames and yields what becomes of each, as it comes: Answer, Dropped, Failed, and Restarted.
        `end`: tell the server that these are all, which packets of a video need; the connection ends with them."""
        sender = asyncio.create_task(self._send_all(frames, end))
        pending: Optional["asyncio.Future[Any]"] = None
        source = self.events().__aiter__()
        try:
            while True:
                if sender.done():
                    if not isinstance(sender.exception(), ConnectionLost):  # the events before it come first
                        sender.result()
                    if not end and not self.in_flight and self._events.empty():
                        return
                pending = pending or asyncio.ensure_future(source.__anext__())
                watched = {pending} if sender.done() else {pending, sender}
                await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                if not pending.done():
                    continue
                done, pending = pending, None
                try:
                    event = done.result()
                except StopAsyncIteration:
                    if sender.done():
                        sender.result()
                    return
                yield event
        finally:
            for task in (sender, pending):
                if task is not None:
                    task.cancel()
            await asyncio.gather(*(t for t in (sender, pending) if t is not None), return_exceptions=True)

    async def masks(self, frames: Frames, *, end: bool = True) -> AsyncIterator[Answer]:
        """Sends the frames and yields their answers. FrameFailed for one that failed; dropped ones are passed over."""
        async for event in self.results(frames, end=end):
            if isinstance(event, Failed):
                raise FrameFailed(event.seq, event.problem)
            if isinstance(event, Answer):
                yield event

    async def _ask(self, message: Dict[str, Any]) -> Dict[str, Any]:
        if self._lost:
            raise self._lost  # before a future that nobody would answer
        future: "asyncio.Future[Dict[str, Any]]" = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(message["type"], []).append(future)
        await self._send(json.dumps(message))
        with naming(self.url):
            return await asyncio.wait_for(future, self.timeout)

    async def reset(self) -> None:
        """The state is zero from the next frame on."""
        await self._ask({"type": "reset"})

    async def stats(self) -> Dict[str, Any]:
        """The stream as the server describes it, and this connection's counters."""
        return await self._ask({"type": "stats"})

    async def set_format(self, format: str) -> None:
        """Of the frames to come."""
        await self._ask({"type": "format", "format": format})

    async def end(self) -> None:
        """No more frames: the server answers what is in flight, then closes. Read on with `events`."""
        await self._send('{"type":"end"}')


def _passes(e: BaseException) -> bool:
    """Whether the same may succeed a little later."""
    if isinstance(e, FrameFailed):
        return False
    if isinstance(e, Tv3sError):
        return e.status in (502, 503, 504) or e.type == "elsewhere"
    return not isinstance(e, ConnectionLost) or e.bye not in ("takeover", "deleted", "revoked")


async def resuming(open_stream: Callable[[], AsyncStream], frames_from: Callable[[int], Frames], *,
                   attempts: int = 5, pause: float = 0.5) -> AsyncIterator[Answer]:
    """The answers of a stream that outlives its connection. `open_stream()` makes a stream of the same ID each time,
    `frames_from(n)` gives the frames from number n on. A frame that was applied, but whose answer was lost with the
    connection, is not sent again: its number is missing among the answers. After a crash of the server, another goes on
    with the state of an earlier frame: then the frames since are sent again, and answers that were given already are not
    given twice. `attempts` fail in a row at most."""
    failed, given = 0, -1
    while True:
        try:
            async with open_stream() as stream:
                async for answer in stream.masks(frames_from(stream.last_seq + 1)):
                    failed = 0
                    if answer.seq > given:
                        given = answer.seq
                        yield answer
                return
        except (ConnectionLost, OSError, asyncio.TimeoutError, Tv3sError) as e:
            failed += 1
            if failed == attempts or not _passes(e):
                raise
            await asyncio.sleep(pause * failed)
