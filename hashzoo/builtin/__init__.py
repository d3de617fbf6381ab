"""What the core itself offers, registered through the same hooks as everybody's plugins."""

from hashzoo.hookspecs import API_VERSION, Register, hookimpl

hashzoo_api = API_VERSION


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
    """The linear head, and those that need no training by steps."""
    register("linear", "hashzoo.builtin.heads:LinearHead", summary="Global average pool, then one linear layer")
    register(
        "lsh",
        "hashzoo.builtin.closed_form:LSH",
        summary="Random projections of centred features, no training (Charikar, STOC 2002)",
    )
    register(
        "pca",
        "hashzoo.builtin.closed_form:PCA",
        summary="Principal directions, as they are or turned at random (rotation = true)",
    )
    register(
        "itq",
        "hashzoo.builtin.closed_form:ITQ",
        summary="Principal directions, turned to lose least by the sign (Gong & Lazebnik, CVPR 2011)",
    )


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


@hookimpl
def hashzoo_register_methods(register: Register) -> None:
    """The methods in closed form; all share closed-form.toml."""
    register("lsh", "hashzoo.builtin:lsh.toml", summary="No training: random projections")
    register("pca-sign", "hashzoo.builtin:pca-sign.toml", summary="Closed form: principal directions")
    register(
        "pca-rotation",
        "hashzoo.builtin:pca-rotation.toml",
        summary="Closed form: principal directions, turned at random",
    )
    register("itq", "hashzoo.builtin:itq.toml", summary="Closed form: principal directions, turned to fit the sign")
