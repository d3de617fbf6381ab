"""The precision that codes were made in: the same everywhere, known, and nobody else's settings are lost."""

import threading

import numpy as np
import pytest
import torch

from hashzoo.codes import Codes
from hashzoo.errors import CodesError, HashzooError
from hashzoo.network import HashNetwork
from hashzoo.precision import without_tf32
from hashzoo.training import make_recipe

NEW = hasattr(torch.backends.cudnn, "conv")  # torch 2.9 and later
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


def settings():
    """What torch would do now with float32 in matrix products, convolutions and recurrent networks on CUDA."""
    if NEW:
        places = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
        return [place.fp32_precision for place in places]
    return [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]


EXACT = ["ieee"] * 3 if NEW else [False] * 2


@pytest.fixture(autouse=True)
def usual():
    """Whatever a test sets, the next one finds torch as it starts."""
    before = settings()
    yield
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = True
    if NEW:
        torch.backends.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "none"
    assert settings() == before


def test_codes_know_their_precision(photo, make_model):
    model = make_model()
    assert model.encode(photo()).precision == model.encode([]).precision == "float32"
    assert model.encode(photo(), precision="bfloat16").precision == "bfloat16"
    assert model.codes(np.ones((1, 12), dtype=bool)).precision is None


def test_the_precision_is_that_of_the_network(make_model):
    model, seen = make_model(), []
    model.head.linear.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    batch = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):  # another's
        model.relaxed(batch)
    model.relaxed(batch, "bfloat16")
    model.encode(np.zeros((4, 4, 3), dtype=np.uint8))
    assert seen == [torch.float32, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("precision", ["float16", "bf16", "", None])
def test_another_precision_is_refused_on_every_path(make_model, precision):
    model = make_model()
    ways = [
        lambda: model.encode([], precision=precision),
        lambda: next(model.encode_batches([], precision=precision)),
        lambda: model.relaxed(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), precision),
        lambda: model.encoding(precision).__enter__(),
    ]
    if precision is not None:  # not known
        ways.append(lambda: Codes(np.zeros((1, 2), np.uint8), 12, precision=precision))
    for way in ways:
        with pytest.raises(CodesError, match=rf"^Precision is 'float32' or 'bfloat16', not {precision!r}\.$"):
            way()


def test_another_precision_is_refused_in_a_recipe():
    changes = {"optimization": {"precision": "float16"}}
    with pytest.raises(HashzooError, match=r"precision.* 'float32' or 'bfloat16'"):
        make_recipe("dsbh", bits=12, dataset="cifar10", protocol="cifar10-full", changes=changes)


def test_what_relaxed_returns_may_be_learned_from(make_model):
    u = make_model().relaxed(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    weight = torch.ones(12, requires_grad=True)
    (u * weight).sum().backward()
    assert torch.equal(weight.grad, u.sum(dim=0))


def allow_in_the_old_way():
    torch.backends.cuda.matmul.allow_tf32 = True


def allow_in_the_new_way():
    torch.backends.fp32_precision = "tf32"


WAYS = [lambda: None, allow_in_the_old_way, *([allow_in_the_new_way] if NEW else [])]


@pytest.mark.parametrize("allow", WAYS)
def test_no_tf32_for_a_while(allow):
    allow()
    before = settings()
    assert before != EXACT
    with without_tf32:
        assert settings() == EXACT
        with without_tf32:
            assert settings() == EXACT
        assert settings() == EXACT
    assert settings() == before


@pytest.mark.skipif(not NEW, reason="this torch has no setting for all backends")
def test_a_setting_for_all_holds_for_all_afterwards():
    torch.backends.fp32_precision = "tf32"
    with without_tf32:
        pass
    torch.backends.fp32_precision = "ieee"
    assert settings()[0] == "ieee"


def test_threads_that_overlap_leave_the_settings_as_they_were():
    before, inside, leave = settings(), threading.Barrier(9), [threading.Event() for _ in range(8)]
    found = []

    def work(row):
        with without_tf32:
            inside.wait()
            leave[row].wait()
            found.append(settings())

    threads = [threading.Thread(target=work, args=(row,)) for row in range(8)]
    for thread in threads:
        thread.start()
    inside.wait()
    for event, thread in zip(leave, threads, strict=True):  # one after the other
        assert settings() == EXACT
        event.set()
        thread.join()
    assert found == [EXACT] * 8
    assert settings() == before


def test_an_error_leaves_the_settings_as_they_were():
    before = settings()
    with pytest.raises(ZeroDivisionError), without_tf32:
        1 / 0  # noqa: B018
    assert settings() == before


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_encoding_on_cuda_takes_no_tf32(make_model, monkeypatch, precision):
    model, before = make_model(), settings()
    monkeypatch.setattr(HashNetwork, "device", torch.device("cuda"))
    with model.encoding(precision):
        assert settings() == EXACT
    assert settings() == before
    with model.encoding():
        assert not torch.is_autocast_enabled("cuda")


def test_encoding_on_the_cpu_touches_no_setting_of_cuda(make_model):
    before = settings()
    with make_model().encoding():
        assert settings() == before


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=gpu)])
def test_cuda_and_the_cpu_make_the_same_codes(device, photo):
    import hashzoo

    images = [photo(48, 48, seed=seed) for seed in range(64)]
    for name in ("itq-efficientnet_lite0-tinyimagenet-64bit", "dahp-resnet18-cifar10-48bit"):
        here, there = (hashzoo.load(name, device=where).encode(images) for where in ("cpu", device))
        assert there.precision == "float32"
        differ = (here.to_bits() != there.to_bits()).sum()
        assert differ <= 2, f"{name}: {differ} bits"  # of u within rounding of 0
