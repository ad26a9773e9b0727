"""The order and the readable names of stages."""

import re
import sys

_KINDS = {"train_task": "task", "train_generator": "generator", "fill_buffer": "buffer"}
_NAME = re.compile(r"(\w+?)_(\d+)")


def stage_order(stage: str) -> tuple[int, int, str]:
    """Return a key that sorts stages in the order of training; joint training comes last."""
    match = _NAME.fullmatch(stage)
    if match is None:
        return sys.maxsize, 0, stage
    kind, task = match.groups()
    kinds = list(_KINDS)
    return int(task), kinds.index(kind) if kind in kinds else len(kinds), stage


def stage_words(stage: str) -> str:
    """Return a stage's readable name: ``task 2``, ``generator 1``, ``joint``."""
    match = _NAME.fullmatch(stage)
    if match is None:
        return stage.removeprefix("train_").replace("_", " ")
    kind, task = match.groups()
    return f"{_KINDS.get(kind, kind.replace('_', ' '))} {task}"
