"""Warnings that a process reports to the user, such as slower fallbacks."""

_NOTES: list[str] = []


def add_warning(text: str) -> None:
    """Record a warning as one line, once per process."""
    line = " ".join(text.split())
    if line not in _NOTES:
        _NOTES.append(line)


def warnings_so_far() -> list[str]:
    """List the warnings recorded so far."""
    return list(_NOTES)
