import re
from pathlib import Path

import pytest

import hashzoo.cli
from hashzoo.errors import HashzooError, UnknownNameError, unknown
from hashzoo.text import clean

ACTS = [
    *map(chr, [*range(32), *range(127, 160)]),
    *"\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff",
]


@pytest.mark.parametrize("sign", [*ACTS, "\ud800", "\U000e0041"], ids=lambda sign: f"{ord(sign):x}")
def test_nothing_acts(sign):
    said = clean(f"a{sign}b")
    assert said.isprintable()
    assert said == f"a{sign!r}b".replace("'", "")
    assert said.encode()  # also halves of characters can be written


def test_what_is_seen_stays():
    for words in ("plain [red] <b>", "Füchse und 猫　🦊", "a  b\u00a0c", r"C:\new", "'quoted' \"twice\""):
        assert clean(words) == words
    assert clean(Path("a/b")) == "a/b" and clean(3) == "3"


def test_both_ends_of_a_long_text_stay():
    assert clean("x" * 4096) == "x" * 4096
    said = clean("begin" + "x" * 10**7 + "end")
    assert len(said) == 4096 and said.startswith("beginx") and said.endswith("xend")
    assert len(clean("\n" * 10**7)) < 10_000


def test_no_message_of_ours_acts():
    for kind in (HashzooError, UnknownNameError):
        assert str(kind("bad\x1b[2J\nError: forged")) == r"bad\x1b[2J\nError: forged"
    assert "\n" not in str(unknown("model", "a\nb", ["a\nc"], "look."))


def test_the_command_line_prints_through_one_file():
    """So that no command prints what nobody made safe."""
    for path in Path(hashzoo.cli.__file__).parent.glob("*.py"):
        found = re.findall(r"\b(?:echo|secho|print|console\.print)\(", path.read_text())
        assert not found or path.name == "output.py", path
