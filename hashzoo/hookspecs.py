"""The extension points of hashzoo: the one file a plugin author reads.

A plugin is a package with an entry point in the group `hashzoo.plugins` that names a module with hook implementations:

```toml
[project.entry-points."hashzoo.plugins"]
mine = "hashzoo_mine"
```

```python
from hashzoo import hookimpl

@hookimpl
def hashzoo_register_heads(register):
    register("my-head", "hashzoo_mine.head:MyHead", summary="What it does in a line")
```

A target is a class, or `"package.module:Name"`, which is imported on first use: a package with many components lists them faster
so. A line `hashzoo_api = 1` in that module says which version of these hooks it was written for. When the version goes up,
plugins of the version before are served, with a warning, for at least the two minor releases of hashzoo that follow.
The protocols below say what a target must be. All are `torch.nn.Module` classes; they are built by keyword.

What a recipe or a config.json may give as `args` is what the constructor's signature says: each argument by its name, with
a value of its type. Types may be bool, int, float, None and Literal, and unions, tuples and lists of these; `typing.Annotated`
with a pydantic `Field` sets bounds. A plain `str` is refused, because files come from strangers and a text could name a file or
an address: name the choices with Literal. What only `**kwargs` would take is refused too. The kit's `check_config_round_trip`
asks that every option has such a type. A class whose argument got another name says so in a class attribute, `renamed = {"old":
"new"}`: files with the old name are then read, with a warning.
N is the batch size, K the number of bits, C the number of classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pluggy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from hashzoo.config import PreprocessConfig
    from hashzoo.precision import Precision

API_VERSION = 1  # goes up when a plugin has to be changed
OLD_API_VERSIONS: dict[int, str] = {}  # an older version that is still served -> the release that drops it
hookspec = pluggy.HookspecMarker("hashzoo")
hookimpl = pluggy.HookimplMarker("hashzoo")


class Register(Protocol):
    """The callback that every hook receives; call it once a component."""

    def __call__(self, name: str, target: str | type | Mapping[str, Any], *, summary: str) -> None:
        """Register `target` under `name`.

        Args:
            name: lower-case letters, digits, `-`, `_`, `.`; a backbone family is written `prefix/*`, and its class is
                then built with `model="..."`, the part of the name that the star stands for.
            target: the class, or `"package.module:Class"`; of a method its recipe as a dict, as a TOML text, or as
                `"package:recipe.toml"`, a file inside the package.
            summary: one line for listings.
        """


@hookspec
def hashzoo_register_backbones(register: Register) -> None:
    """Register networks that map images to features (see `Backbone`)."""


@hookspec
def hashzoo_register_heads(register: Register) -> None:
    """Register modules that map features to relaxed codes (see `Head`)."""


@hookspec
def hashzoo_register_losses(register: Register) -> None:
    """Register training losses (see `Loss`)."""


@hookspec
def hashzoo_register_quantizers(register: Register) -> None:
    """Register maps from relaxed codes to codes with a gradient (see `Quantizer`)."""


@hookspec
def hashzoo_register_methods(register: Register) -> None:
    """Register methods: TOML recipes that bind backbone, head, quantizer and loss with their settings."""


@dataclass(frozen=True)
class HashOutput:
    """What a hash model's `forward` returns and a loss reads.

    Attributes:
        u: relaxed codes, float (N, K): the head's output.
        codes: the quantizer's output, float (N, K), in [-1, 1], with the quantizer's gradient.
        logits: class logits, float (N, C), if the head makes them.
        index: in training, int64 (N,): which row of the training list each item is; else None.
    """

    u: Tensor
    codes: Tensor
    logits: Tensor | None = None
    index: Tensor | None = None


@runtime_checkable
class Backbone(Protocol):
    """Images to features; built as `target(pretrained=False, **args)`.

    `pretrained` asks for the backbone's own published weights where it has any (training only: loading a model never
    downloads). Input: float (N, 3, H, W), already normalised. Output: float (N, *feature_shape).

    A backbone that has layers for training only (batch normalisation, say) has a method `fold()`: it is called once, after
    training and in evaluation mode, merges them into the others, and returns the arguments that build what is left.

    Attributes:
        num_features: number of channels D.
        feature_shape: (D,) for vectors, (D, H, W) for maps; H and W hold at the backbone's usual input size.
        preprocess: keyword arguments of `PreprocessConfig`, of the input it was made for: what a recipe for it should say.
        base_model (str): optional; Hub id of the published weights that `pretrained` fetched, for the card.
        weights_file (str): optional; name of the local file that it read instead.
    """

    num_features: int
    feature_shape: tuple[int, ...]
    preprocess: dict[str, Any]

    def __call__(self, images: Tensor) -> Tensor:
        """Map images to features."""
        ...


@runtime_checkable
class Head(Protocol):
    """Features to relaxed codes; built as `target(feature_shape=(D, ...), bits=K, num_classes=C, **args)`.

    Returns `u`, float (N, K), or the pair `(u, logits)` with class logits (N, C).

    A head that is found in closed form has a method `fit(features, targets)` and no gradient steps: its recipe has no
    `[loss]` and `optimization.epochs = 0`. It is called once, with the features of the whole training list, float32
    (n, D), and its targets as a loss gets them; what it finds are buffers or parameters.
    """

    def __call__(self, features: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map features (N, D) or (N, D, H, W) to u, or to (u, logits)."""
        ...


