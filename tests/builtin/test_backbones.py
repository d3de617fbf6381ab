"""timm and torchvision backbones and the linear head: the shapes they promise are the shapes they give."""

import pytest
import timm
import torch

from hashzoo import Backbone, ConfigError, HashNetwork, HashzooError
from hashzoo.builtin.backbones import Timm
from hashzoo.builtin.heads import LinearHead
from hashzoo.config import ComponentRef, PreprocessConfig, validate
from hashzoo.errors import UnknownNameError
from hashzoo.registry import registry


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


# name -> feature_shape, parameters without the classifier, and the size and mean asked of preprocessing
BACKBONES = {
    "timm/resnet18": ((512, 7, 7), 11_176_512, (224, 224), 0.485),
    "timm/vit_tiny_patch16_224": ((192,), 5_524_416, (224, 224), 0.5),
    "timm/tf_efficientnet_lite0": ((1280, 7, 7), 3_371_008, (224, 224), 0.5),
    "torchvision/resnet18": ((512,), 11_176_512, (224, 224), 0.485),
    "torchvision/alexnet": ((4096,), 57_003_840, (224, 224), 0.485),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_features_have_the_promised_shape(name):
    shape, count, size, mean = BACKBONES[name]
    backbone = registry().build("backbone", name, pretrained=False)
    assert isinstance(backbone, Backbone)
    assert backbone.training
    assert backbone.feature_shape == shape
    assert backbone.num_features == shape[0]
    assert parameters(backbone) == count
    preprocess = validate(PreprocessConfig, backbone.preprocess, "preprocess")
    assert (preprocess.size, preprocess.mean[0]) == (size, mean)
    with torch.inference_mode():
        features = backbone.eval()(torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    assert features.shape == (2, *shape)
    assert features.std() > 0


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18"])
def test_convolutional_networks_take_other_sizes(name):
    backbone = registry().build("backbone", name).eval()
    with torch.inference_mode():
        features = backbone(torch.zeros(1, 3, 96, 64))
    assert features.shape[:2] == (1, 512)
    assert features.shape[2:] == ((3, 2) if "timm" in name else ())


def test_token_features_are_pooled_as_timm_pools_them():
    backbone = registry().build("backbone", "timm/vit_tiny_patch16_224").eval()
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        tokens = backbone.model.forward_features(images)
        torch.testing.assert_close(backbone(images), tokens[:, 0])  # this ViT was trained on its class token


def test_arguments_reach_the_library():
    backbone = registry().build("backbone", "torchvision/alexnet", dropout=0.25)
    assert backbone.model.classifier[0].p == 0.25
    assert registry().build("backbone", "timm/resnet18", output_stride=8).feature_shape == (512, 28, 28)


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("timm/resnet81", "resnet18"),
        ("timm/vit_tiny_patch16_22", "vit_tiny_patch16_224"),
        ("torchvision/alexnt", "alexnet"),
        ("torchvision/resnet_18", "resnet18"),
    ],
)
def test_unknown_names_get_close_matches(name, close):
    with pytest.raises(UnknownNameError, match=rf"No (timm|torchvision) model is named .*did you mean .*'{close}'"):
        registry().build("backbone", name)


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18"])
def test_unknown_arguments_are_refused(name):
    with pytest.raises(HashzooError, match=rf"'{name}' of hashzoo cannot be built.*nonsense"):
        registry().build("backbone", name, nonsense=1)


def test_a_size_other_than_timms_own():
    backbone = registry().build("backbone", "timm/vit_tiny_patch16_224", img_size=64).eval()
    assert backbone.preprocess["size"] == (64, 64)
    assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, *backbone.feature_shape) == (1, 192)


def test_the_hub_id_of_published_weights(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, pretrained, **more: create(*args, **more))  # no download
    assert registry().build("backbone", "timm/resnet18", pretrained=True).base_model == "timm/resnet18.a1_in1k"
    assert registry().build("backbone", "timm/resnet18").base_model is None


def test_torchvision_models_with_auxiliary_outputs_are_refused():
    with pytest.raises(ConfigError, match="torchvision/googlenet has auxiliary outputs; pass aux_logits = false"):
        registry().build("backbone", "torchvision/googlenet", init_weights=False)
    backbone = registry().build("backbone", "torchvision/googlenet", init_weights=False, aux_logits=False)
    assert backbone.train()(torch.zeros(2, 3, 64, 64)).shape == (2, 1024)


