"""DSBH for hashzoo: a three-layer CNN whose codes are true signs in training, pulled by pairs, classes and balance."""

from hashzoo import Register, hookimpl

hashzoo_api = 1


@hookimpl
def hashzoo_register_backbones(register: Register) -> None:
    """The three-layer CNN, as published and wide."""
    register(
        "cnn3", "hashzoo_dsbh.backbone:CNN3", summary="The three-layer CNN of DSH's CIFAR-10 experiments, 32x32 input"
    )
    register(
        "cnn3-wide", "hashzoo_dsbh.backbone:CNN3Wide", summary="cnn3 with 64-128-256 channels and batch normalisation"
    )


@hookimpl
def hashzoo_register_losses(register: Register) -> None:
    """The DSBH loss."""
    register(
        "dsbh",
        "hashzoo_dsbh.loss:DSBHLoss",
        summary="Pairwise likelihood + classification + balance, on discrete codes",
    )


@hookimpl
def hashzoo_register_methods(register: Register) -> None:
    """The DSBH recipe."""
    register(
        "dsbh", "hashzoo_dsbh:dsbh.toml", summary="Three-layer CNN, straight-through sign, pairwise + class + balance"
    )
