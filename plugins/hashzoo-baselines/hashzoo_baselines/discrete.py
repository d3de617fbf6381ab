"""Losses that solve for the codes of all training items, bit by bit, in turn with the network's gradient steps."""

import torch
from torch import Tensor

from hashzoo import ConfigError, HashOutput, pairwise_likelihood, sign
from hashzoo_baselines.pairwise import Remembering, similar


def descend(codes: Tensor, gram: Tensor, pull: Tensor) -> Tensor:
    """Lower tr(B G B^T) - 2 tr(B P^T) over B in {-1, +1} by one cyclic pass over the bits.

    Given its other bits, an item's bit k is best at the sign of p_k - sum_{l != k} b_l g_lk. This is the discrete cyclic
    coordinate descent of SDH (Shen et al., CVPR 2015); each bit is solved for all items at once.

    Args:
        codes: B, float (n, K) of -1 and +1; not changed.
        gram: G, float (K, K), symmetric.
        pull: P, float (n, K).

    Returns:
        The new codes, (n, K).

    >>> descend(torch.ones(1, 2), torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([[0.5, 0.2]]))
    tensor([[-1.,  1.]])
    """
    bits, pull = codes.T.clone(memory_format=torch.contiguous_format), pull.T.contiguous()
    for bit, row in enumerate(gram):
        bits[bit] = sign(pull[bit] - (row @ bits - row[bit] * bits[bit]))
    return bits.T.contiguous()


class DSDH(Remembering):
    """Deep supervised discrete hashing (Li, Sun, He and Tan, NeurIPS 2017).

    Gradient steps lower the mean over pairs of log(1 + e^theta) - s theta, theta = u_i . u_j / 2, plus eta times the mean over
    items of ||b - u||^2. After each epoch, `end_epoch` lowers the mean over all n training items of
    mu ||y - W^T b||^2 + eta ||b - u||^2, plus nu / n ||W||^2, where y is the 0/1 vector of an item's labels and u its last one:
    first over W, by ridge regression, then over the codes b in {-1, +1}, bit by bit. In the first epoch b is sgn u.

    The paper sums over its 5,000 items and their pairs; the defaults are its 1, 0.1 and 55, over 5,000.

    Args:
        bits: K.
        num_classes: C.
        multi_label: targets are 0/1 (N, C).
        memory: pair the batch with the last u of every training item, as the paper does, and not within itself. Those u get no
            gradient; items not met yet are left out.
        mu: weight of the linear classification; above 0.
        nu: weight of the classifier's size; above 0.
        eta: weight of the quantization term.
    """

    codes: Tensor

    def __init__(
        self,
        bits: int,
        num_classes: int,
        multi_label: bool = False,
        *,
        memory: bool = True,
        mu: float = 2e-4,
        nu: float = 2e-5,
        eta: float = 0.011,
    ) -> None:
        super().__init__(bits, num_classes, multi_label)
        if mu <= 0 or nu <= 0:
            raise ConfigError(f"DSDH's mu and nu are weights above 0, not {mu} and {nu}.")
        self.num_classes, self.against_memory = num_classes, memory
        self.mu, self.nu, self.eta = mu, nu, eta
        self.register_buffer("codes", torch.empty(0, bits))

    def start(self, targets: Tensor) -> None:
        """Make the memory and the codes; a code of zeros is not solved for yet."""
        super().start(targets)
        self.codes = torch.zeros_like(self.memory)

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "pair" and "quantization".

        Raises:
            ConfigError: `start` was not called, or there is no `output.index`.
        """
        u = output.u
        index = self.remember(u, output.index)
        if self.against_memory:
            pair = self.likelihood(u, targets, index)
        else:
            pair = pairwise_likelihood(u, targets, scale=1, balanced=False)
        codes = torch.where(self.codes[index] == 0, sign(u), self.codes[index])
        return {"pair": pair, "quantization": self.eta * (codes - u).square().sum(1).mean()}

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Solve for W, then go over the bits until no code changes, at most ten times."""
        one_hot = torch.eye(self.num_classes, device=self.labels.device)
        labels = (self.labels if self.labels.ndim == 2 else one_hot[self.labels]).to(self.memory.dtype)
        codes = torch.where(self.codes == 0, sign(self.memory), self.codes)
        weight = ridge(codes, labels, self.nu / self.mu)
        gram = self.mu * weight @ weight.T
        pull = self.mu * labels @ weight.T + self.eta * self.memory
        for _ in range(10):
            before, codes = codes, descend(codes, gram, pull)
            if torch.equal(before, codes):
                break
        self.codes = codes


