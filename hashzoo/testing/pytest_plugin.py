"""What pytest offers wherever hashzoo is installed; loaded with every run, so it imports no torch."""

from collections.abc import Iterator

import pytest

from hashzoo.registry import Registry, discover, using


@pytest.fixture
def hashzoo_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry of the built-ins alone, whatever is installed, in force during the test.

    `hashzoo_registry.add(module, "my-package")` runs a module's hooks as if that package were installed.
    """
    monkeypatch.setenv("HASHZOO_PLUGINS", "")
    with using(discover()) as chosen:
        yield chosen
