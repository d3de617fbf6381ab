"""Networks without a folder, and the folders that `save` gives them."""

import json
import multiprocessing
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import hashzoo
from hashzoo import machine
from hashzoo.config import ModelConfig, validate
from hashzoo.encoder import encode
from hashzoo.engines import ENGINES
from hashzoo.pretrained import EncoderSpec
from hashzoo.zoo.folder import read
from hashzoo.zoo.location import Location
from hashzoo.zoo.names import shipped_folder
from hashzoo.zoo.probe import Probe
from hashzoo.zoo.results import Advice, Found, Results


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return hashzoo.create_model("torchvision/resnet18", bits=16, num_classes=3, preprocess={"size": (32, 32)})


def test_a_network_is_made_saved_and_loaded(network, tmp_path, photo):
    model = hashzoo.save(network, tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert config["format"] == 2 and "dataset" not in config and "nested" not in config
    assert isinstance(model, hashzoo.HashModel) and (model.name, model.config.classes) == ("mine", ("0", "1", "2"))
    pictures = [photo(seed=seed) for seed in range(3)]
    again = hashzoo.load(tmp_path / "mine", device="cpu")
    assert again.encode(pictures) == model.encode(pictures)
    np.testing.assert_array_equal(again.encode(pictures).packed, network.encode(pictures).packed)
    with pytest.raises(hashzoo.ConfigError, match="holds a model already"):
        hashzoo.save(network, tmp_path / "mine")


def test_preprocessing_is_the_backbones_own():
    network = hashzoo.create_model("timm/tf_efficientnet_lite0", bits=8)
    assert network.preprocess.config.size == (224, 224)
    network = hashzoo.create_model("timm/tf_efficientnet_lite0", bits=8, preprocess={"fit": "squash"})
    assert (network.preprocess.config.size, network.preprocess.config.fit) == ((224, 224), "squash")


def test_wrong_names_and_arguments():
    with pytest.raises(hashzoo.UnknownNameError, match="did you mean"):
        hashzoo.create_model("torchvision/resnet18", head="linaer", bits=8)
    with pytest.raises(hashzoo.ConfigError, match="takes no argument 'poool'"):
        hashzoo.create_model("timm/resnet18", bits=8, args={"backbone": {"poool": True}})


def test_a_network_made_by_hashmodel_is_warned_of(network, tmp_path):
    with pytest.warns(DeprecationWarning, match="hashzoo.create_model"):
        model = hashzoo.HashModel(*network.refs.values(), bits=8, preprocess=network.preprocess.config)
    for work in (lambda: model.save_pretrained(tmp_path / "x"), lambda: model.push_to_hub("me/mine")):
        with pytest.raises(hashzoo.ConfigError, match=r"has no folder yet; hashzoo\.save"):
            work()


def test_the_lowest_format_that_says_it_is_written(network, tmp_path):
    config = hashzoo.load("dsbh-cnn3-cifar10-48bit", device="cpu").config
    assert json.loads(config.as_json()) == json.loads(config.model_copy(update={"format": 2}).as_json())
    for change in ({"nested": (12, 24)}, {"dataset": None}, {"method": None, "classes": ()}):
        data = json.loads(config.model_copy(update=change).as_json())
        assert data["format"] == 2
        assert ModelConfig.model_validate(data) == config.model_copy(update=change | {"format": 2})


def test_encoding_beside_training_changes_no_mode(network, photo):
    """A thread that encodes again and again; the network must stay in training mode all the while."""
    network.train()
    seen, stop = set(), threading.Event()

    def watch():
        while not stop.is_set():
            seen.update(module.training for module in network.modules())

    thread = threading.Thread(target=watch)
    thread.start()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    codes = [network.encode(photo()) for _ in range(20)]
    stop.set()
    thread.join()
    network.eval()
    assert seen == {True}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(code == network.encode(photo()) for code in codes)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_callers_in_many_threads_share_the_machine(network, photo):
    """32 threads encode at once: the answers are right, and the process has no more threads than callers and two teams."""
    pictures = [photo(seed=seed) for seed in range(4)]
    expected, tasks = network.encode(pictures), Path("/proc/self/task")
    before, alive = len(list(tasks.iterdir())), []

    def caller(number):
        codes = [network.encode(pictures) for _ in range(3)]
        alive.append(len(list(tasks.iterdir())))
        return codes

    with ThreadPoolExecutor(32) as callers:
        assert all(codes == expected for made in callers.map(caller, range(32)) for codes in made)
    assert max(alive) <= before + 32 + 2 * machine.cores()


def test_encoding_sees_what_training_changed(network, photo):
    view = network.encode(photo())
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        network.head.linear.weight.neg_()
    assert np.array_equal(network.encode(photo()).to_bits(), ~view.to_bits())
    network.load_state_dict(state)


def test_results_of_a_model_that_learned_under_no_protocol():
    written = json.loads((shipped_folder() / "dsbh-cnn3-cifar10-48bit" / "results.json").read_text())
    trained = Results.model_validate(written)
    again = json.loads(trained.as_json())
    assert (set(again), again["format"]) == ({"format", "training", "rows", "repeats"}, 1)  # as 0.1.0 reads it
    assert Results.model_validate(again) == trained
    found = Found(
        what="copies", share=0.9, max_distance=8, bits=48, queries=10, database=100, data="pictures", weights_sha256="0" * 64,
        device="cpu", precision="float32", seconds=1.0, commit="unknown",
    )  # fmt: skip
    fitted = Results(found=(found,), duplicate_distance=Advice(value=8, measured_with="pictures"))
    data = json.loads(fitted.as_json())
    assert data["format"] == 2 and "training" not in data and "rescore" not in data
    assert Results.model_validate(data) == fitted.model_copy(update={"format": 2})
    with pytest.raises(hashzoo.ConfigError, match="not trained under a protocol"):
        _ = fitted.trained


def test_a_spec_makes_an_encoder_in_another_process(photo):
    pictures, name = [photo(seed=seed) for seed in range(3)], "dsbh-cnn3-cifar10-48bit"
    model = hashzoo.load(name, device="cpu")
    spec = EncoderSpec(name, model.weights_id, "cpu")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as worker:
        assert worker.submit(encode_by, spec, pictures).result() == model.encode(pictures)
    with pytest.raises(hashzoo.WeightsError, match="other weights here"):
        EncoderSpec(name, "0" * 16, "cpu").open()
    with pytest.raises(hashzoo.UnknownNameError, match="No engine is named 'troch'"):
        EncoderSpec(name, engine="troch", device="cpu").open()


def encode_by(spec, pictures):
    return encode(spec.open(), pictures)


def test_a_new_engine_is_a_row(photo, monkeypatch):
    monkeypatch.setitem(ENGINES, "ones", f"{__name__}:Ones")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or SimpleNamespace(Ones=Ones))
    engine = EncoderSpec("dsbh-cnn3-cifar10-48bit", device="cpu", engine="ones").open()
    assert encode(engine, photo()).to_bits().all()


class Ones:
    def __init__(self, network, precision):
        self.name, self.bits, self.weights_id, self.precision = network.name, 48, None, precision
        self.preprocess = network.preprocess.config

    def run(self, batch):
        return np.ones((len(batch), 48), dtype=np.float32)


def test_a_network_loads_whatever_its_results_say(network, tmp_path, photo):
    hashzoo.save(network, tmp_path / "mine")
    for text in ("{", '{"format": 99}'):
        (tmp_path / "mine" / "results.json").write_text(text)
        assert hashzoo.load(tmp_path / "mine", device="cpu").encode(photo()).bits == 16
    with pytest.raises(hashzoo.ConfigError, match="has format 99, this hashzoo reads up to 2; update"):
        _ = read(Location(tmp_path / "mine")).results


def test_a_newer_format_says_so_whatever_the_file(tmp_path):
    for schema, newest in ((ModelConfig, 2), (Results, 2), (Probe, 1)):
        with pytest.raises(hashzoo.ConfigError, match=rf"has format {newest + 1}, .* reads up to {newest}; update"):
            validate(schema, {"format": newest + 1}, "file")
