"""One random batch through a recipe's components: what breaks their contracts is told before data or weights are read."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hashzoo.config import ComponentRef, PreprocessConfig
from hashzoo.errors import HashzooError, PluginError
from hashzoo.hookspecs import HashOutput
from hashzoo.network import build_component
from hashzoo.registry import registry

ITEMS = 4  # of the batch: batch normalisation needs two or more, and pairs need some of one class
CLASSES = 10


def check_contract(
    backbone: ComponentRef,
    head: ComponentRef,
    quantizer: ComponentRef,
    loss: ComponentRef | None = None,
    *,
    bits: int,
    preprocess: PreprocessConfig,
    num_classes: int = CLASSES,
    multi_label: bool | None = None,
) -> None:
    """Run one batch of random input through all four components, and refuse what their contracts do not promise.

    Nothing is downloaded: the backbone starts at random. torch's random state is left as it was. `Head.fit` is not called:
    it needs features of real images.

    Args:
        backbone: as a recipe names it.
        head: likewise.
        quantizer: likewise.
        loss: likewise; a method in closed form has none.
        bits: K.
        preprocess: its size is that of the random input.
        num_classes: C.
        multi_label: what the targets are; None tries one label an item, then many where the loss refuses that.

    Raises:
        PluginError: a component raises, or gives what its contract does not allow; names package, file and line.
        HashzooError: a component cannot be found or built, or refuses what it is asked for.

    >>> check_contract(ComponentRef(name="torchvision/resnet18"), ComponentRef(name="linear"), ComponentRef(name="sign"),
    ...                ComponentRef(name="classification"), bits=48, preprocess=PreprocessConfig(size=(32, 32)))
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_component("backbone", backbone, pretrained=False)
        features = _run("backbone", backbone, network, torch.randn(ITEMS, 3, *preprocess.size))
        shape = tuple(getattr(network, "feature_shape", ()))
        fits = isinstance(features, Tensor) and features.ndim == len(shape) + 1
        _expect(
            fits and features.shape[:2] == (ITEMS, shape[0]) and features.is_floating_point(),
            "backbone", backbone, network,
            f"gives {_shown(features)} for {ITEMS} images, and its feature_shape is {shape}",
        )  # fmt: skip
        made = build_component("head", head, feature_shape=shape, bits=bits, num_classes=num_classes)
        u, logits = _check_head(head, made, features, bits, num_classes)
        codes = _check_quantizer(quantizer, build_component("quantizer", quantizer), u)
        if loss is not None:
            _check_loss(loss, HashOutput(u=u, codes=codes, logits=logits), bits, num_classes, multi_label)


def _check_head(
    ref: ComponentRef, head: Any, features: Tensor, bits: int, num_classes: int
) -> tuple[Tensor, Tensor | None]:
    """Run the head; return u, and the logits if it makes them."""
    given = _run("head", ref, head, features)
    u, logits = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    wanted = (ITEMS, bits)
    fits = isinstance(u, Tensor) and u.shape == wanted and u.is_floating_point()
    _expect(
        fits, "head", ref, head, f"gives {_shown(u)} where u has to be floats of shape {wanted}: {bits} bits an item"
    )
    wanted = (ITEMS, num_classes)
    fits = logits is None or (isinstance(logits, Tensor) and logits.shape == wanted and logits.is_floating_point())
    _expect(fits, "head", ref, head, f"gives {_shown(logits)} where logits have to be floats of shape {wanted}")
    return u.float(), None if logits is None else logits.float()


def _check_quantizer(ref: ComponentRef, quantizer: Any, u: Tensor) -> Tensor:
    """Run the quantizer in evaluation and in training; return its codes in training."""
    codes = _run("quantizer", ref, quantizer.eval(), u.detach())
    exact = isinstance(codes, Tensor) and torch.equal(codes, torch.where(u >= 0, 1.0, -1.0))
    _expect(exact, "quantizer", ref, quantizer, "gives other codes than +1 where u >= 0 and -1 elsewhere in evaluation")
    codes = _run("quantizer", ref, quantizer.train(), u)
    fits = isinstance(codes, Tensor) and codes.shape == u.shape and codes.is_floating_point()
    _expect(fits, "quantizer", ref, quantizer, f"gives {_shown(codes)} where codes have u's shape, {tuple(u.shape)}")
    return codes


