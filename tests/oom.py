"""Every allocation fails once: `make oom`, or `oom.py [--only NAMES] [--libraries "NAME ..."] [--workers N]`, prints JSON.

The daemon of TV3S_BUILD (build/asan by `make oom`) runs with preload/oom.c. What a client does is done again and again,
each time with the next allocation of the daemon failing, until none is left to fail. Each time the client must get an
answer: the right one, or an error that says so. Then the same must work, with the right bytes. In the end nothing may be
left, and the sanitizer has the last word on leaks.

All of it is 3,300 rounds, 2,180 of them starts, and 33 minutes of CPU time (two cores of a Zen 5): no call is left out
because another like it was failed."""
from __future__ import annotations

import argparse
import itertools
import json
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "parity")]
from conftest import make_tiny_model  # noqa: E402
from daemon import PATIENCE, TV3SD, Daemon  # noqa: E402
from oom_scenarios import SCENARIOS, Left, Material, Scenario  # noqa: E402

# Whose allocations fail. What is not here: the C++ library throws, and oneDNN lets that through; OpenMP's run time ends
# the process; OpenSSL and GnuTLS are not ours to mend.
OURS = "program libc.so"
ASAN = "detect_leaks=1:abort_on_error=0:verify_asan_link_order=0:allocator_may_return_null=1:malloc_context_size=20"


ENDLESS = 10 ** 9
Choice = Callable[[int, "Tally"], Iterable[int]]  # of how many allocations there are, which are to fail


class Memory:
    """The other side of preload/oom.c's struct control."""

    def __init__(self, folder: Path, libraries: str = OURS):
        self.asked = self.used = 0
        self.library, path = folder / "oom.so", folder / "oom.control"
        subprocess.run(["cc", "-std=c11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-shared", "-o", self.library,
                        os.path.join(HERE, "preload/oom.c")], check=True)
        path.write_bytes(bytes(4096))
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 4096)
        self.environment = {**os.environ, "LD_PRELOAD": str(self.library), "OOM_CONTROL": str(path),
                            "OOM_LIBRARIES": libraries, "ASAN_OPTIONS": ASAN}

    def fail(self, n: int) -> None:
        """The n-th allocation from now on; 0: none."""
        self.asked = n
        self.map[8:] = bytes(4096 - 8)
        self.map[:8] = struct.pack("<q", n)

    def disarm(self) -> None:
        if self.asked:
            self.used = self.asked - struct.unpack_from("<q", self.map)[0]
        self.asked = 0
        self.map[:8] = bytes(8)

    def stack(self) -> list[str]:
        """Where it failed: MODULE+0xOFFSET, innermost first."""
        return self.map[16:].split(b"\0")[0].decode().splitlines()[1:]


def named(stack: list[str]) -> list[str]:
    """The program's frames as function and line."""
    out = []
    for frame in stack:
        module, offset = frame.split("+")
        if module == "program":
            text = subprocess.run(["addr2line", "-fse", TV3SD, offset], capture_output=True, text=True).stdout.split("\n")
            frame = f"{text[0]} {text[1]}"
        out.append(frame)
    return out


def sanitizer(log: str) -> str:
    """What is not a log line of the daemon's."""
    return "\n".join(line for line in log.splitlines() if not line.startswith("ts="))[:6000]


class Tally:
    def __init__(self) -> None:
        self.tried, self.answers, self.wrong, self.places = 0, Counter(), [], set()
        self.failed = True  # an allocation did, the last time

    def add(self, n: int, answer: str, after: str, stack: list[str], log: Path, at=0) -> None:
        """`log`: the daemon's; from byte `at` on it is of this time."""
        self.tried += 1
        self.answers[answer] += 1
        self.failed = bool(stack)
        if stack:
            self.places.add(tuple(stack[1:]))
        if answer.startswith("WRONG") or after != "right":
            end = time.monotonic() + PATIENCE   # a request is logged behind its answer
            while log.stat().st_size <= at and time.monotonic() < end:
                time.sleep(0.02)
            said = log.read_bytes()[at:].decode(errors="replace")
            self.wrong.append({"n": n, "answer": answer, "after": after, "stack": named(stack), "log": str(log), "at": at,
                               "said": said[-4000:]})

    def result(self, allocations: int, **more) -> dict:
        return {"allocations": allocations, "tried": self.tried, "places": self.places, "answers": dict(self.answers), "wrong": self.wrong, **more}


def said(work: Callable[[], str]) -> str:
    try:
        return work()
    except Exception as e:
        return f"WRONG {type(e).__name__}: {e}"


def torture(scenario: Scenario, d: Daemon, memory: Memory, choose: Choice) -> dict:
    """Everything that a client does in a scenario, with one allocation failing each time."""
    tally, scenario.disarm, log = Tally(), memory.disarm, Path(d.log_path)

    def act(n: int) -> str:
        def work() -> str:
            scenario.prepare(d)
            memory.fail(n)
            return scenario.act(d)
        answer = said(work)
        memory.disarm()
        return answer
    act(0)  # what is made once, at first use
    first = act(ENDLESS)
    allocations = memory.used
    tally.add(0, first, "right", [], log)
    for n in choose(allocations, tally):
        at = log.stat().st_size
        answer = act(n)
        stack = memory.stack()
        tally.add(n, answer, act(0), stack, log, at)
        if d.process.poll() is not None:
            break
    return tally.result(allocations)


