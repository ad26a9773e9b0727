r"""Text without characters that do something: the form in which everything is shown.

Names of files, keys of YAML, errors of workers and the contents of a results folder may come from
others. A terminal obeys control characters in them (ESC [ 2 J clears the screen, others set the
title or the clipboard), and bidi controls and zero-width characters show other words than are
there. They are written as escapes such as ``\x1b``, so that they are seen.
"""


def clean_line(text: str) -> str:
    """Escape all characters that break a line or do not print.

    These are the C0 and C1 controls, DEL, bidi and zero-width characters, all spaces and line ends
    but the plain space, and lone surrogates, as in file names that are not UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def clean_lines(text: str) -> str:
    """Clean text of several lines: line feeds stay."""
    return "\n".join(map(clean_line, text.split("\n")))
