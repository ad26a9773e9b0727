"""What a process has to tell its user beside numbers: what went a slower way than it could."""

_NOTES: list[str] = []


def add_warning(text: str) -> None:
    """Note something in one line, once a process."""
    line = " ".join(text.split())
    if line not in _NOTES:
        _NOTES.append(line)


def warnings_so_far() -> list[str]:
    """List the notes so far."""
    return list(_NOTES)
