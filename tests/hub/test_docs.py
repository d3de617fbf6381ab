"""Every command of docs/hub.md runs, in order, in a shell."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hashzoo.zoo.names import shipped_folder

from .server import Hub

NAME = "dsbh-cnn3-cifar10-48bit"
PAGE = Path(__file__).parents[2] / "docs" / "hub.md"
SAYS = {  # part of a command -> what it must say
    " list ": NAME,
    "--push": "/commit/",
    " verify ": ": ok",
    "HF_HOME=mirrored": "mirrored/hub",
    "HF_HOME=site": "site/filled/hub",
    "HASHZOO_PATH=models": "models/my-model",
}


@pytest.mark.parametrize("hub", [True], indirect=True, ids=["xet"])  # the client's default
def test_the_commands_of_the_page(hub, client, tmp_path):
    folder = shutil.copytree(shipped_folder() / NAME, tmp_path / NAME)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    blocks = [blocks[1], blocks[0], *blocks[2:]]  # one has to publish before another can fetch
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(any(part in line for line in lines) for part in SAYS)
    environment = client.environment("hf_ann_write", {})
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with Hub(xet=True) as mirror:
        mirror.commit(f"zoo/{NAME}", {path.name: path.read_bytes() for path in folder.iterdir()})
        for line in lines:
            asked = len(hub.log)
            done = subprocess.run(
                line.replace("https://hub.example.org", mirror.url), shell=True, cwd=tmp_path, env=environment,
                capture_output=True, text=True, check=False, timeout=200,
            )  # fmt: skip
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            assert all(said in done.stdout for part, said in SAYS.items() if part in line), (line, done.stdout)
            if "HF_HUB_OFFLINE" in line or "HF_ENDPOINT" in line:
                assert len(hub.log) == asked
    assert mirror.log and not mirror.unknown
