"""Fixed codes of classes: drawn, or rows of a Hadamard matrix."""

import torch
from torch import Tensor

from hashzoo import ConfigError


def random_codes(count: int, bits: int, seed: int = 0) -> Tensor:
    """Draw codes whose bits are +1 or -1 with chance 1/2 each; a code that was drawn before is drawn again.

    Args:
        count: number of codes C.
        bits: K.
        seed: of the draw.

    Returns:
        float32 (C, K) of -1 and +1, all rows distinct.

    Raises:
        ConfigError: C is below 1, or above the 2^K codes there are.

    >>> random_codes(16, bits=4).unique(dim=0).shape
    torch.Size([16, 4])
    """
    if not 1 <= count <= 2**bits:
        raise ConfigError(f"{bits} bits give {2**bits} codes, and {count} classes need one each; take other bits.")
    generator = torch.Generator().manual_seed(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        rows = torch.randint(2, (count, bits), generator=generator)
        found.update(dict.fromkeys(map(tuple, rows.tolist())))
    return 2.0 * torch.tensor(list(found)[:count]) - 1.0


def hash_centres(num_classes: int, bits: int, seed: int = 0) -> Tensor:
    """Find the hash centres of CSQ (Yuan et al., CVPR 2020): K/2 bits apart where K is a power of two.

    There they are rows of Sylvester's Hadamard matrix and, past K classes, the negatives of these, which are K bits from
    their own row. Taken as they come, the first bit is +1 in all rows and tells nothing: rows and their signs are drawn, up
    to 100 times, until no bit is the same for all classes. For other K, or more than 2K classes, codes are drawn
    (`random_codes`).

    Args:
        num_classes: C.
        bits: K.
        seed: of the draw.

    Returns:
        float32 (C, K) of -1 and +1, all rows distinct.

    Raises:
        ConfigError: C is below 1, or above the 2^K codes there are.

    >>> centres = hash_centres(10, bits=16)
    >>> (16 - centres @ centres.T)[0] / 2
    tensor([0., 8., 8., 8., 8., 8., 8., 8., 8., 8.])
    """
    if bits & (bits - 1) or not 1 <= num_classes <= 2 * bits:
        return random_codes(num_classes, bits, seed)
    hadamard = torch.ones(1, 1)
    while len(hadamard) < bits:
        hadamard = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), hadamard)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(100):
        rows = torch.randperm(bits, generator=generator)
        signs = 2.0 * torch.randint(2, (bits, 1), generator=generator) - 1.0
        chosen = signs * hadamard[rows]
        centres = torch.cat([chosen, -chosen])[:num_classes]
        if not (centres == centres[0]).all(0).any():
            break
    return centres


def centre_of(labels: Tensor, centres: Tensor, tie: Tensor) -> Tensor:
    """Give each item the code it is drawn to: its class's, or the bitwise majority of its classes' (CSQ's rule).

    Args:
        labels: int64 (N,), or 0/1 (N, C) for many labels.
        centres: (C, K) of -1 and +1.
        tie: (K,) of -1 and +1, the bits taken where the majority is even; all of them for an item without labels.

    Returns:
        (N, K) of -1 and +1, of the dtype of `centres`.

    >>> centres = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0]])
    >>> centre_of(torch.tensor([[1.0, 1.0]]), centres, tie=torch.tensor([-1.0, 1.0, -1.0]))
    tensor([[ 1.,  1., -1.]])
    """
    if labels.ndim == 1:
        return centres[labels]
    votes = labels.to(centres.dtype) @ centres
    return torch.where(votes == 0, tie, votes.sign())
