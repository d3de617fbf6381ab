"""Pages with tables are those of the committed figures, and the figures say what they rest on."""

import csv
import itertools
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest

from hashzoo.data import get_protocol
from hashzoo.training import make_recipe, read_recipe

ROOT = Path(__file__).parent.parent
FILES = {
    path.stem: list(csv.DictReader(path.open(encoding="utf-8")))
    for path in (ROOT / "benchmarks" / "results").glob("*.csv")
}
CELLS = FILES["baselines"]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "benchmarks" / "baselines.py"))


def test_the_tables_are_those_of_the_figures():
    for path, text in runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))["pages"]().items():
        assert path.read_text(encoding="utf-8") == text, f"run benchmarks/tables.py: {path.name} differs"


@pytest.mark.parametrize("file", FILES)
def test_a_cell_says_what_it_rests_on(file, script):
    rows = FILES[file]
    assert len({(row["method"], row["protocol"], row["bits"], row["seed"]) for row in rows}) == len(rows)
    for row in rows:
        assert list(row) == script["FIELDS"]
        protocol = get_protocol(row["protocol"])
        for name in ("query", "train", "database"):
            assert protocol.sha256[name].startswith(row[f"{name}_sha256"])
        assert (row["ties"], row["top_k"]) == ("expected", str(protocol.top_k or "all"))
        assert (row["backbone"] == "timm/tf_efficientnet_lite0") == (file != "ablations-whole")
        assert re.fullmatch(r"[0-9a-f]{40}", row["commit"])
        assert 0 < float(row["map"]) < 1 and int(row["distinct_codes"]) > 1


def test_every_method_has_its_cells(script):
    found = {(row["method"], row["protocol"], row["bits"]) for row in CELLS}
    missing = [
        (method, protocol, bits)
        for method in script["methods"]()
        for protocol, lengths in script["BITS"].items()
        for bits in lengths
        if (method, protocol, str(bits)) not in found and (method, protocol) not in script["SLOW"]
    ]
    assert missing == []


def test_the_command_of_the_page_is_the_cells_recipe(script):
    page = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    block = next(block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "dahp" in block)
    words = shlex.split(block)
    changes = tomllib.loads("\n".join(word for flag, word in itertools.pairwise(words) if flag == "--set"))
    made = make_recipe("dahp", bits=64, dataset="tiny-imagenet", protocol="tiny-imagenet", changes=changes)
    assert made == script["recipe_of"]("dahp", "tiny-imagenet", 64, 0)


def test_a_network_trained_whole_has_its_models_recipe(script):
    for variant, model in script["WHOLE"].items():
        _, change = script["ABLATIONS"][variant]
        shipped = read_recipe(ROOT / "model_cards" / model / "recipe.toml").model_dump(exclude={"name"})
        made = script["whole_recipe"](variant, 0).model_dump(exclude={"name"})
        assert {key for key in made if made[key] != shipped[key]} == set(change)
    rows = [row for row in FILES["ablations-whole"] if not script["ABLATIONS"][row["method"]][1]]
    assert len(rows) == 6  # the models as they ship, in three seeds
    for row in rows:
        cell = script["shipped"](
            script["whole_recipe"](row["method"], int(row["seed"])), script["WHOLE"][row["method"]]
        )
        assert {key: str(value) for key, value in cell.items()} == row
