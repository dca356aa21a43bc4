"""A live stream without asyncio: AsyncStream in a thread of its own."""
from __future__ import annotations

import asyncio
import threading
from typing import Any, AsyncIterator, Coroutine, Dict, Iterable, Iterator, Optional, TypeVar, Union

from .message import Answer, Event, Frame
from .stream import AsyncStream

T = TypeVar("T")


class Loop:
    """An event loop in a thread of its own, from the making to `stop`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tv3s-stream", daemon=True)
        self._thread.start()
        self.running = True

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns or raises."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Nothing runs any more."""
        self.running = False
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def iterate(loop: Loop, source: AsyncIterator[T]) -> Iterator[T]:
    """What an asynchronous generator yields."""
    end = object()

    async def advance() -> Any:
        try:
            return await source.__anext__()
        except StopAsyncIteration:
            return end

    try:
        while (value := loop.run(advance())) is not end:
            yield value
    finally:
        if loop.running:
            loop.run(source.aclose())  # type: ignore[attr-defined]


def iterate_alone(source: AsyncIterator[T]) -> Iterator[T]:
    """The same, by a loop that ends with it."""
    loop = Loop()
    try:
        yield from iterate(loop, source)
    finally:
        loop.stop()


class Stream:
    """The same as AsyncStream, in plain calls:

        with client.stream("cam-7", format="rle") as stream:
            for answer in stream.masks(frames):
                ...

    `frames` is read in another thread, ahead by the credit."""

    def __init__(self, stream: AsyncStream):
        self._stream = stream
        self._loop: Optional[Loop] = None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop, "the stream is not open"
        return self._loop.run(work)

    def open(self) -> "Stream":
        """Connects. Tv3sError when the server refuses, such as 409 for a stream that has a connection."""
        self._loop = Loop()
        try:
            self._run(self._stream.open())
        except BaseException:
            self._stop()
            raise
        return self

    def _stop(self) -> None:
        if self._loop:
            self._loop.stop()
        self._loop = None

    def close(self) -> None:
        """Ends the connection. The stream stays on the server."""
        if self._loop:
            self._run(self._stream.close())
            self._stop()

    def __enter__(self) -> "Stream":
        return self.open()

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        assert self._loop, "the stream is not open"
        return iterate(self._loop, source)

    def masks(self, frames: Iterable[Union[Frame, bytes]], *, end: bool = True) -> Iterator[Answer]:
        """Sends the frames and yields their answers. FrameFailed for one that failed; dropped ones are passed over."""
        return self._iterate(self._stream.masks(frames, end=end))

    def results(self, frames: Iterable[Union[Frame, bytes]], *, end: bool = True) -> Iterator[Event]:
        """Sends the frames and yields what becomes of each: Answer, Dropped, Failed, and Restarted."""
        return self._iterate(self._stream.results(frames, end=end))

    def events(self) -> Iterator[Event]:
        """Everything about frames that were sent by `send`, until the connection ends."""
        return self._iterate(self._stream.events())

    def send(self, frame: Union[Frame, bytes]) -> int:
        """Sends one frame, and returns its number. Waits for a credit where the drop policy is "none"."""
        return self._run(self._stream.send(frame))

    def reset(self) -> None:
        """The state is zero from the next frame on."""
        self._run(self._stream.reset())

    def stats(self) -> Dict[str, Any]:
        """The stream as the server describes it, and this connection's counters."""
        return self._run(self._stream.stats())

    def set_format(self, format: str) -> None:
        """Of the frames to come."""
        self._run(self._stream.set_format(format))

    def end(self) -> None:
        """No more frames: the server answers what is in flight, then closes."""
        self._run(self._stream.end())

    @property
    def hello(self) -> Dict[str, Any]:
        """The server's first message: model, classes, and more."""
        return self._stream.hello

    @property
    def last_seq(self) -> int:
        """The last frame whose effect was in the state when the connection opened; -1: none."""
        return self._stream.last_seq

    @property
    def resumed(self) -> bool:
        """The stream was there before."""
        return self._stream.resumed

    @property
    def credit(self) -> int:
        """Frames that may be in flight now."""
        return self._stream.credit
