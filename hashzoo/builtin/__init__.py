"""What the core itself offers, registered through the same hooks as everybody's plugins."""

from hashzoo.hookspecs import Register, hookimpl


@hookimpl
def hashzoo_register_backbones(register: Register) -> None:
    """Every timm model and every torchvision classification model."""
    register("timm/*", "hashzoo.builtin.backbones:Timm", summary="Any timm model, e.g. timm/resnet50")
    register(
        "torchvision/*",
        "hashzoo.builtin.backbones:Torchvision",
        summary="Any torchvision classification model, e.g. torchvision/alexnet",
    )


@hookimpl
def hashzoo_register_heads(register: Register) -> None:
    """The linear head."""
    register("linear", "hashzoo.builtin.heads:LinearHead", summary="Global average pool, then one linear layer")


@hookimpl
def hashzoo_register_losses(register: Register) -> None:
    """Classification."""
    register(
        "classification",
        "hashzoo.builtin.losses:Classification",
        summary="Cross-entropy of a linear classifier on codes",
    )


@hookimpl
def hashzoo_register_quantizers(register: Register) -> None:
    """The usual quantizers."""
    register(
        "sign", "hashzoo.builtin.quantizers:Sign", summary="Sign, gradient straight through (hard tanh or identity)"
    )
    register("tanh", "hashzoo.builtin.quantizers:Tanh", summary="tanh(beta u) in training, with optional continuation")
