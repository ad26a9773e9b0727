"""Hints at the metric that was meant by a name that is none."""

from collections.abc import Sequence

from raysweep.user_text.values import near

_ACCURACIES = frozenset(
    {
        *("accuracy", "acc", "test_accuracy", "test_acc", "val_accuracy", "val_acc"),
        *("validation_accuracy", "valid_accuracy", "eval_accuracy", "final_accuracy", "final_acc"),
        *("mean_accuracy", "mean_acc", "avg_accuracy", "avg_acc", "average_acc"),
        *("overall_accuracy", "task_accuracy", "top1", "top_1", "score"),
    }
)
_LOSSES = frozenset(
    {
        *("loss", "val_loss", "validation_loss", "valid_loss", "eval_loss", "test_loss"),
        *("train_loss", "training_loss", "final_loss", "objective"),
    }
)


def metric_hint(name: object, known: Sequence[str]) -> str:
    """Return a hint at the known metric that ``name`` may mean, else at all of them."""
    return metric_meant(name, known) or f"; known: {', '.join(known)}"


def metric_meant(name: object, known: Sequence[str]) -> str:
    """Return `` (did you mean ...?)`` for the known metric that ``name`` may mean, '' if none.

    Other programs have a single accuracy: here that is the mean over the tasks. ``best_accuracy``
    is of the last task alone, in an epoch that is chosen on test samples: it is not suggested for a
    name without "best".
    """
    word = str(name)[:60].strip().lower()
    for mark in " -/":
        word = word.replace(mark, "_")
    if word in _ACCURACIES:
        pair = ("average_accuracy", "test_accuracy")  # the second is a column of ``epochs``
        for metric in reversed(pair) if word.startswith("test") else pair:
            if metric in known:
                return f" (did you mean {metric}?)"
    if word in _LOSSES:
        return ""
    return near(name, [m for m in known if "best" in word or not m.startswith("best_")])
