"""What docs/ names is there: files, tests, settings, metrics, make targets."""
from __future__ import annotations

import glob
import os
import re

import pytest

from conftest import HERE

ROOT = os.path.join(HERE, "..")
PAGES = ["docs/operating.md", "docs/threat-model.md", "deploy/prometheus/alerts.yml"]


def read(*patterns: str) -> str:
    text = []
    for pattern in patterns:
        found = glob.glob(os.path.join(ROOT, pattern), recursive=True)
        assert found, pattern
        for path in found:
            with open(path) as f:
                text.append(f.read())
    return "\n".join(text)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page):
    text, settings, metrics = read(page), read("server/config.def"), read("server/metrics*.def")
    tests, targets = read("tests/*.py", "tests/unit/*.c"), read("Makefile", "deploy/install.mk")
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert os.path.exists(os.path.join(ROOT, os.path.dirname(page), link)), link
    for path in re.findall(r"`((?:deploy|tests|server|media|engine|proto|models)/[\w./-]+)`", text):
        assert os.path.exists(os.path.join(ROOT, path)), path
    for name in re.findall(r"`((?:test|fuzz)_\w+)(\.(?:py|c))?`", text):
        if name[1]:
            assert glob.glob(os.path.join(ROOT, "tests", "**", "".join(name)), recursive=True), name
        else:
            assert re.search(rf"\b{name[0]}\(", tests), name
    for name in re.findall(r"(?<!/)\btv3sd_[a-z_]+", text):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        made = name == "tv3sd_frames_per_second"  # by the Prometheus adapter, of another
        assert made or f'"{base}"' in metrics, name
    for name in re.findall(r"\bmake ([a-z-]+)`", text):
        assert re.search(rf"^{name}:", targets, re.M), name
    for row in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, re.M):
        for name in re.findall(r"`([a-z_]+)`", row):
            assert re.search(rf"CONFIG_\w+\({name},", settings), name