def serve(model: str, folder: Path, kind: type[Scenario], material: Material, memory: Memory, choose: Choice) -> dict:
    scenario = kind(material)
    with Daemon(model, folder / kind.__name__, *scenario.flags, env=memory.environment) as d:
        result = torture(scenario, d, memory, choose)
        if d.process.poll() is None:
            d.stop()
    return {**result, "exit_status": d.process.returncode, "sanitizer": sanitizer(d.log())}


def starts(model: str, folder: Path, kind: type[Left], material: Material, memory: Memory, choose: Choice) -> dict:
    """A start with a job that goes on: it starts and the job ends well, or says why not, and the next start does it."""
    tally, reports = Tally(), ""
    left = kind(model, folder, material, memory)

    def act(n: int, spool: Path, log: Path) -> str:
        nonlocal reports
        memory.fail(n)
        answer = said(lambda: left.start(spool, log))
        memory.disarm()
        reports += sanitizer(log.read_text())
        return answer
    log = folder / "start.log"
    tally.add(0, act(ENDLESS, left.spool(0), log), "right", [], log)
    allocations = memory.used
    for n in choose(allocations, tally):
        spool, log, again = left.spool(n), folder / f"start-{n}.log", folder / f"start-{n}-again.log"
        answer = act(n, spool, log)
        stack = memory.stack()
        after = "right" if answer.startswith("job failed") else act(0, spool, again)
        tally.add(n, answer, after, stack, log if after == "right" else again)
        shutil.rmtree(spool)
    return tally.result(allocations, exit_status=0, sanitizer=reports[:6000])


def part(choose: Choice, first: int, of: int) -> Choice:
    """Every `of`-th of what is chosen."""
    return lambda count, tally: (n for n in choose(count, tally) if n % of == first)


def merged(parts: list[dict]) -> dict:
    """Of one scenario."""
    out = dict(parts[0])
    for p in parts[1:]:
        out["allocations"] = max(out["allocations"], p["allocations"])
        out["answers"] = dict(Counter(out["answers"]) + Counter(p["answers"]))
        out["exit_status"] = out["exit_status"] or p["exit_status"]
        for name in ("tried", "places", "wrong", "sanitizer", "seconds"):
            out[name] = out[name] | p[name] if name == "places" else out[name] + p[name]
    return {**out, "places": len(out["places"]), "seconds": round(out["seconds"])}


def run(model: str, folder: Path, choose: Choice, only="", libraries=OURS, workers=1) -> dict:
    """By scenario. `workers` daemons beside each other; the starts, which are most of the work, are done in parts, and once:
    a start is mostly one thread's."""
    folder.mkdir()
    material, result, parts = Material(model, folder), {}, 1 if workers == 1 else 4 * workers
    tasks = [(kind.__name__, serve, kind, choose) for kind in SCENARIOS]
    tasks += [("Start", starts, Left, part(once if choose is all_in_turn else choose, i, parts)) for i in range(parts)]

    def do(n: int, work: Callable[..., dict], kind: type, chosen: Choice) -> dict:
        own, began = folder / f"run-{n}", time.monotonic()
        own.mkdir()
        try:
            out = work(model, own, kind, material, Memory(own, libraries), chosen)
        except Exception:  # the others go on
            out = {**Tally().result(0), "wrong": [traceback.format_exc()], "exit_status": 0, "sanitizer": ""}
        return {**out, "seconds": time.monotonic() - began}
    with ThreadPoolExecutor(workers) as pool:
        wanted = [t for t in tasks if re.fullmatch(only or ".*", t[0])]
        done = [(task[0], pool.submit(do, n, *task[1:])) for n, task in enumerate(wanted)]
        for name in dict.fromkeys(task[0] for task in wanted):
            result[name] = merged([future.result() for of, future in done if of == name])
            print(name, {k: v for k, v in result[name].items() if k != "wrong"}, file=sys.stderr, flush=True)
    return result


def good(result: dict) -> bool:
    return not any(r["wrong"] or r["exit_status"] or r["sanitizer"] for r in result.values())


def once(count: int, tally: Tally) -> Iterator[int]:
    """How many allocations there are differs from time to time: on, until none is left to fail."""
    for n in itertools.count(1):
        yield n
        if n >= count and not tally.failed:
            return


def all_in_turn(count: int, tally: Tally) -> Iterator[int]:
    """So does their order, by threads: all again, until that shows no new place."""
    places = -1
    while places < len(tally.places):
        places = len(tally.places)
        yield from once(count, tally)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--only", default="", help="a regular expression of scenarios")
    p.add_argument("--libraries", default=OURS)
    p.add_argument("--workers", type=int, default=2 * (os.cpu_count() or 1), help="daemons beside each other")
    a = p.parse_args()
    folder = Path(tempfile.mkdtemp())
    result = run(make_tiny_model(folder), folder / "run", all_in_turn, a.only, a.libraries, a.workers)
    print(json.dumps(result, indent=1))
    if good(result):
        shutil.rmtree(folder)
        return 0
    return 1  # and the logs that it names stay


if __name__ == "__main__":
    sys.exit(main())