def _check_loss(ref: ComponentRef, output: HashOutput, bits: int, num_classes: int, multi_label: bool | None) -> None:
    """Build the loss, start it, and look at its terms."""
    loss, many = _build_loss(ref, bits, num_classes, multi_label)
    targets = torch.arange(ITEMS) // 2 % num_classes  # two of each class
    if many:
        targets = torch.nn.functional.one_hot(targets, num_classes).float()
    if hasattr(loss, "start"):
        _run("loss", ref, loss.start, targets)
    rows = torch.arange(ITEMS).repeat(getattr(loss, "views", 1))
    logits = None if output.logits is None else output.logits[rows]
    seen = HashOutput(u=output.u[rows], codes=output.codes[rows], logits=logits, index=rows)
    terms = _run("loss", ref, loss, seen, targets[rows])
    named = isinstance(terms, dict) and bool(terms) and all(isinstance(name, str) for name in terms)
    _expect(named, "loss", ref, loss, f"gives {_shown(terms)} where it has to be a dict of named terms")
    for name, term in terms.items():
        fits = isinstance(term, Tensor) and term.shape == () and term.is_floating_point()
        _expect(
            fits,
            "loss",
            ref,
            loss,
            f"gives {_shown(term)} as the term {name!r}, which has to be a floating-point scalar",
        )


def _build_loss(ref: ComponentRef, bits: int, num_classes: int, multi_label: bool | None) -> tuple[Any, bool]:
    """Build the loss for the targets that it takes; return it, and whether they are of many labels."""

    def build(many: bool) -> Any:
        return build_component("loss", ref, bits=bits, num_classes=num_classes, multi_label=many)

    if multi_label is not None:
        return build(multi_label), multi_label
    try:
        return build(False), False
    except PluginError:
        raise
    except HashzooError as error:  # it says clearly that it does not take one label an item
        try:
            return build(True), True
        except HashzooError:
            raise error from None


def _run(kind: str, ref: ComponentRef, call: Callable[..., Any], *inputs: Any) -> Any:
    """Call a component; whatever it raises is told with its package, file and line."""
    try:
        return call(*inputs)
    except HashzooError:
        raise
    except Exception as error:
        owner, name, module = _facts(kind, ref)
        folder = f"{Path(module).parent}{os.sep}"
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(folder)]
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else module
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(
            f"The {kind} {name!r} of {owner} fails on a batch of {ITEMS} random items ({reason[:300]}); fix {where}."
        ) from error


def _expect(condition: bool, kind: str, ref: ComponentRef, component: Any, problem: str) -> None:
    """Refuse a component that breaks its contract, and name its package and the line where its `forward` begins."""
    if condition:
        return
    owner, name, module = _facts(kind, ref)
    code = getattr(getattr(type(component), "forward", None), "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}" if code else module
    raise PluginError(f"The {kind} {name!r} of {owner} {problem}; fix {where}.")


def _facts(kind: str, ref: ComponentRef) -> tuple[str, str, str]:
    """Owner and name of a component, and the file that its target is in."""
    found = [item for item in registry().components(kind) if (item.owner, item.name) == (ref.package, ref.name)]
    component = found[0] if found else registry().get(kind, ref.name)[0]
    try:
        file = inspect.getsourcefile(component.load()) or ""
    except (TypeError, OSError):  # a class that no file holds
        file = ""
    return component.owner, ref.name.removeprefix(f"{component.owner}/"), file or "its class"


def _shown(value: object) -> str:
    """Say what a component gave, by type and shape."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"
