"""DAHP for hashzoo: ResNet18, dual attention, spatial anchors and a weighted pairwise likelihood."""

from hashzoo import Register, hookimpl

hashzoo_api = 1


@hookimpl
def hashzoo_register_backbones(register: Register) -> None:
    """ResNet18 with the ImageNet or the CIFAR stem."""
    register("resnet18", "hashzoo_dahp.backbone:ResNet18", summary='ResNet18, stem "imagenet" or "cifar"')


@hookimpl
def hashzoo_register_heads(register: Register) -> None:
    """Dual attention."""
    register(
        "dual-attention",
        "hashzoo_dahp.attention:DualAttentionHead",
        summary="Position and channel attention (DANet), pool, linear layer",
    )


@hookimpl
def hashzoo_register_losses(register: Register) -> None:
    """The DAHP loss."""
    register("dahp", "hashzoo_dahp.loss:DAHPLoss", summary="Spatial anchor loss + class-balanced pairwise likelihood")


@hookimpl
def hashzoo_register_methods(register: Register) -> None:
    """The DAHP recipe."""
    register("dahp", "hashzoo_dahp:dahp.toml", summary="ResNet18 + dual attention, spatial anchor + pairwise loss")
