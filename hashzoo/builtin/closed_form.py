"""Heads without training by steps: drawn (lsh), or fitted in closed form (pca, itq).

Each takes features (N, D), or maps (N, D, H, W) that it averages over positions first.
"""

import torch
from torch import Tensor, nn

from hashzoo.builtin.heads import pool
from hashzoo.builtin.quantizers import sign
from hashzoo.errors import ConfigError

PART = 4096  # rows of features taken to float64 at a time
ITERATIONS = 50  # of ITQ, as in the paper


class LSH(nn.Module):
    """Random projections: u = G (x - mean), G drawn from N(0, 1) (Charikar, STOC 2002).

    The chance that two codes differ in a bit is the angle between the centred features over pi. G is drawn when the head
    is built, from torch's global generator; `fit` finds the mean.

    Args:
        feature_shape: (D,) or (D, H, W).
        bits: K.
        num_classes: unused.

    >>> head = LSH((3,), bits=48)
    >>> head.fit(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), torch.zeros(2))
    >>> head.mean
    tensor([2., 2., 2.])
    """

    mean: Tensor
    weight: Tensor

    def __init__(self, feature_shape: tuple[int, ...], bits: int, num_classes: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_shape[0]))
        self.register_buffer("weight", torch.randn(bits, feature_shape[0]))

    @torch.no_grad()
    def fit(self, features: Tensor, targets: Tensor) -> None:
        """Find what the head is made of.

        Args:
            features: float32 (n, D), or maps, of the training list.
            targets: unused.
        """
        self.mean.copy_(mean_of(pool(features)))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, D) or (N, D, H, W) to u (N, K)."""
        return (pool(features) - self.mean) @ self.weight.T


class PCA(LSH):
    """Projections on the K principal directions of the features, largest variance first.

    A direction's largest entry is positive, so that equal features give equal codes. Until `fit` the directions are random.

    Args:
        feature_shape: (D,) or (D, H, W).
        bits: K, at most D.
        num_classes: unused.
        rotation: turn the projections by a random rotation, drawn in `fit`, which spreads the variance over the bits (PCA-RR of
            Gong & Lazebnik, CVPR 2011).

    Raises:
        ConfigError: K is above D.

    >>> head = PCA((3,), bits=1)
    >>> head.fit(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.5, 0.0]]), torch.zeros(3))
    >>> head.weight.abs().argmax()
    tensor(0)
    """

    def __init__(
        self, feature_shape: tuple[int, ...], bits: int, num_classes: int = 0, *, rotation: bool = False
    ) -> None:
        if bits > feature_shape[0]:
            raise ConfigError(
                f"{feature_shape[0]} features have no more principal directions, and {bits} bits need one each."
            )
        super().__init__(feature_shape, bits)
        self.rotation = rotation

    @torch.no_grad()
    def fit(self, features: Tensor, targets: Tensor) -> None:
        """Find mean and directions.

        Args:
            features: float32 (n, D), or maps, of the training list.
            targets: unused.
        """
        super().fit(features, targets)
        self.weight.copy_(principal_directions(pool(features), len(self.weight)))
        if self.rotation:
            self.weight.copy_(random_rotation(len(self.weight)).to(self.weight) @ self.weight)


class ITQ(PCA):
    """Principal directions, turned so that the sign loses least (iterative quantization, Gong & Lazebnik, CVPR 2011).

    Args:
        feature_shape: (D,) or (D, H, W).
        bits: K, at most D.
        num_classes: unused.

    Raises:
        ConfigError: K is above D.

    >>> head = ITQ((3,), bits=2)
    >>> head.fit(torch.randn(100, 3), torch.zeros(100))
    >>> torch.allclose(head.weight @ head.weight.T, torch.eye(2), atol=1e-5)
    True
    """

    def __init__(self, feature_shape: tuple[int, ...], bits: int, num_classes: int = 0) -> None:
        super().__init__(feature_shape, bits)

    @torch.no_grad()
    def fit(self, features: Tensor, targets: Tensor) -> None:
        """Find mean, directions and their rotation, which starts from a random one.

        Args:
            features: float32 (n, D), or maps, of the training list.
            targets: unused.
        """
        super().fit(features, targets)
        projected = torch.cat([self(part) for part in features.split(PART)])
        rotation = random_rotation(len(self.weight)).to(projected)
        for _ in range(ITERATIONS):
            rotation = better_rotation(projected, rotation)
        self.weight.copy_(rotation.T @ self.weight)


def mean_of(features: Tensor) -> Tensor:
    """Average features (n, D) to float64 (D,), without a copy of them all."""
    parts = [part.sum(0, dtype=torch.float64) for part in features.split(PART)]
    return torch.stack(parts).sum(0) / len(features)


def principal_directions(features: Tensor, count: int) -> Tensor:
    """Find the eigenvectors of the covariance with the largest eigenvalues, in float64.

    Args:
        features: float (n, D).
        count: K, at most D.

    Returns:
        float64 (K, D), orthonormal rows, largest variance first, the largest entry of each positive.
    """
    mean = mean_of(features)
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for part in features.split(PART):
        centred = part - mean
        scatter += centred.T @ centred
    directions = torch.linalg.eigh(scatter).eigenvectors.T.flip(0)[:count]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return directions * sign(largest)


def random_rotation(size: int) -> Tensor:
    """Draw an orthogonal matrix, float64 (size, size), uniformly, from torch's global generator."""
    q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))
    return q * sign(r.diagonal())  # without it, LAPACK's choice of signs would not be uniform


def better_rotation(projected: Tensor, rotation: Tensor) -> Tensor:
    """Take one step of ITQ: B = sgn(V R), then the R that minimises ||B - V R||, an orthogonal Procrustes problem.

    Args:
        projected: V, float (n, K), centred.
        rotation: R, (K, K), orthogonal.

    Returns:
        The next R, of the same dtype, for which ||sgn(V R) - V R|| is no larger.
    """
    left, _, right = torch.linalg.svd((projected.T @ sign(projected @ rotation)).double())
    return (left @ right).to(rotation)
