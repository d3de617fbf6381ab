"""Fixtures of the tests that talk to a Hugging Face Hub: the test hub, and clients as processes of their own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
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


class Client:
    """Runs Python processes that know the test hub only; those of one test share a Hugging Face home."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub = hub
        self.home = folder / "hf-home"
        self.user_home = folder / "home"
        self.user_home.mkdir()
        self.running: list[subprocess.Popen[str]] = []

    def environment(self, token: str | None, changes: Mapping[str, object]) -> dict[str, str]:
        """Build the environment; the client reads it when it is imported, which is why it needs its own process."""
        foreign = re.compile(r"(HF|HUGGINGFACE|HUGGING_FACE|XDG|HASHZOO)_|\w+_PROXY$", re.IGNORECASE)
        own = {name: value for name, value in os.environ.items() if not foreign.match(name)}
        own |= {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.home), "HOME": str(self.user_home)}
        own |= {"OMP_NUM_THREADS": "1", **SILENCE, **PATIENCE}
        if not self.hub.xet:
            own["HF_HUB_DISABLE_XET"] = "1"
        if token is not None:
            own["HF_TOKEN"] = token
        return own | {name: str(value) for name, value in changes.items()}

    def start(
        self, code: str, *args: object, token: str | None = None, env: Mapping[str, object] | None = None
    ) -> subprocess.Popen[str]:
        """Start Python on a piece of code; what still runs at the end of the test is killed."""
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)],
            env=self.environment(token, env or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.running.append(process)
        return process

    def __call__(
        self, code: str, *args: object, token: str | None = None, env: Mapping[str, object] | None = None,
        timeout: float = 120, check: bool = True,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run Python on a piece of code to its end; with `check` a failure fails the test and shows the output."""
        process = self.start(code, *args, token=token, env=env)
        out, err = process.communicate(timeout=timeout)
        if check and process.returncode:
            pytest.fail(f"the client ended with {process.returncode}\n{out}\n{err}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


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
    for process in clients.running:
        process.kill()
        process.communicate()
