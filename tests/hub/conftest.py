"""Fixtures of the tests that talk to a Hugging Face Hub: the test hub, and clients as processes of their own."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from .server import Hub

PATIENCE = {  # a client that meets a fault gives up soon
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1",
    "HF_XET_CLIENT_RETRY_BASE_DELAY": "100ms",
    "HF_XET_CLIENT_RETRY_MAX_DURATION": "3s",
    "HF_HUB_DOWNLOAD_TIMEOUT": "30",
    "HF_HUB_ETAG_TIMEOUT": "30",
}
SILENCE = dict.fromkeys(
    ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_UPDATE_CHECK"), "1"
)


SHELL = """
import contextlib, io, json, os, sys, time, warnings
wait = time.sleep
time.sleep = lambda seconds: wait(seconds / 100)  # the Hub's client tries as often as ever, but sooner
from hashzoo.cli import main
for request in sys.stdin:
    line, token = json.loads(request)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update({"HF_TOKEN": token} if token else {})
    sys.argv, said, code = ["hashzoo", *line], io.StringIO(), 0
    warnings.simplefilter("always")
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException as error:
            code = repr(error)
    print(json.dumps([code, said.getvalue()]), flush=True)
"""


class Client:
    """Runs Python processes that know the test hub only; those of one test share a Hugging Face home."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub = hub
        self.home = folder / "hf-home"
        self.user_home = folder / "home"
        self.user_home.mkdir()
        self.running: list[subprocess.Popen[str]] = []
        self.shell: subprocess.Popen[str] | None = None

    def environment(self, token: str | None, changes: Mapping[str, object]) -> dict[str, str]:
        """Build the environment; the client reads it when it is imported, which is why it needs its own process."""
        foreign = re.compile(r"(HF|HUGGINGFACE|HUGGING_FACE|XDG|HASHZOO)_|\w+_PROXY$", re.IGNORECASE)
        own = {name: value for name, value in os.environ.items() if not foreign.match(name)}
        own |= {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.home), "HOME": str(self.user_home)}
        own |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "", **SILENCE, **PATIENCE}
        if not self.hub.xet:
            own["HF_HUB_DISABLE_XET"] = "1"
        if token is not None:
            own["HF_TOKEN"] = token
        return own | {name: str(value) for name, value in changes.items()}

    def start(
        self, code: str, *args: object, token: str | None = None, env: Mapping[str, object] | None = None,
        through: Sequence[str] = (),
    ) -> subprocess.Popen[str]:  # fmt: skip
        """Start Python on a piece of code, `through` another command; what still runs at the end of the test is killed."""
        process = subprocess.Popen(
            [*through, sys.executable, "-c", code, *map(str, args)],
            env=self.environment(token, env or {}), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.running.append(process)
        return process

    def __call__(
        self, code: str, *args: object, token: str | None = None, env: Mapping[str, object] | None = None,
        through: Sequence[str] = (), timeout: float = 120, check: bool = True,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run Python on a piece of code to its end; with `check` a failure fails the test and shows the output."""
        process = self.start(code, *args, token=token, env=env, through=through)
        out, err = process.communicate(timeout=timeout)
        if check and process.returncode:
            pytest.fail(f"the client ended with {process.returncode}\n{out}\n{err}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def hashzoo(self, *line: object, token: str | None = "hf_ann_write", timeout: float = 60) -> tuple[int, str]:
        """Run a command line, as ann; all go to one process, since it takes seconds to import torch. Give code and output."""
        if self.shell is None:
            self.shell = self.start(SHELL)
        assert self.shell.stdin and self.shell.stdout and self.shell.stderr
        watch = threading.Timer(timeout, self.shell.kill)
        watch.start()
        self.shell.stdin.write(json.dumps([[str(part) for part in line], token]) + "\n")
        self.shell.stdin.flush()
        answer = self.shell.stdout.readline()
        watch.cancel()
        if not answer:
            pytest.fail(f"{line} ended the client\n{self.shell.stderr.read()}")
        code, said = json.loads(answer)
        return code, said

    def close(self) -> None:
        """Kill what still runs."""
        for process in self.running:
            process.kill()
            process.communicate()


@pytest.fixture(params=[False, True], ids=["http", "xet"])
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    """Run a test hub, once without and once with Xet; a request it does not know fails the test."""
    with Hub(xet=request.param) as running:
        yield running
    assert not running.unknown, "requests that the test hub does not know"


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Iterator[Client]:
    """Give what runs clients: `client(code, *args)` to the end, `client.start` to kill it; `client.home`."""
    clients = Client(hub, tmp_path)
    yield clients
    clients.close()
