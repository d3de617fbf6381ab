"""Every command of docs/hub.md runs, in order, in a shell."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hashzoo.zoo.index import shipped_folder

NAME = "dsbh-cnn3-cifar10-48bit"
PAGE = Path(__file__).parents[2] / "docs" / "hub.md"


@pytest.mark.parametrize("hub", [True], indirect=True, ids=["xet"])  # the client's default
def test_the_commands_of_the_page(hub, client, tmp_path):
    shutil.copytree(shipped_folder() / NAME, tmp_path / NAME)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    blocks = [blocks[1], blocks[0], *blocks[2:]]  # one has to publish before another can fetch
    lines = [line for block in blocks for line in block.splitlines()]
    assert len([line for line in lines if "hashzoo " in line]) >= 10
    environment = client.environment("hf_ann_write", {})
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for line in lines:
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        if " list " in line:
            assert NAME in done.stdout
