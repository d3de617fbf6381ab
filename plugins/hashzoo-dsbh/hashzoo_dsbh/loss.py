"""The DSBH loss, on discrete codes."""

from typing import Literal

from torch import Tensor, nn

from hashzoo import ConfigError, HashOutput, classification, pairwise_likelihood


def balance(codes: Tensor, over: Literal["bit", "sample"]) -> Tensor:
    """How far codes are from half ones, half zeros.

    Args:
        codes: (N, K), in [-1, 1].
        over: "bit" is the mean over bits of (mean over items)^2: each bit should split the batch; "sample" is the mean over items
            of (mean over bits)^2, what public codes of DBDH compute: each code should hold as many ones as zeros.

    Returns:
        A scalar, 0 (balanced) to 1.

    >>> import torch
    >>> balance(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), "bit")
    tensor(0.5000)
    """
    return codes.mean(0 if over == "bit" else 1).square().mean()


class DSBHLoss(nn.Module):
    """Pairwise likelihood + `class_weight` * classification + `balance_weight` * balance.

    The thesis's abstract names the terms and gives no formula: the forms here are reconstructions (see the README). With
    the quantizer "sign", `output.codes` are true signs, so that every term sees what is stored.

    Args:
        bits: K.
        num_classes: C, outputs of the linear classifier on the codes.
        multi_label: binary cross-entropy in place of cross-entropy.
        pair_weight, class_weight, balance_weight: weights of the terms.
        balance_over: "bit" or "sample", see `balance`.
        label_smoothing: of the classification, see `hashzoo.classification`.
    """

    def __init__(
        self,
        bits: int,
        num_classes: int,
        multi_label: bool = False,
        *,
        pair_weight: float = 1.0,
        class_weight: float = 1.0,
        balance_weight: float = 0.1,
        balance_over: Literal["bit", "sample"] = "bit",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if balance_over not in ("bit", "sample"):
            raise ConfigError(f"DSBH's balance is over 'bit' or 'sample', not {balance_over!r}.")
        self.classifier = nn.Linear(bits, num_classes)
        self.scale = 20 / bits
        self.pair_weight, self.class_weight, self.balance_weight = pair_weight, class_weight, balance_weight
        self.label_smoothing = label_smoothing
        self.balance_over: Literal["bit", "sample"] = balance_over

    def forward(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return the terms "pair", "class" and "balance"."""
        codes = output.codes
        return {
            "pair": self.pair_weight * pairwise_likelihood(codes, targets, self.scale),
            "class": self.class_weight * classification(self.classifier(codes), targets, self.label_smoothing),
            "balance": self.balance_weight * balance(codes, self.balance_over),
        }
