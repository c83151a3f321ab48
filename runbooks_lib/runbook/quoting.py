"""Any text or bytes as words of a POSIX shell, in ASCII alone.

What comes from a host (file names above all) may hold any byte but NUL. Here such text is a `str` in which bytes that
are not UTF-8 stand as lone surrogates (`os.fsdecode` does the same), so that it survives JSON and comes out unchanged.
"""

from __future__ import annotations

import re
import shlex

_PLAIN = re.compile(r"[\x20-\x7e]*\Z")


def text_of(data: bytes) -> str:
    """Bytes of a host as text; `bytes_of` gives exactly these bytes back."""
    return data.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """The bytes that `text_of` made the text from. UnicodeEncodeError for a surrogate that no byte stands behind."""
    return text.encode("utf-8", "surrogateescape")


def word(value: str | int) -> str:
    """One shell word that has exactly this value in dash, bash, mksh and busybox, in any locale.

    Anything beyond printable ASCII is written as octal for printf; line ends at its end, which a command substitution
    would cut off, stand in quotes of their own. Raises ValueError for a NUL, which no shell can hold.
    """
    text = str(value)
    if "\0" in text:
        raise ValueError("a shell word cannot hold a NUL")
    if _PLAIN.match(text):
        return shlex.quote(text)
    octal = "".join(_octal(byte) for byte in bytes_of(text))
    if not text.endswith("\n"):
        return f"\"$(printf '{octal}')\""
    kept, ends = text.rstrip("\n"), len(text) - len(text.rstrip("\n"))
    return (word(kept) if kept else "") + "'" + "\n" * ends + "'"


def words(*values: str | int) -> str:
    """Several words, with blanks between them."""
    return " ".join(word(value) for value in values)


def _octal(byte: int) -> str:
    character = chr(byte)
    if 0x20 <= byte < 0x7F and character not in "-\\%'":  # printf takes a leading - for an option
        return character
    return f"\\{byte:03o}"


def shown(text: str) -> str:
    """Text for a person's terminal or page: what cannot be printed stands there as an escape, line ends stay."""
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1] for character in text
    )