def test_torchvision_model_without_a_linear_end_is_refused():
    with pytest.raises(ConfigError, match="torchvision/squeezenet1_0 ends in no linear layer"):
        registry().build("backbone", "torchvision/squeezenet1_0")


def test_linear_head_pools_then_multiplies():
    torch.manual_seed(0)
    head = LinearHead((8, 3, 2), bits=12, num_classes=5).double()
    features = torch.randn(2, 8, 3, 2, dtype=torch.float64)
    weight, bias = head.linear.weight, torch.randn(12, dtype=torch.float64)
    head.linear.bias.data = bias
    u = head(features)
    assert u.shape == (2, 12)
    for n in range(2):
        for k in range(12):
            wanted = bias[k].item()
            for d in range(8):
                pooled = sum(features[n, d, y, x].item() for y in range(3) for x in range(2)) / 6
                wanted += weight[k, d].item() * pooled
            assert u[n, k].item() == pytest.approx(wanted, rel=1e-10, abs=1e-12)


def test_linear_head_takes_vectors_and_starts_as_hashnet_does():
    torch.manual_seed(0)
    head = registry().build("head", "linear", feature_shape=(4096,), bits=48, num_classes=10)
    assert head(torch.zeros(3, 4096)).tolist() == [[0.0] * 48] * 3
    assert head.linear.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(head.linear.weight.mean().item()) < 1e-4
    assert parameters(head) == 4096 * 48 + 48


@pytest.mark.parametrize("bits", [4, 12, 48])
@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18"])
def test_in_a_model(name, bits):
    torch.manual_seed(0)
    model = HashNetwork(
        ComponentRef(name=name), ComponentRef(name="linear"), ComponentRef(name="sign"),
        bits=bits, preprocess=PreprocessConfig(size=(64, 64)),
    )  # fmt: skip
    output = model(torch.randn(2, 3, 64, 64))
    assert output.u.shape == output.codes.shape == (2, bits)
    output.u.square().sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    if name.startswith("torchvision"):  # timm starts each block's last scale at 0, which stops the gradient behind it
        assert [key for key, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_pooled_vectors_and_weights_of_ones_own(tmp_path, monkeypatch):
    """`pool` gives what the linear head would average; weights under HASHZOO_DATA are taken in place of a download."""
    from safetensors.torch import save_file

    monkeypatch.setenv("HASHZOO_DATA", str(tmp_path))
    whole = timm.create_model("resnet10t", num_classes=1000)
    (tmp_path / "weights").mkdir()
    save_file(whole.state_dict(), tmp_path / "weights" / "resnet10t.mine.safetensors")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps, pooled = (
        registry().build("backbone", "timm/resnet10t", pretrained=True, **args).eval() for args in ({}, {"pool": True})
    )
    assert pooled.feature_shape == (512,) and maps.feature_shape[0] == 512
    with torch.inference_mode():
        wanted = whole.eval().forward_features(images)
        torch.testing.assert_close(maps(images), wanted)
        torch.testing.assert_close(pooled(images), wanted.mean((2, 3)))


def test_weights_that_nobody_named_are_not_taken(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet10t.mine.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HASHZOO_DATA", raising=False)
    asked = {}
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **args: asked.update(args) or make(name, num_classes=0))
    backbone = Timm("resnet10t", pretrained=True)
    assert {name: value for name, value in asked.items() if value is not None} == {"pretrained": True, "num_classes": 0}
    assert (backbone.base_model, backbone.weights_file) == ("timm/resnet10t.c3_in1k", None)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_efficientnet", "tf_efficientnet_lite0", "resnet18"])
def test_shapes_are_told_without_running_the_network(model, monkeypatch):
    real = []
    network = timm.create_model(model, num_classes=0)
    forward = type(network).forward_features
    monkeypatch.setattr(
        type(network),
        "forward_features",
        lambda self, x: real.append(x.device.type) or forward(self, x),
    )
    backbone = Timm(model)
    assert real == ["meta"]
    assert {parameter.device.type for parameter in backbone.parameters()} == {"cpu"}
    assert backbone.training


def test_a_network_that_the_meta_device_cannot_run_is_run(monkeypatch):
    network = timm.create_model("test_resnet", num_classes=0)
    forward = type(network).forward_features

    def reads_a_value(self, images):
        return forward(self, images * (1 + images.sum().item() * 0))

    monkeypatch.setattr(type(network), "forward_features", reads_a_value)
    backbone = Timm("test_resnet")
    assert backbone.training
    assert backbone.eval()(torch.zeros(2, 3, *backbone.preprocess["size"])).shape == (2, *backbone.feature_shape)
