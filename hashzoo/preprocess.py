"""The pixels that `hashzoo.pictures` makes as tensors, and normalised."""

from __future__ import annotations

import torch
from torch import Tensor

from hashzoo.config import PreprocessConfig
from hashzoo.pictures.decode import PictureLike
from hashzoo.pictures.fit import prepare, preprocess_id


class Preprocess:
    """Fit pictures to the input size and normalise them, as a model's config says.

    >>> import numpy as np
    >>> preprocess = Preprocess(PreprocessConfig(size=(32, 32)))
    >>> preprocess([np.zeros((48, 64, 3), dtype=np.uint8)]).shape
    torch.Size([1, 3, 32, 32])
    """

    def __init__(self, config: PreprocessConfig) -> None:
        self.config = config

    @property
    def id(self) -> str:
        """See `hashzoo.pictures.fit.preprocess_id`."""
        return preprocess_id(self.config)

    def fitted(self, image: PictureLike) -> Tensor:
        """Decode one picture and fit it: uint8 (3, *size).

        Raises:
            ImageError: it cannot be decoded, or has another dtype or shape; names the file.
        """
        return torch.from_numpy(prepare(image, self.config)).permute(2, 0, 1)

    def normalise(self, images: Tensor) -> Tensor:
        """Map uint8 (N, 3, H, W), 0..255, to float32 with the config's mean and std; channels last in memory."""
        mean = torch.tensor(self.config.mean, device=images.device).view(1, 3, 1, 1)
        std = torch.tensor(self.config.std, device=images.device).view(1, 3, 1, 1)
        return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    def __call__(self, images: list[PictureLike]) -> Tensor:
        """Decode, fit and normalise: a list of N pictures to float32 (N, 3, H, W)."""
        return self.normalise(torch.stack([self.fitted(image) for image in images]))
