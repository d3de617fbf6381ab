import numpy as np
import pytest
import torch
from PIL import Image

import hashzoo
from hashzoo.codes import Codes
from hashzoo.config import ComponentRef, ModelConfig, PreprocessConfig, read_json
from hashzoo.errors import CodesError, ConfigError, ImageError, PluginError, UnknownNameError
from hashzoo.network import HashNetwork


def away_from_zero(u):
    """Which bits no rounding can turn."""
    return u.abs() > 1e-5 * u.abs().mean()


def relaxed(model, images, **options):
    return torch.cat([u for _, u in model.encode_batches(images, **options)])


def build(bits=12, **changes):
    parts = {"backbone": "cnn3", "head": "linear", "quantizer": "sign"} | changes
    refs = {kind: ref if isinstance(ref, ComponentRef) else ComponentRef(name=ref) for kind, ref in parts.items()}
    return HashNetwork(**refs, bits=bits, preprocess=PreprocessConfig(size=(32, 32)))


@pytest.mark.parametrize("backbone", ["cnn3", "torchvision/resnet18"])
def test_every_kind_of_image_makes_the_same_code(tmp_path, photo, encoded, make_model, backbone):
    model, array = make_model(backbone=backbone), photo(32, 32)
    path, tensor = tmp_path / "a.png", torch.from_numpy(array).permute(2, 0, 1)
    path.write_bytes(encoded(array))
    expected = model.encode(array)
    assert (len(expected), expected.bits, expected.model) == (1, 12, "demo")
    for image in (path, str(path), path.read_bytes(), Image.open(path), tensor):
        assert model.encode(image) == expected
        assert model.encode([image]) == expected
        assert model.encode(one for one in (image, image)) == Codes.concatenate([expected, expected])
    for batch in (array[None], tensor[None], (array,), iter([tensor])):
        assert model.encode(batch) == expected
    grey = array[..., 0]
    assert model.encode(grey) == model.encode(np.stack([grey] * 3, axis=-1))


def test_none_make_none(make_model):
    model = make_model()
    for nothing in (
        [],
        (),
        iter([]),
        np.empty((0, 32, 32, 3), np.uint8),
        torch.empty((0, 3, 32, 32), dtype=torch.uint8),
    ):
        codes = model.encode(nothing)
        assert (codes.packed.shape, codes.bits, codes.model) == ((0, 2), 12, "demo")


@pytest.mark.parametrize("backbone", ["cnn3", "torchvision/resnet18"])
def test_codes_do_not_depend_on_batch_order_or_mode(photo, make_model, backbone):
    model = make_model(bits=48, backbone=backbone)
    images = [photo(32 + seed, 40, seed=seed) for seed in range(7)]
    u = relaxed(model, images, batch_size=1)
    assert len({row.tobytes() for row in model.encode(images).packed}) > 1  # the images do differ
    sure = away_from_zero(u).numpy()
    assert sure.mean() > 0.99
    before = {name: value.clone() for name, value in model.state_dict().items()}
    order = np.random.default_rng(0).permutation(7)
    for training in (False, True):
        model.train(training)
        for batch_size in (1, 3, 64):
            bits = model.encode(images, batch_size=batch_size).to_bits()
            np.testing.assert_array_equal(bits[sure], (u.numpy() >= 0)[sure])
            mixed = model.encode([images[row] for row in order], batch_size=batch_size).to_bits()
            np.testing.assert_array_equal(mixed[sure[order]], bits[order][sure[order]])
        assert model.training is training
        assert model.backbone.training is training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name  # no batch statistics moved


def test_encode_leaves_a_frozen_part_frozen(photo, make_model):
    model = make_model().train()
    model.backbone.eval()
    model.encode(photo(32, 32))
    assert model.head.training
    assert not model.backbone.training


def test_u_and_logits_are_float32_also_under_autocast(make_model):
    model = make_model()
    linear = model.head.linear
    model.head.forward = lambda features: (linear(features), linear(features))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.zeros(2, 3, 32, 32))
        assert linear(torch.zeros(2, 500)).dtype == torch.bfloat16
    assert output.u.dtype == output.logits.dtype == torch.float32


def test_codes_know_the_weights_that_made_them(photo, make_model):
    assert make_model().encode(photo(32, 32)).weights is None
    model = hashzoo.load("dsbh-cnn3-cifar10-48bit", device="cpu")
    assert model.encode(photo(32, 32)).weights == model.config.weights_sha256[:16] == model.encode([]).weights


def test_a_bit_is_1_where_u_is_at_least_0(photo, make_model):
    model, images = make_model(bits=13), [photo(32, 32, seed=seed) for seed in range(5)]
    u = relaxed(model, images)
    assert (u.dtype, u.shape) == (torch.float32, (5, 13))
    np.testing.assert_array_equal(model.encode(images).to_bits(), u.numpy() >= 0)
    with torch.no_grad():
        model.head.linear.weight.zero_()
        model.head.linear.bias.copy_(torch.tensor([0.0, -0.0, 1e-30, -1e-30, 5, -5, 0, 0, 0, 0, 0, 0, 0]))
        output = model(torch.zeros(2, 3, 32, 32))
    assert model.encode(images[0]).to_bits()[0].astype(int).tolist() == [1, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1]
    assert torch.equal(output.codes, torch.where(output.u >= 0, 1.0, -1.0))