@runtime_checkable
class Quantizer(Protocol):
    """Relaxed codes to codes; built as `target(**args)`.

    In training it returns values in [-1, 1], (N, K), with the gradient the method wants; it may look at the whole batch. In
    evaluation mode it returns +1 where u >= 0 and -1 elsewhere, exactly; each row depends on itself alone.
    A quantizer or loss with a method `set_progress(progress)` is told the share of training done, 0 to 1, before each step.
    """

    def __call__(self, u: Tensor) -> Tensor:
        """Map u to codes."""
        ...


@runtime_checkable
class Loss(Protocol):
    """What training minimises; built as `target(bits=K, num_classes=C, multi_label=bool, **args)`.

    Targets are int64 (N,) class indices, or float (N, C) of 0 and 1 if `multi_label`; a loss that cannot do one of them
    raises `HashzooError` when it is built. A loss may own parameters (a classifier, proxies): they are trained along
    and not kept in the model. What else it asks for, it says by having it:

    - `start(targets)` is called once before the first step with the targets of the whole training list, (n,) or (n, C):
      the place to make buffers with a row an item, which `output.index` then addresses. Buffers survive a kill.
    - `end_epoch()` is called after each epoch, without gradient: the place for discrete steps that alternate with it.
    - `set_progress(progress)`: see `Quantizer`.
    - `views = 2`, a class attribute: each step then holds two augmented views of every image, view by view, so that
      rows i and i + N / 2 of output and targets are of one image.
    """

    def __call__(self, output: HashOutput, targets: Tensor) -> dict[str, Tensor]:
        """Return named scalar terms; their sum is minimised."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Pictures to relaxed codes; what everything that makes codes asks for. No torch is in it: arrays go in and come out.

    h and w are height and width of the encoder's input in pixels.
    Codes of two encoders may be compared where `weights_id` and `preprocess` are equal.
    """

    @property
    def name(self) -> str | None:
        """The model's name, written into the codes that it makes."""

    @property
    def bits(self) -> int:
        """K."""

    @property
    def weights_id(self) -> str | None:
        """Which weights it has: the first 16 digits of their file's sha256; None where no file holds them."""

    @property
    def preprocess(self) -> PreprocessConfig:
        """How pictures become its input; `hashzoo.pictures.fit` does it, at the same version everywhere."""

    @property
    def precision(self) -> Precision:
        """What it computes in."""

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map fitted pictures, uint8 (N, h, w, 3), to u, float32 (N, K); bit k of a code is 1 where u_k >= 0."""
        ...
