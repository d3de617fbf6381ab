"""Well-known deep-hashing methods for hashzoo, each written from its paper's formula."""

from hashzoo import Register, hookimpl

hashzoo_api = 1


@hookimpl
def hashzoo_register_heads(register: Register) -> None:
    """Heads that are trained."""
    register(
        "linear-bn", "hashzoo_baselines.heads:LinearBN", summary="Linear layer, then batch normalisation (OrthoHash)"
    )
    register("mlp", "hashzoo_baselines.heads:MLP", summary="Two linear layers with a ReLU between (CIBHash)")
    register(
        "class-label",
        "hashzoo_baselines.heads:ClassLabel",
        summary="Control: a classifier whose code is a fixed random code of the class it names",
    )


@hookimpl
def hashzoo_register_quantizers(register: Register) -> None:
    """Quantizers that look at the batch, or at chance, in training."""
    register(
        "bihalf",
        "hashzoo_baselines.quantizers:BiHalf",
        summary="Each bit halves the batch in training (Li & van Gemert, AAAI 2021)",
    )
    register(
        "bernoulli",
        "hashzoo_baselines.quantizers:Bernoulli",
        summary="Bits drawn at random in training, straight through (CIBHash)",
    )
    register("clamp", "hashzoo_baselines.quantizers:Clamp", summary="u cut to [-1, 1] in training")


@hookimpl
def hashzoo_register_losses(register: Register) -> None:
    """One loss a method."""
    register(
        "dsh",
        "hashzoo_baselines.pairwise:DSH",
        summary="Contrastive squared distances with margin 2K (Liu et al., CVPR 2016)",
    )
    register(
        "dpsh",
        "hashzoo_baselines.pairwise:DPSH",
        summary="Pairwise likelihood against a memory of all training codes (Li et al., IJCAI 2016)",
    )
    register(
        "dhn",
        "hashzoo_baselines.pairwise:DHN",
        summary="Pairwise likelihood + log cosh quantization (Zhu et al., AAAI 2016)",
    )
    register(
        "hashnet",
        "hashzoo_baselines.pairwise:HashNet",
        summary="Pairwise likelihood weighted by class imbalance, with continuation (Cao et al., ICCV 2017)",
    )
    register(
        "dch",
        "hashzoo_baselines.pairwise:DCH",
        summary="Cauchy cross-entropy + Cauchy quantization (Cao et al., CVPR 2018)",
    )
    register(
        "dbdh",
        "hashzoo_baselines.pairwise:DBDH",
        summary="Pairwise likelihood of straight-through codes + balance (Zheng et al., Neurocomputing 2020)",
    )
    register("dtsh", "hashzoo_baselines.ranking:DTSH", summary="Triplet likelihood (Wang et al., ACCV 2016)")
    register(
        "greedyhash",
        "hashzoo_baselines.pointwise:GreedyHash",
        summary="Cross-entropy on signs + cubic penalty (Su et al., NeurIPS 2018)",
    )
    register(
        "csq",
        "hashzoo_baselines.pointwise:CSQ",
        summary="Bitwise cross-entropy to a class's hash centre (Yuan et al., CVPR 2020)",
    )
    register(
        "dpn",
        "hashzoo_baselines.pointwise:DPN",
        summary="Polarisation hinge to a class's target code (Fan et al., IJCAI 2020)",
    )
    register(
        "orthohash",
        "hashzoo_baselines.pointwise:OrthoHash",
        summary="Cosine softmax to a class's target code, with margin (Hoe et al., NeurIPS 2021)",
    )
    register("logits", "hashzoo_baselines.pointwise:Logits", summary="Cross-entropy of the head's own class logits")
    register(
        "dsdh",
        "hashzoo_baselines.discrete:DSDH",
        summary="Pairwise likelihood + linear classification, codes found bit by bit (Li et al., NeurIPS 2017)",
    )
    register(
        "adsh",
        "hashzoo_baselines.discrete:ADSH",
        summary="Asymmetric squared inner products with codes learned directly (Jiang & Li, AAAI 2018)",
    )
    register(
        "cibhash",
        "hashzoo_baselines.contrastive:CIBHash",
        summary="Contrast of two views' Bernoulli codes, no labels (Qiu et al., IJCAI 2021)",
    )


@hookimpl
def hashzoo_register_methods(register: Register) -> None:
    """The recipes; all share the budget of frozen.toml."""
    register("dsh", "hashzoo_baselines:dsh.toml", summary="Pairs: contrastive squared distances")
    register("dpsh", "hashzoo_baselines:dpsh.toml", summary="Pairs: likelihood against a memory of all codes")
    register("dhn", "hashzoo_baselines:dhn.toml", summary="Pairs: likelihood + log cosh")
    register("hashnet", "hashzoo_baselines:hashnet.toml", summary="Pairs: weighted likelihood with continuation")
    register("dch", "hashzoo_baselines:dch.toml", summary="Pairs: Cauchy cross-entropy")
    register("dbdh", "hashzoo_baselines:dbdh.toml", summary="Pairs: straight-through likelihood + balance")
    register("dtsh", "hashzoo_baselines:dtsh.toml", summary="Ranking: triplet likelihood")
    register("greedyhash", "hashzoo_baselines:greedyhash.toml", summary="Classes: cross-entropy on signs")
    register("dsdh", "hashzoo_baselines:dsdh.toml", summary="Pairs and classes: discrete cyclic descent")
    register("csq", "hashzoo_baselines:csq.toml", summary="Classes: hash centres")
    register("dpn", "hashzoo_baselines:dpn.toml", summary="Classes: polarised target codes")
    register(
        "orthohash", "hashzoo_baselines:orthohash.toml", summary="Classes: orthogonal target codes, cosine softmax"
    )
    register("adsh", "hashzoo_baselines:adsh.toml", summary="Asymmetric; learns from the labels of its whole database")
    register("bihalf", "hashzoo_baselines:bihalf.toml", summary="Classes: cross-entropy on codes that halve the batch")
    register("cibhash", "hashzoo_baselines:cibhash.toml", summary="No labels: contrast of two views")
    register(
        "class-label", "hashzoo_baselines:class-label.toml", summary="Control: the class a classifier names, as a code"
    )
