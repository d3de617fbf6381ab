"""How the checks build, feed and read a component: one harness for each kind of input that it takes."""

from __future__ import annotations

import abc
import copy
import functools
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hashzoo.config import ComponentRef, PreprocessConfig, validate
from hashzoo.data import ImagePool
from hashzoo.errors import HashzooError, PluginError
from hashzoo.hookspecs import HashOutput
from hashzoo.network import HashNetwork, build_component
from hashzoo.training import Recipe, make_recipe
from hashzoo.training.run import build

if TYPE_CHECKING:
    from hashzoo.testing import Subject

BITS = 12
CLASSES = 4


class TinyBackbone(nn.Module):
    """A backbone that costs nothing, for models that test a head or a quantizer.

    Args:
        pretrained: unused.
        pooled: give vectors (N, 64) in place of maps (N, 64, 2, 2).
    """

    def __init__(self, pretrained: bool = False, pooled: bool = False) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 64, 8, stride=8)
        self.pooled = pooled
        self.num_features = 64
        self.feature_shape = (64,) if pooled else (64, 2, 2)
        self.preprocess: dict[str, Any] = {"size": (16, 16)}

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, 16, 16) to features."""
        features: Tensor = self.layer(images)
        return features.mean((2, 3)) if self.pooled else features


def make_harnesses(subject: Subject) -> list[Harness]:
    """Make a harness for each kind of input; a kind of input that the component refuses clearly is left out.

    Raises:
        AssertionError: it refuses all.
        Exception: whatever else building it raises.
    """
    harnesses: list[Harness] = []
    refusals: list[str] = []
    for harness in KINDS[subject.kind](subject):
        try:
            harness.module  # noqa: B018 - builds it
            harnesses.append(harness)
        except PluginError:
            raise
        except HashzooError as error:
            refusals.append(str(error))
    if not harnesses:
        raise AssertionError(f"it refuses every kind of input: {' '.join(refusals)}")
    return harnesses


class Harness(abc.ABC):
    """One kind of input.

    Args:
        subject: what is under test.
        variant: of the input, for messages.
    """

    rows = 8  # of a usual batch

    def __init__(self, subject: Subject, variant: str = "") -> None:
        self.subject = subject
        self.variant = variant

    @abc.abstractmethod
    def build(self, bits: int = BITS, ref: ComponentRef | None = None) -> nn.Module:
        """Build the component as hashzoo does, from `ref` if given."""

    @abc.abstractmethod
    def usual(self, rows: int) -> Tensor:
        """Input of a usual size, float32, one row an item."""

    def read(self, module: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        """Run the component; `labels`, int64 (N,), are for losses. The output, or the sum of a loss's terms."""
        return module(x)

    def outputs(self, module: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """All that training takes a gradient of: what `read` returns, then what comes with it."""
        return (self.read(module, x, labels),)

    def counts(self, labels: Tensor) -> Tensor:
        """Which rows must get a gradient, bool (N,)."""
        return torch.ones(len(labels), dtype=torch.bool)

    def shape(self, rows: int, bits: int) -> tuple[int, ...]:
        """What `read` must return."""
        return (rows, bits)

    @functools.cached_property
    def module(self) -> nn.Module:
        """The component, built once."""
        return self.build()

    def fresh(self, training: bool = True) -> nn.Module:
        """A copy of it, so that no check sees what another left behind."""
        return copy.deepcopy(self.module).train(training)

    def batch(self, rows: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
        """A usual batch and its labels, the same for a seed."""
        rows = self.rows if rows is None else rows
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.usual(rows), torch.arange(rows) % CLASSES

    def other_order(self, rows: int) -> Tensor:
        """Another order of a batch, int64 (rows,)."""
        return torch.arange(rows).roll(1)


class BackboneHarness(Harness):
    """Images of the size the backbone asks for."""

    rows = 3

    def build(self, bits: int = BITS, ref: ComponentRef | None = None) -> nn.Module:
        """Build it without pretrained weights."""
        return build_component("backbone", ref or self.subject.ref, pretrained=False)

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """The input's height and width."""
        backbone: Any = self.module
        return validate(PreprocessConfig, backbone.preprocess, "its preprocess").size

    def usual(self, rows: int) -> Tensor:
        """Normalised images."""
        return torch.randn(rows, 3, *self.size)

    def shape(self, rows: int, bits: int) -> tuple[int, ...]:
        """What the backbone says itself."""
        backbone: Any = self.module
        return (rows, *backbone.feature_shape)


class HeadHarness(Harness):
    """Feature vectors, or feature maps."""

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of one item."""
        return (96, 3, 2) if self.variant == "feature maps" else (96,)

    def build(self, bits: int = BITS, ref: ComponentRef | None = None) -> nn.Module:
        """Build it for the features."""
        return build_component(
            "head", ref or self.subject.ref, feature_shape=self.feature_shape, bits=bits, num_classes=CLASSES
        )

    def usual(self, rows: int) -> Tensor:
        """Features."""
        return torch.randn(rows, *self.feature_shape)

    def read(self, module: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        """U."""
        return self.outputs(module, x, labels)[0]

    def outputs(self, module: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """U; logits, if there are any, which must have their shape."""
        made = module(x)
        if not isinstance(made, tuple):
            return (made,)
        u, logits = made
        if logits.shape != (len(x), CLASSES):
            raise AssertionError(f"its logits have shape {tuple(logits.shape)}, not (N, C) = {(len(x), CLASSES)}")
        return u, logits


class QuantizerHarness(Harness):
    """Relaxed codes."""

    def build(self, bits: int = BITS, ref: ComponentRef | None = None) -> nn.Module:
        """Build it; it serves any number of bits."""
        return build_component("quantizer", ref or self.subject.ref)

    def usual(self, rows: int, bits: int = BITS) -> Tensor:
        """Relaxed codes."""
        return torch.randn(rows, bits)


class LossHarness(Harness):
    """Outputs of a model, with one label an item or many; in a loss of several views a batch holds as many rows an item."""

    @property
    def multi_label(self) -> bool:
        """Whether targets are float (N, C)."""
        return self.variant == "multi-label"

    def build(self, bits: int = BITS, ref: ComponentRef | None = None) -> nn.Module:
        """Build it for the targets, and start it on a training list of 8 items a class."""
        loss: Any = build_component(
            "loss", ref or self.subject.ref, bits=bits, num_classes=CLASSES, multi_label=self.multi_label
        )
        if hasattr(loss, "start"):
            loss.start(self.targets(torch.arange(8 * CLASSES) % CLASSES))
        return loss

    @property
    def views(self) -> int:
        """Rows an item."""
        return getattr(self.module, "views", 1)

    def batch(self, rows: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
        """A usual batch of `rows` items and the labels of its rows, view by view."""
        items = self.rows if rows is None else rows
        x, _ = super().batch(items * self.views, seed)
        return x, (torch.arange(items) % CLASSES).repeat(self.views)

    def other_order(self, rows: int) -> Tensor:
        """Another order of the items, the same in each view."""
        items = rows // self.views
        return torch.cat([torch.arange(items).roll(1) + items * view for view in range(self.views)])

    def usual(self, rows: int, bits: int = BITS) -> Tensor:
        """Relaxed codes."""
        return torch.randn(rows, bits)

    def targets(self, labels: Tensor) -> Tensor:
        """Make targets of class indices; of many labels: the class alone, with another one, or none."""
        if not self.multi_label:
            return labels
        targets = nn.functional.one_hot(labels, CLASSES).float()
        targets = targets + targets.roll(1, dims=1) * (labels % 2)[:, None]
        targets[labels == CLASSES - 1] = 0.0
        return targets

    def counts(self, labels: Tensor) -> Tensor:
        """Of many labels: the rows that have one; an item without any may cost nothing."""
        return self.targets(labels).any(dim=1) if self.multi_label else super().counts(labels)

    def index(self, x: Tensor, labels: Tensor) -> Tensor:
        """Give every item a row of the training list that is of its class; it is told from `x`, so it moves with its row."""
        items = len(x) // self.views
        rank = x[:items, 0].argsort().argsort()
        return (labels[:items] + CLASSES * rank).repeat(self.views)

    def read(self, module: nn.Module, x: Tensor, labels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Sum the terms for u = x, codes = tanh(x) and logits in `dtype` that depend on x too."""
        bits = x.shape[1]
        weight = torch.linspace(-1, 1, bits * CLASSES).reshape(bits, CLASSES)
        logits = (x @ weight).to(dtype)
        output = HashOutput(u=x, codes=torch.tanh(x), logits=logits, index=self.index(x.detach(), labels))
        terms = module(output, self.targets(labels))
        if not isinstance(terms, dict) or not terms or not all(isinstance(name, str) for name in terms):
            raise AssertionError(f"it returns {type(terms).__name__}, not a dict of named terms")
        for name, term in terms.items():
            if not isinstance(term, Tensor) or term.shape != () or not term.is_floating_point():
                raise AssertionError(f"its term {name!r} is no floating-point scalar")
        return torch.stack(list(terms.values())).sum()

    def shape(self, rows: int, bits: int) -> tuple[int, ...]:
        """A scalar."""
        return ()


class MethodHarness(Harness):
    """Images, through the whole model of a recipe."""

    rows = 3

    def recipe(self, bits: int = BITS, **optimization: Any) -> Recipe:
        """Fill the recipe for made-up images, with the subject's options and without pretrained weights."""

        def make(**optimization: Any) -> Recipe:
            changes = dict(self.subject.options)
            changes["optimization"] = {**changes.get("optimization", {}), "pretrained": False, **optimization}
            return make_recipe(self.subject.ref.name, bits=bits, dataset="cifar10", protocol="split", changes=changes)

        if make().loss is None:
            optimization.pop("epochs", None)
        return make(**optimization)

    def build(self, bits: int = BITS, ref: ComponentRef | None = None) -> nn.Module:
        """Build the model, which the recipe's loss must fit."""
        return build(self.recipe(bits), made_up_pool())[0]

    def usual(self, rows: int) -> Tensor:
        """Normalised images."""
        return torch.randn(rows, 3, *self.recipe().preprocess.size)

    def read(self, module: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        """U."""
        return self.outputs(module, x, labels)[0]

    def outputs(self, module: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """U, and logits if there are any."""
        assert isinstance(module, HashNetwork)
        made = module(x)
        return (made.u,) if made.logits is None else (made.u, made.logits)


def made_up_pool(multi_label: bool = False) -> ImagePool:
    """Eight training and four test images of four classes that differ in colour."""
    random = np.random.default_rng(0)
    labels = np.arange(12) % CLASSES
    colours = random.integers(40, 216, (CLASSES, 1, 1, 3))
    images = []
    for label in labels:
        buffer = io.BytesIO()
        pixels = colours[label] + random.integers(-40, 40, (32, 32, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    many = np.eye(CLASSES, dtype=bool)[labels] | np.eye(CLASSES, dtype=bool)[labels[::-1]]
    names = tuple(f"class{number}" for number in range(CLASSES))
    return ImagePool("cifar10", images, many if multi_label else labels, names, {"train": (0, 8), "test": (8, 12)}, 32)


KINDS: dict[str, Any] = {
    "backbone": lambda subject: [BackboneHarness(subject)],
    "head": lambda subject: [HeadHarness(subject, "feature vectors"), HeadHarness(subject, "feature maps")],
    "loss": lambda subject: [LossHarness(subject, "single-label"), LossHarness(subject, "multi-label")],
    "quantizer": lambda subject: [QuantizerHarness(subject)],
    "method": lambda subject: [MethodHarness(subject)],
}
