"""Words of others made safe to show: a config, a card, a file's name or the Hub may say what deceives a reader or a terminal."""

import unicodedata

LIMIT = 4096  # the longest path of most systems


def clean(words: object, limit: int = LIMIT) -> str:
    r"""Make one line of what somebody else wrote, with nothing in it that acts.

    Everything that is not seen as itself is written as `repr` writes it: line breaks, terminal escapes, other control
    characters, those that turn the direction of text, and halves of characters. Spaces stay. Of too long a text both ends
    stay, at most `limit` characters of it.

    >>> print(clean("a cat\n\x1b[31mError: \u202efake"))
    a cat\n\x1b[31mError: \u202efake
    >>> clean("0123456789" * 9, 20)
    '012345678 ... 456789'
    """
    text = str(words)
    if len(text) > limit:
        head = (limit - 5) * 3 // 5
        text = f"{text[:head]} ... {text[head + 5 - limit :]}"
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or unicodedata.category(letter) == "Zs" else repr(letter)[1:-1]
        for letter in text
    )
