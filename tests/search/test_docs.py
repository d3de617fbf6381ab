"""docs/search.md: its code runs, and its figures say what they rest on."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "search.md"


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    found = {}
    exec(code, found)
    assert found["near"][0].ids[0, 0] == 0
    assert len(found["hashzoo"].Index.open("codes.index")) == 9998


@pytest.mark.parametrize("name", ["search-cpu.json", "search-cuda.json", "metrics-cpu.json", "open-index.json"])
def test_figures_say_what_they_rest_on(name):
    machine = json.loads((ROOT / "benchmarks" / "results" / name).read_text())["machine"]
    assert {"processor", "llvm_cpu", "cores", "numba", "commit"} <= set(machine)
    assert not machine["commit"].endswith("+changes")
