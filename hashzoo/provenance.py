"""What a number rests on besides the data: commit, device and libraries."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path


def commit() -> str:
    """The commit of the checkout hashzoo runs from, with "+changes" if files differ from it; "unknown" elsewhere.

    `$HASHZOO_COMMIT` says it where hashzoo runs from a copy without git's folder.
    """
    root, elsewhere = Path(__file__).parent.parent, os.environ.get("HASHZOO_COMMIT") or "unknown"
    try:
        found = subprocess.run(  # an environment may lie in the checkout of another project
            ["git", "rev-parse", "--show-toplevel", "HEAD"],  # noqa: S607
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        top, head = found.stdout.splitlines()
        if Path(top).resolve() != root.resolve():
            return elsewhere
        dirty = subprocess.run(  # untracked files change no number
            ["git", "status", "--porcelain", "--untracked-files=no", "hashzoo", "plugins"],  # noqa: S607
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return elsewhere
    return head + ("+changes" if dirty.stdout.strip() else "")


def device_name(device: str) -> str:
    """A device in words: the GPU's name, or the processor with the number of threads torch uses."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads"


def processor() -> str:
    """The processor's model, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what decides numbers."""
    return {name: importlib.metadata.version(name) for name in ("hashzoo", "torch", "torchvision", "timm", "numpy")}
