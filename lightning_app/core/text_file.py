"""Text files that users hand in: lists of people, pairs, landmarks, labels, whatever program wrote them."""

from __future__ import annotations

import codecs
import unicodedata

# the longer marks first: that of UTF-32 begins as that of UTF-16 does
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def text_of(content: bytes, what: str) -> str:
    """Decode a text file: UTF-8, or UTF-16 and UTF-32 where their mark (BOM) says so; the mark is taken off.

    Args:
        content: of the file.
        what: the file, for messages.

    Raises:
        ValueError: it is in another encoding, or no text; file and line are named.
    """
    mark, encoding = next(((m, e) for m, e in _MARKS if content.startswith(m)), (b"", "utf-8"))
    body = content[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body[: error.start].decode(encoding, "replace").count("\n") + 1
        known = f", {encoding.upper()} as its mark says," if mark else ""
        raise ValueError(
            f"{what} is not UTF-8 text{known}: line {line} has bytes that are none ({error.reason}); save it as UTF-8"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(
            f"{what} is not UTF-8 text: line {line} has zero bytes, as UTF-16 without its mark has; save it as UTF-8"
        )
    return text


def composed(name: str) -> str:
    """Return a name in the form in which equal names are equal: é is one character, as most programs write it (NFC).

    macOS, and archives made there, write it as e and a combining accent (NFD).

    Args:
        name: of a file or a person.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)
