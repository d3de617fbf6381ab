"""DPHB for hashzoo: AlexNet with a pairwise and a sample-label loss, and no quantisation regulariser."""

from hashzoo import Register, hookimpl

hashzoo_api = 1


@hookimpl
def hashzoo_register_backbones(register: Register) -> None:
    """AlexNet."""
    register("alexnet", "hashzoo_dphb.backbone:AlexNet", summary="AlexNet with fc6 and fc7, of 4096 features or fewer")


@hookimpl
def hashzoo_register_losses(register: Register) -> None:
    """The DPHB loss."""
    register("dphb", "hashzoo_dphb.loss:DPHBLoss", summary="Pairwise likelihood + sample-label loss")


@hookimpl
def hashzoo_register_methods(register: Register) -> None:
    """The DPHB recipe."""
    register(
        "dphb", "hashzoo_dphb:dphb.toml", summary="AlexNet, pairwise + sample-label loss, no quantisation regulariser"
    )