def test_unreadable_images(tmp_path, photo, encoded, make_model):
    model = make_model()
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    good.write_bytes(encoded(photo()))
    bad.write_text("no image")
    images = [bad, good, tmp_path / "gone.jpg", good, np.zeros((4, 4), np.float32), tmp_path]
    with pytest.raises(ImageError, match=r"bad\.jpg cannot be read"):
        model.encode(images)
    with pytest.raises(ImageError, match=r"gone\.jpg does not exist"):
        model.encode(images[1:])
    codes = model.encode(images, on_error="skip", batch_size=1)
    assert codes == model.encode([good, good])
    assert [position for position, _ in codes.failed] == [0, 2, 4, 5]
    for name, (_, reason) in zip(("bad.jpg", "gone.jpg", "float32", tmp_path.name), codes.failed, strict=True):
        assert name in reason
    assert codes[:1].failed == ()
    parts = list(model.encode_batches(images, on_error="skip", batch_size=4))
    assert [positions for positions, _ in parts] == [[1, 3]]
    assert len(model.encode([bad], on_error="skip")) == 0
    errors = []
    assert model.encode(images, on_error=errors.append, batch_size=3) == codes
    assert [(error.position, str(error)) for error in errors] == list(codes.failed)
    with pytest.raises(ImageError, match="on_error is 'raise', 'skip' or a function, not 'ignore'"):
        model.encode(good, on_error="ignore")


def test_a_folder_is_its_pictures(tmp_path, make_model, photo, encoded):
    model = make_model()
    with pytest.raises(ImageError, match="no image"):
        model.encode(tmp_path)
    (tmp_path / "below").mkdir()
    places = [tmp_path / "a.png", tmp_path / "below" / "b.png", tmp_path / "c.jpg"]
    for seed, place in enumerate(places):
        place.write_bytes(encoded(photo(seed=seed)))
    assert model.encode(tmp_path) == model.encode(str(tmp_path)) == model.encode(sorted(map(str, places)))


@pytest.mark.parametrize("thing", [5, None, 1.5, object()])
def test_things_that_are_no_images(make_model, thing):
    with pytest.raises(ImageError, match=f"An image is a path, .* not {type(thing).__name__}"):
        make_model().encode(thing)


def test_images_are_taken_a_batch_at_a_time(photo, make_model):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield photo(32, 32)

    positions, u = next(make_model().encode_batches(endless(), batch_size=3))
    assert (positions, u.shape, len(taken)) == ([0, 1, 2], (3, 12), 3)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused(photo, make_model, batch_size):
    with pytest.raises(ImageError, match=f"batch_size is at least 1, not {batch_size}"):
        make_model().encode([photo(32, 32)], batch_size=batch_size)


@pytest.mark.parametrize("bits", [0, 3, 1025, True, 12.0, None])
def test_lengths_that_are_none(bits):
    with pytest.raises(CodesError, match="A code length is a whole number from 4 to 1024"):
        build(bits=bits)


def test_components_that_are_not_there():
    with pytest.raises(UnknownNameError, match=r"No backbone is named 'cnn33' \(did you mean 'cnn3'"):
        build(backbone="cnn33")
    with pytest.raises(UnknownNameError, match=r"No torchvision model is named 'resnet118' \(did you mean 'resnet18'"):
        build(backbone="torchvision/resnet118")
    nobodys = ComponentRef(name="nobodys", package="zoo-nobody")
    with pytest.raises(PluginError, match=r"'nobodys' comes with the package zoo-nobody, .*`.*pip install zoo-nobody`"):
        build(head=nobodys)
    known = ComponentRef(name="nobodys", package="hashzoo")
    with pytest.raises(UnknownNameError, match="No head is named 'nobodys'"):
        build(head=known)


def test_a_config_names_the_package_of_its_component():
    assert build(backbone=ComponentRef(name="cnn3", package="hashzoo-dsbh")).encode([]).bits == 12
    assert build(backbone=ComponentRef(name="hashzoo-dsbh/cnn3")).encode([]).bits == 12
    moved = ComponentRef(name="cnn3", package="zoo-nobody")  # the name is registered, by another package
    assert build(backbone=moved).encode([]).bits == 12


def test_arguments_that_a_component_does_not_take():
    message = r"^The head 'linear' of hashzoo takes no argument 'bogus' from a config or recipe; it takes none\.$"
    with pytest.raises(ConfigError, match=message):
        build(head=ComponentRef(name="linear", args={"bogus": 1}))


@pytest.mark.parametrize(
    ("part", "args"),
    [
        ("head", {"bits": 5}),
        ("head", {"feature_shape": [512]}),
        ("backbone", {"pretrained": True}),
        ("quantizer", {"name": "x"}),
        ("quantizer", {"kind": "x"}),
    ],
)
def test_arguments_that_a_config_may_not_give(part, args):
    name = {"head": "linear", "backbone": "cnn3", "quantizer": "sign"}[part]
    with pytest.raises(ConfigError, match=rf"^The {part} '{name}' .*{next(iter(args))}"):
        build(**{part: ComponentRef(name=name, args=args)})


def test_config_round_trip(tmp_path):
    config = ModelConfig(
        name="dsbh-cnn3-cifar10-12bit.5k", method="dsbh", bits=12,
        backbone=ComponentRef(name="cnn3", package="hashzoo-dsbh"), head=ComponentRef(name="linear"),
        quantizer=ComponentRef(name="sign", args={"gradient": "identity"}),
        preprocess=PreprocessConfig(size=(32, 48), mean=(0.1, 0.2, 1 / 3)), dataset="cifar10", classes=("cat", "dög"),
        weights_sha256="0" * 64,
    )  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json(indent=2), encoding="utf-8")
    again = read_json(ModelConfig, path)
    assert again == config
    assert again.preprocess.mean[2] == 1 / 3
