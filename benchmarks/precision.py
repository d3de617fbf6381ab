"""Count the bits in which codes differ from those made in float32 on the CPU; writes results/precision.json.

python benchmarks/precision.py  # $HASHZOO_DATA holds CIFAR-10
"""

import contextlib
import json
from pathlib import Path
from unittest import mock

import torch

import hashzoo
from hashzoo.data import open_pool
from hashzoo.provenance import commit, device_name, versions

MODELS = "itq-efficientnet_lite0-tinyimagenet-64bit", "dahp-resnet18-cifar10-48bit"
IMAGES = 500  # the first of CIFAR-10's test images


def main() -> None:
    """Encode the same images in each precision on each device there is."""
    pool = open_pool("cifar10")
    first = pool.bounds["test"][0]
    images = [pool.images[position] for position in range(first, first + IMAGES)]
    ways = [("cpu", "bfloat16", False)]
    if torch.cuda.is_available():
        ways += [("cuda", "float32", False), ("cuda", "float32", True), ("cuda", "bfloat16", False)]
    rows = []
    for name in MODELS:
        expected = hashzoo.load(name, device="cpu").encode(images).to_bits()
        for device, precision, tf32 in ways:
            model = hashzoo.load(name, device=device)
            allowed = mock.patch("hashzoo.engines.torch.without_tf32", contextlib.nullcontext())
            with allowed if tf32 else contextlib.nullcontext():
                differ = (model.encode(images, precision=precision).to_bits() != expected).sum(axis=1)
            rows.append({
                "model": name, "bits": model.bits, "device": device_name(device),
                "precision": f"{precision}{', TF32 allowed as torch has it' * tf32}",
                "codes_that_differ": round(float((differ > 0).mean()), 4), "bits_that_differ": round(float(differ.mean()), 3),
            })  # fmt: skip
            print(rows[-1])
    result = {"images": IMAGES, "data_copy": pool.copy, "versions": versions(), "commit": commit(), "rows": rows}
    (Path(__file__).parent / "results" / "precision.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
