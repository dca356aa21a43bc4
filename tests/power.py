"""The daemon on a disk whose power fails, or that fills: see preload/power.c. Without threads: preload/threads.c."""
from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from conftest import HERE


def preload(name: str, folder: Path, **more: str) -> dict[str, str]:
    """The environment of a daemon under preload/NAME.c."""
    library = folder / f"{name}.so"
    if not library.exists():
        subprocess.run(["cc", "-std=c11", "-D_GNU_SOURCE", "-O1", "-fPIC", "-shared", "-o", library,
                        os.path.join(HERE, f"preload/{name}.c")], check=True)
    asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    return {**os.environ, "LD_PRELOAD": str(library), "ASAN_OPTIONS": asan, **more}


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Of one whose durable bytes go below `folder`."""
    (folder / "durable").mkdir(exist_ok=True)
    return preload("power", folder, POWER_DIR=str(folder / "durable"), **more)


def after_the_cut(spool: Path, folder: Path, out: Path) -> None:
    """Makes `out` what is left of `spool`."""
    durable = folder / "durable"

    def build(inode: int, at: Path) -> None:
        at.mkdir()
        names = durable / f"folder-{inode}"
        for line in names.read_text().splitlines() if names.exists() else ():
            kind, number, name = line.split(" ", 2)
            if kind == "folder":
                build(int(number), at / name)
            elif (durable / f"file-{number}").exists():
                shutil.copy(durable / f"file-{number}", at / name)
            else:
                (at / name).touch()
    build(spool.stat().st_ino, out)
