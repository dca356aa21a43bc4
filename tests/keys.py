"""Key files, made by the tool."""
from __future__ import annotations

import subprocess

from conftest import TV3S

ALL = "submit,stream,read,admin"


def new_key(file, name: str, roles: str = ALL, *limits) -> str:
    """Adds a key to the file, and gives what it is."""
    done = subprocess.run([TV3S, "key", name, "--roles", roles, "--file", file, *map(str, limits)], check=True,
                          capture_output=True, text=True)
    return done.stdout.strip()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": "Bearer " + key}