class ADSH(Remembering):
    """Asymmetric deep supervised hashing (Jiang and Li, AAAI 2018).

    **It learns from the labels of all it will search**: its database is the training list, whose n codes V in {-1, +1} it learns
    as such. Gradient steps lower, for the batch's tanh codes u = `output.codes`, the mean over i and all n of j of
    (u_i . v_j / K - s_ij)^2, plus gamma / (n K) times the mean over items and bits of (v_i - u_i)^2: the paper's sums over
    N n K^2. j = i is a pair like others. After each epoch, `end_epoch` lowers the same over V, bit by bit, with the last u of
    every item as the batch.

    s_ij is +1 if i and j share a label, else -r: r is the number of similar over that of dissimilar pairs, so that s is 0 in the
    mean, but at most 1. The paper's formula has -1, with which next to nothing is learned where few pairs are similar; public
    codes have -r too. No (N, n) matrix is made: V^T V and the sum of v over each distinct set of labels are enough.

    Args:
        bits: K.
        num_classes: C.
        multi_label: targets are 0/1 (N, C).
        gamma: weight of the quantization term.
    """

    codes: Tensor
    sets: Tensor
    sizes: Tensor
    members: Tensor
    far: Tensor
    gram: Tensor
    sums: Tensor

    def __init__(self, bits: int, num_classes: int, multi_label: bool = False, *, gamma: float = 200.0) -> None:
        super().__init__(bits, num_classes, multi_label)
        self.bits, self.gamma = bits, gamma
        self.register_buffer("codes", torch.empty(0, bits))  # V
        self.register_buffer("sets", self.labels.clone())  # the distinct labels (m,), or sets of labels (m, C)
        self.register_buffer("sizes", torch.empty(0))  # how many items have each, (m,)
        self.register_buffer("members", torch.empty(0, dtype=torch.int64))  # which of them each item has, (n,)
        self.register_buffer("far", torch.zeros(()))  # -r
        self.register_buffer("gram", torch.zeros(bits, bits))  # V^T V
        self.register_buffer("sums", torch.empty(0, bits))  # of v over the items of each set, (m, K)

    def start(self, targets: Tensor) -> None:
        """Count the similar pairs, and draw V at random, the same at each call."""
        super().start(targets)
        self.sets, self.members, sizes = torch.unique(self.labels, dim=0, return_inverse=True, return_counts=True)
        sizes = sizes.double()
        near = torch.cat([similar(part, self.sets).double() @ sizes for part in self.sets.split(1024)]) @ sizes
        ratio = near / (len(targets) ** 2 - near).clamp(min=1)
        self.sizes, self.far = sizes.to(self.memory), -ratio.clamp(max=1).to(self.memory)
        random = torch.randint(2, self.memory.shape, generator=torch.Generator().manual_seed(0))
        self.set_codes(random.to(self.memory) * 2 - 1)

    def set_codes(self, codes: Tensor) -> None:
        """Take V (n, K), and what the loss needs of it."""
        self.codes, self.gram, self.sums = codes, codes.T @ codes, self.sum_sets(codes)

    def sum_sets(self, rows: Tensor) -> Tensor:
        """Sum rows (n, K) over the items of each set: (m, K)."""
        return rows.new_zeros(len(self.sets), self.bits).index_add_(0, self.members, rows)

    def similarity(self, labels: Tensor) -> Tensor:
        """S between items with these labels, (N,) or (N, C), and items of each set: (N, m)."""
        return torch.where(similar(labels, self.sets), 1.0, self.far)

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "pair" and "quantization".

        Raises:
            ConfigError: `start` was not called, or there is no `output.index`.
        """
        u = output.codes
        index = self.remember(u, output.index)
        s, n = self.similarity(targets), len(self.codes)
        # the square of u . v / K - s, summed over v
        squares = (
            (u @ self.gram * u).sum(1) / self.bits**2 - 2 * (s @ self.sums * u).sum(1) / self.bits + s**2 @ self.sizes
        )
        return {
            "pair": squares.mean() / n,
            "quantization": self.gamma / (n * self.bits) * (self.codes[index] - u).square().mean(),
        }

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Go over the bits of V once."""
        u = self.memory
        sums = self.sum_sets(u)
        toward = torch.cat([self.similarity(part) @ sums for part in self.sets.split(1024)])
        self.set_codes(descend(self.codes, u.T @ u, self.bits * toward[self.members] + self.gamma * u))


def ridge(codes: Tensor, labels: Tensor, penalty: float) -> Tensor:
    """Find W that is least in ||Y - B W||^2 + penalty ||W||^2.

    Args:
        codes: B, float (n, K).
        labels: Y, float (n, C).
        penalty: above 0.

    Returns:
        W, (K, C).

    >>> ridge(torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [0.0]]), 2.0)
    tensor([[0.2500]])
    """
    gram = (codes.T @ codes).double()  # bits that agree on all items leave it close to singular
    gram += penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, (codes.T @ labels).double()).to(codes.dtype)
