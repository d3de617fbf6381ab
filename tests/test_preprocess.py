import numpy as np
import pytest
import torch

from hashzoo.config import PreprocessConfig
from hashzoo.errors import ImageError
from hashzoo.pictures.fit import prepare, preprocess_id
from hashzoo.preprocess import Preprocess


def test_a_tensor_is_the_pixels_that_an_array_is(photo, make_model):
    for shape in ((32, 32), (50, 70)):
        preprocess = Preprocess(PreprocessConfig(size=(32, 32)))
        expected = prepare(photo(*shape), preprocess.config).transpose(2, 0, 1)
        fitted = preprocess.fitted(photo(*shape))
        assert fitted.dtype == torch.uint8
        np.testing.assert_array_equal(fitted, expected)
        picture = torch.from_numpy(photo(*shape)).permute(2, 0, 1)
        assert make_model().encode([picture, photo(*shape)]) == make_model().encode([photo(*shape)] * 2)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.int64), torch.zeros(1, 4, 4, dtype=torch.uint8),
        torch.zeros(4, 4, 3, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8),
        torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, 3, 4, 4, dtype=torch.uint8),
        torch.zeros(3, 0, 4, dtype=torch.uint8),
    ],
    ids=lambda tensor: f"{tensor.dtype}{tuple(tensor.shape)}",
)  # fmt: skip
def test_wrong_tensors(tensor, make_model):
    with pytest.raises(ImageError, match=r"^An image tensor is uint8 of shape \(3, H, W\), not torch\."):
        make_model().encode([tensor])


def test_normalise_against_a_loop(photo):
    config = PreprocessConfig(size=(8, 9), mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
    batch = torch.stack([Preprocess(config).fitted(photo(8, 9, seed=seed)) for seed in range(2)])
    out = Preprocess(config).normalise(batch)
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    expected = np.empty(batch.shape)
    for index, value in np.ndenumerate(batch.numpy()):
        expected[index] = (int(value) / 255 - config.mean[index[1]]) / config.std[index[1]]
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_whole_way(tmp_path, photo, encoded):
    config = PreprocessConfig(size=(32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    (tmp_path / "a.png").write_bytes(encoded(photo(32, 32)))
    preprocess = Preprocess(config)
    out = preprocess.normalise(torch.stack([preprocess.fitted(it) for it in (tmp_path / "a.png", photo(50, 70))]))
    assert out.shape == (2, 3, 32, 32)
    np.testing.assert_allclose(out[0].permute(1, 2, 0).numpy(), photo(32, 32) / 255, atol=1e-6)
    assert Preprocess(config).id == preprocess_id(config)
