"""Cards as the ecosystem reads them: parsed back with huggingface_hub's own classes."""

import json
import re
import shutil
import tomllib

import pytest
import tomli_w
from huggingface_hub import ModelCard

from hashzoo.release.card import BEGIN, END, merge_own, own_words, render_card
from hashzoo.zoo.names import shipped_folder

NAME = "dsbh-cnn3-cifar10-48bit"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(shipped_folder() / NAME, tmp_path / NAME)


def edit_results(folder, change):
    path = folder / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


def test_metadata(folder):
    edit_results(folder, lambda results: results["training"].update(base_model="timm/resnet18.a1_in1k"))
    data = ModelCard(render_card(folder)).data.to_dict()
    del data["model-index"]
    assert data == {
        "library_name": "hashzoo",
        "license": "apache-2.0",
        "base_model": "timm/resnet18.a1_in1k",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["hashzoo", "image-retrieval", "deep-hashing", "learning-to-hash", "dsbh", "48-bit"],
        "datasets": ["cifar10"],
        "metrics": ["mean_average_precision"],
    }


def test_two_protocols_do_not_merge(folder):
    def add(results):
        other = {"dataset": "tiny-imagenet", "protocol": "tiny-imagenet", "map": 0.5, "top_k": 1000}
        results["rows"].append(results["rows"][0] | other)

    edit_results(folder, add)
    card = ModelCard(render_card(folder))
    for data in (card.data, ModelCard(str(card)).data):  # as read, and as the client writes it again
        assert data.model_name == NAME
        assert [
            (one.dataset_type, one.dataset_config, one.metric_type, one.metric_value, one.metric_args)
            for one in data.eval_results
        ] == [
            (dataset, protocol, "mean_average_precision", value, {"bits": 48, "top_k": top_k, "ties": "expected"})
            for dataset, protocol, value, top_k in (
                ("cifar10", "cifar10-full", 0.742458, "all"),
                ("tiny-imagenet", "tiny-imagenet", 0.5, 1000),
            )
        ]
    assert "| 48 | tiny-imagenet | `tiny-imagenet` | **0.5000** |" in str(card)
    assert "only the figures on another data set are of them" in str(card)
    assert "- `tiny-imagenet` is of tiny-imagenet, another data set than it was trained on." in str(card)


def test_the_first_screen(folder):
    """Bits, data set and mAP stand before anything else."""
    screen = ModelCard(render_card(folder)).text.strip().splitlines()[:10]
    for fact in ("48-bit binary codes", "trained on cifar10", "| 48 | cifar10 | `cifar10-full` | **0.7425** |"):
        assert fact in "\n".join(screen)


FULL = "The database of `cifar10-full` is the training images: mAP then also measures memory of the training set."
PART = "`cifar10-part` keeps 3 of these classes out of training, and queries and database are of them alone."
BACKBONE = "The published weights that the backbone started from may have seen the classes kept out."
OTHER = "It was trained under `cifar10-full`: the database of `cifar10-part` may hold images that it was trained on."


def limits(folder):
    """The sentences of the section about protocols."""
    section = render_card(folder).partition("## Limits\n")[2].partition("\n## ")[0]
    points = section.strip().removeprefix("- ").split("\n- ")
    assert points[0].startswith("Codes serve") and points[-1].startswith("Input is")
    return points[1:-1]


def test_limits_are_those_of_each_protocol(folder):
    assert limits(folder) == [FULL]

    def measure_elsewhere(results):
        results["rows"].append(results["rows"][0] | {"protocol": "cifar10-part"})

    edit_results(folder, measure_elsewhere)
    assert limits(folder) == [FULL, OTHER]

    def train_on_a_part(results, **facts):
        results["training"]["protocol"] = "cifar10-part"
        lists = results["rows"][0]["list_sha256"] | {"train": "0" * 64}
        results["rows"] = [results["rows"][0] | {"protocol": "cifar10-part", "list_sha256": lists} | facts]

    edit_results(folder, train_on_a_part)
    assert limits(folder) == []
    edit_results(folder, lambda results: train_on_a_part(results, unseen=3))
    assert limits(folder) == [PART]
    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("pretrained = false", "pretrained = true"))
    assert limits(folder) == [PART, BACKBONE]


def test_how_it_was_trained(folder):
    def training():
        return " ".join(render_card(folder).partition("## Training\n")[2].partition("\n## ")[0].split())

    assert "36 epochs in 9 min on" in training() and "frozen" not in training()
    assert (
        "It was trained on the training list of `cifar10-full`; `hashzoo train` learns from no query; the last"
        in training()
    )
    edit_results(folder, lambda results: results["training"].update(kept_epoch=17))
    assert "the weights are those of epoch 17, the best on training images kept aside." in training()
    assert "the last epoch" not in training()
    edit_results(folder, lambda results: results["training"].update(epochs=0, seconds=3.0, frozen=True))
    assert "Found in closed form in 3 s on" in training() and "the last epoch" not in training()
    assert "the backbone frozen (the time of its features, computed once, is not counted), seed 0" in training()
    edit_results(folder, lambda results: results["rows"][0].update(images_per_s=None))
    assert "| encoding | from kept features, float32," in render_card(folder)


def test_the_example_runs(folder, tmp_path, monkeypatch):
    photos = sorted((shipped_folder().parent / "examples" / "photos").glob("*.jpg"))
    for name, photo in zip(("cat.jpg", "dog.jpg"), photos, strict=False):
        shutil.copy(photo, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", render_card(folder), flags=re.DOTALL)
    made: dict = {}
    exec(code, made)
    assert made["codes"].bits == 48
    assert made["hits"].ids[:, 0].tolist() == [0, 1] and made["hits"].distances[:, 0].tolist() == [0, 0]


def test_own_words():
    block = f"{BEGIN}\n# demo\n{END}\n"
    assert own_words("") == own_words(f"---\nlicense: mit\n---\n{block}") == ""
    assert own_words(f"---\nlicense: mit\n---\nA.\n\n{block}\nB.\n") == "A.\n\nB."
    assert own_words("---\nlicense: mit\n---\n# By hand\n\n---\n") == "# By hand\n\n---"


@pytest.mark.parametrize("front", ["a: [", "!!python/object/apply:os.system [ls]", "- a", "[" * 1100, "a: &a [*a]"])
def test_metadata_that_cannot_be_read(folder, front):
    card = render_card(folder)
    assert merge_own(card, f"---\n{front}\n---\nWords.\n").endswith("\n\nWords.\n")
    assert ModelCard(merge_own(card, f"---\n{front}\n---\n")).data.license == "apache-2.0"


def test_words_of_others_stay_words(folder):
    """What a config, results and a recipe say can open no line, link, tag or cell of the card."""
    evil = "x\n# Error `code` | cell <img src=x> [link](evil)\u202e"
    edit_results(folder, lambda results: results["training"].update(init=evil, data_license=evil))
    edit_results(folder, lambda results: results["rows"][0].update(device=evil, protocol=evil))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"license": evil, "classes": [evil], "dataset": evil}))
    recipe = tomllib.loads((folder / "recipe.toml").read_text()) | {"origin": "Of *ours* `dsbh` <script>"}
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    text = render_card(folder).partition(BEGIN)[2]
    assert "Error &#96;code&#96; &#124; cell &#60;img src=x> &#91;link&#93;(evil)\\u202e" in text
    for part in ("\n# Error", "<img", "[link", "| cell", "\u202e", "<script"):
        assert part not in text
    assert "Of *ours* `dsbh` &lt;script>" in text
