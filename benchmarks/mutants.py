"""Look for tests that cannot fail: change a module in one place at a time, and print each change that no test notices.

`python benchmarks/mutants.py hashzoo/codes.py tests/test_codes.py` takes changes of cosmic-ray (another operator, another
number, no decorator, no turn of a loop ...) at random, `--count` of them, and runs the tests after each in a copy of the
source. Annotations are left out: nothing evaluates them. What is printed is to be read: some changes mean the same.
"""

import argparse
import ast
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parent.parent
NO_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "lowest", "site")


def mutants(source: str, seed: int) -> Iterator[str]:
    """Give every change of a module once, in random order."""
    tree, parsed = get_ast(source), ast.parse(source)
    hints = [node.annotation for node in ast.walk(parsed) if isinstance(node, ast.arg | ast.AnnAssign)]
    hints += [node.returns for node in ast.walk(parsed) if isinstance(node, ast.FunctionDef)]
    spans = [((hint.lineno, hint.col_offset), (hint.end_lineno, hint.end_col_offset)) for hint in hints if hint]
    operators = [kind() for kind in map(plugins.get_operator, plugins.operator_names()) if not kind.arguments()]
    places = []
    for operator in operators:
        starts = [start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node)]
        places += [
            (operator, number)
            for number, start in enumerate(starts)
            if not any(first <= start < last for first, last in spans)
        ]
    random.Random(seed).shuffle(places)
    known = {ast.dump(parsed)}
    for operator, number in places:
        try:
            changed = mutate_code(source, operator, number)
            meaning = ast.dump(ast.parse(changed))
        except (AttributeError, SyntaxError):  # cosmic-ray stumbles over an exception that is named with a dot
            continue
        if meaning not in known:
            known.add(meaning)
            yield changed


def passes(folder: Path, tests: list[str], limit: float | None = None) -> bool:
    """Run tests in a copy; too slow is a failure."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return not subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=limit).returncode
    except subprocess.TimeoutExpired:
        return False


def main() -> None:
    """Read the command line, and print the changes that no test noticed and their share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module")
    parser.add_argument("tests", nargs="+", help="files, folders or single tests, as pytest takes them")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT, folder, ignore=NO_SOURCE, dirs_exist_ok=True)
        began = time.monotonic()
        if not passes(folder, options.tests):
            sys.exit("The tests fail without a change.")
        limit = 3 * (time.monotonic() - began) + 10
        source, tried, unnoticed = (folder / options.module).read_text(encoding="utf-8"), 0, 0
        for changed in mutants(source, options.seed):
            if tried == options.count:
                break
            tried += 1
            (folder / options.module).write_text(changed, encoding="utf-8")
            if passes(folder, options.tests, limit):
                unnoticed += 1
                lines = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
                print(*list(lines)[2:], sep="\n", flush=True)
        print(f"{tried - unnoticed} of {tried} changes of {options.module} made a test fail.")


if __name__ == "__main__":
    main()
