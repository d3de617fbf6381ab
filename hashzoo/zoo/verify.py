"""Prove that a model is what it was when it was published."""

from hashzoo.files import sha256
from hashzoo.zoo.folder import open_folder
from hashzoo.zoo.names import list_models, locate
from hashzoo.zoo.probe import check_probe


def verify(name: str) -> list[str]:
    """Check a model's files against the index, open it strictly, and run its probe.

    Returns:
        What is wrong, in sentences; empty if all is well.

    Raises:
        HashzooError: the model cannot be opened at all; the message says why.
    """
    folder = locate(name).folder
    problems = []
    for info in list_models(name):
        for file, (digest, _) in info.files.items():
            if not (folder / file).exists():
                problems.append(f"{file} is missing")
            elif sha256(folder / file) != digest:
                problems.append(f"{file} is not the published one (sha256 differs)")
    return problems + check_probe(folder, open_folder(folder))
