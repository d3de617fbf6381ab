"""The conformance kit: what a plugin author's tests ask of a component, so that it works everywhere in hashzoo.

In a plugin's tests:

```python
from hashzoo.testing import Subject, parametrize_with_checks

@parametrize_with_checks([Subject("loss", "my-loss"), Subject("method", "my-method")])
def test_conforms(check):
    check()
```

`hashzoo plugin check NAME` runs the same checks and prints a report.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hashzoo.config import ComponentRef, validate
from hashzoo.errors import ConfigError, unknown
from hashzoo.registry import HOOKS, Component, Plugin, Registry, registry, using

if TYPE_CHECKING:
    from hashzoo.testing.harness import Harness

__all__ = [
    "Result",
    "Subject",
    "check",
    "parametrize_with_checks",
]


@dataclass(frozen=True)
class Result:
    """How one check went.

    Attributes:
        check: its name.
        problem: why it failed; None if it passed.
        expected: why it was expected to fail; None if it was not.
    """

    check: str
    problem: str | None = None
    expected: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it went as expected; an expected failure that passes does not."""
        return (self.problem is None) == (self.expected is None)

    def __str__(self) -> str:
        if self.problem is None:
            return f"{self.check}: " + ("ok" if self.ok else "passes; take it out of the expected failures")
        return f"{self.check}: " + (self.problem if self.expected is None else f"fails as expected ({self.expected})")


@dataclass(frozen=True)
class Subject:
    """One component or method under test.

    Args:
        kind: "backbone", "head", "loss", "quantizer" or "method".
        target: a registered name (`name` or `package/name`), or the component's class, registered or not.
        options: what a recipe would give as the component's `args`; for a method, changes of its recipe.
        expected_failures: name of a check -> why the component may fail it. A pass is then an error.

    Raises:
        UnknownNameError: the name is not registered, or an expected failure names no check.
        ConfigError: the kind is unknown, or a method is not given by its name.

    >>> from hashzoo.builtin.quantizers import Sign
    >>> subject = Subject("quantizer", Sign, {"gradient": "identity"})
    >>> subject.run("check_agrees_with_sign")
    >>> all(result.ok for result in subject.results())
    True
    """

    kind: str
    target: str | Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    expected_failures: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in HOOKS:
            raise ConfigError(f"The kind of a subject is one of {', '.join(HOOKS)}, not {self.kind!r}.")
        if isinstance(self.target, str):
            registry().get(self.kind, self.target)
        elif self.kind == "method":
            raise ConfigError(f"A method is checked by its registered name, not {self.target!r}; register it first.")
        for name in self.expected_failures:
            if name not in self.checks:
                raise unknown("check", name, self.checks, f"those of a {self.kind} are {', '.join(self.checks)}.")

    def __str__(self) -> str:
        name = self.target if isinstance(self.target, str) else getattr(self.target, "__name__", repr(self.target))
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return f"{self.kind} {name}" + (f" ({options})" if options else "")

    @property
    def checks(self) -> dict[str, Callable[[Subject], None]]:
        """The checks that apply, by name, in order."""
        from hashzoo.testing.checks import CHECKS, check_listing

        found = dict(CHECKS[self.kind])
        return found | {check_listing.__name__: check_listing} if isinstance(self.target, str) else found

    def run(self, check: str) -> None:
        """Run one check, on a component of its own.

        Raises:
            AssertionError: the component does not do what the check asks; whatever it raises itself comes through too.
        """
        import torch

        with using(self._registry), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.checks[check](self)

    def results(self) -> list[Result]:
        """Run all checks; if it cannot even be built, no more than that is told."""
        found: list[Result] = []
        for name in self.checks:
            problem = None
            try:
                self.run(name)
            except Exception as error:  # whatever the component raises is what the report tells
                text = " ".join(str(error).split())
                problem = text if type(error) is AssertionError else f"{type(error).__name__}: {text}"
            found.append(Result(name, problem, self.expected_failures.get(name)))
            if problem is not None and len(found) == 1:
                break
        return found

    @functools.cached_property
    def ref(self) -> ComponentRef:
        """The component as a recipe names it; a method's options are changes of its recipe."""
        name = self.target if isinstance(self.target, str) else "under-test"
        args = {} if self.kind == "method" else dict(self.options)
        return validate(ComponentRef, {"name": name, "args": args}, f"The subject {self}")

    @functools.cached_property
    def harnesses(self) -> list[Harness]:
        """How it is built, fed and read; one for each kind of input it takes."""
        from hashzoo.testing.harness import make_harnesses

        return make_harnesses(self)

    @functools.cached_property
    def _registry(self) -> Registry:
        """What is installed, a tiny backbone, and the component if it is not registered."""
        tiny = Component("backbone", "tiny", "hashzoo-testing", "hashzoo.testing.harness:TinyBackbone", "For tests")
        components = [tiny]
        if not isinstance(self.target, str):
            components.append(Component(self.kind, "under-test", "hashzoo-testing", self.target, "Under test"))
        return Registry([*registry().plugins, Plugin("testing", "hashzoo-testing", "0", tuple(components))])


def parametrize_with_checks(subjects: Iterable[Subject]) -> Any:
    """Decorate a test that takes `check` and calls it: it runs once for each subject and check.

    Expected failures are strict xfails, with their reason.

    >>> from hashzoo.builtin.quantizers import Sign
    >>> @parametrize_with_checks([Subject("quantizer", Sign)])
    ... def test_conforms(check):
    ...     check()
    """
    import pytest

    parameters = [
        pytest.param(
            functools.partial(subject.run, name),
            id=f"{subject}-{name}",
            marks=[pytest.mark.xfail(reason=subject.expected_failures[name], strict=True)]
            if name in subject.expected_failures
            else [],
        )
        for subject in subjects
        for name in subject.checks
    ]
    return pytest.mark.parametrize("check", parameters)


def check(
    kind: str,
    target: str | Callable[..., Any],
    options: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> None:
    """Run all checks of one component or method.

    A method's recipe is filled for the data set cifar10 and trained for a few steps on made-up images.

    Args:
        kind: "backbone", "head", "loss", "quantizer" or "method".
        target: a registered name, or the class.
        options: what a recipe would give as `args`; of a method, changes of its recipe.
        expected_failures: name of a check -> why the component may fail it.

    Raises:
        AssertionError: names every check that did not go as expected, with the reason.

    >>> check("head", "linear")
    >>> import torch
    >>> class Truncated(torch.nn.Module):
    ...     def forward(self, u):
    ...         return u.clamp(-1, 1) if self.training else u.sign()  # the sign of 0 is 0
    >>> check("quantizer", Truncated)
    Traceback (most recent call last):
    AssertionError: quantizer Truncated fails 1 of 16 checks:
      check_agrees_with_sign: in evaluation mode u = -0 becomes 0, not +1
    """
    subject = Subject(kind, target, options or {}, expected_failures or {})
    wrong = [result for result in subject.results() if not result.ok]
    if wrong:
        lines = "".join(f"\n  {result}" for result in wrong)
        raise AssertionError(f"{subject} fails {len(wrong)} of {len(subject.checks)} checks:{lines}")


def __getattr__(name: str) -> Any:
    """Give the five functions of hashzoo 0.1, `check_backbone` and its kin, as `check` of that kind."""
    kind = name.removeprefix("check_")
    if name == kind or kind not in HOOKS:
        raise AttributeError(f"module 'hashzoo.testing' has no attribute {name!r}")
    warnings.warn(f"{name}(...) is now check({kind!r}, ...)", DeprecationWarning, stacklevel=2)
    return functools.partial(check, kind)
