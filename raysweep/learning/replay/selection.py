"""Selecting samples of a finished task for the replay buffer, and keeping some when it shrinks.

A buffer consists of groups, each with a quota: one group per task (``random``), a single group
(``reservoir``), or one per task and class (the others), as a class may have different images in
each task. Each sample has a priority; a group that shrinks keeps those with the lowest.

Letters: N samples of the task, n of a group, k chosen, D input size, F feature size.

Everything is deterministic given the arguments; ties go to the lower index. Features are compared
in float64, so that rounding rarely decides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raysweep.learning.declarations.replay import FEATURE_SELECTIONS, SELECTIONS

_N_LLOYD_STEPS = 20


@dataclass(frozen=True)
class Selection:
    """The samples chosen from one task, sorted by group, then priority.

    ``images`` (n, D) in [0, 1]; ``labels`` (n,) and ``groups`` (n,) int64; ``priorities`` (n,)
    float64: a group that shrinks keeps the samples with the lowest.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    priorities: Tensor


def quotas(
    selection: str, n_replay: int, *, is_total: bool, task: int, n_tasks: int, n_classes: int
) -> dict[int, int]:
    """Return the largest size of each group after ``task`` (from 1), for all groups so far.

    ``n_replay`` is the budget of the whole buffer if ``is_total``, otherwise of each task. It is
    divided equally, with one sample more for the first groups if there is a remainder (Avalanche's
    adaptive ``ClassBalancedBuffer``); rings have a fixed size and leave the remainder unused.
    """
    assert selection in SELECTIONS, selection
    assert 1 <= task <= n_tasks, (task, n_tasks)
    if selection == "reservoir":
        assert is_total, "a reservoir spans all tasks: its budget is a total"
        return {0: n_replay}
    n_per_task = 1 if selection == "random" else n_classes
    if selection == "ring":
        size = n_replay // (n_tasks * n_classes if is_total else n_classes)
        sizes = [size] * (task * n_classes)
    elif is_total:
        sizes = _shares(n_replay, task * n_per_task)
    else:
        sizes = _shares(n_replay, n_per_task) * task
    return dict(enumerate(sizes))


def select(
    selection: str,
    quotas: Mapping[int, int],
    *,
    images: Tensor,
    labels: Tensor,
    n_classes: int,
    task: int,
    features: Tensor | None,
    order: Tensor | None,
    stream: torch.Generator,
    dtype: torch.dtype,
) -> Selection:
    """Choose up to ``quotas[group]`` samples for each group of ``task`` (from 1).

    ``images`` (N, D) uint8; ``labels`` (N,) int64; ``features`` (N, F) for the strategies that
    compare samples; ``order`` for ``ring``: the indices of the samples in the order of the task's
    last epoch, which may omit some; ``stream`` on the CPU. The selected images have ``dtype``. A
    group with fewer samples than its quota contributes all of them.
    """
    groups = _group_of_each(selection, labels, n_classes, task)
    sequence, scores = _sequence(selection, len(labels), order, stream)
    sequence = sequence.to(labels.device)
    parts = []
    for group in _groups_of_task(selection, n_classes, task):
        members = sequence[groups[sequence] == group]
        n_chosen = min(quotas[group], len(members))
        if selection in FEATURE_SELECTIONS:
            assert features is not None, f"{selection} needs features"
            x = features[members].to(torch.float64)
            chosen, pixels = _choose_by_features(selection, x, images[members], n_chosen, stream)
            chosen = members[chosen]
        else:
            chosen = members[:n_chosen]
            pixels = images[chosen].to(dtype)
        if scores is None:
            priorities = torch.arange(n_chosen, dtype=torch.float64, device=labels.device)
        else:
            priorities = scores.to(labels.device)[chosen]
        parts.append((pixels.div(255).to(dtype), labels[chosen], groups[chosen], priorities))
    return Selection(*(torch.cat(part) for part in zip(*parts, strict=True)))


def keep(groups: Tensor, priorities: Tensor, quotas: Mapping[int, int]) -> Tensor:
    """Return the sorted indices of the samples that a buffer keeps under the groups' quotas.

    ``groups`` (n,) int64; ``priorities`` (n,): each group keeps the samples with the lowest.
    """
    kept = [groups.new_empty(0)]
    for group in sorted(set(groups.tolist())):
        members = (groups == group).nonzero().flatten()
        kept.append(members[priorities[members].argsort(stable=True)[: quotas[group]]])
    return torch.cat(kept).sort().values


def _shares(total: int, n: int) -> list[int]:
    return [total // n + (i < total % n) for i in range(n)]


def _groups_of_task(selection: str, n_classes: int, task: int) -> range:
    assert selection in SELECTIONS, selection
    if selection == "reservoir":
        return range(1)
    if selection == "random":
        return range(task - 1, task)
    return range((task - 1) * n_classes, task * n_classes)


def _group_of_each(selection: str, labels: Tensor, n_classes: int, task: int) -> Tensor:
    first = _groups_of_task(selection, n_classes, task)[0]
    if selection in ("random", "reservoir"):
        return torch.full_like(labels, first)
    return first + labels


def _sequence(
    selection: str, n: int, order: Tensor | None, stream: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Return the sample indices in the order in which groups take them, and priorities (N,).

    Priorities are None where a sample's priority is its rank among those taken.
    """
    if selection == "random":
        return torch.randperm(n, generator=stream), None
    if selection in ("reservoir", "class_balanced"):
        # Keeping the largest u ~ U(0, 1) of a stream is Vitter's reservoir (1985, algorithm R), as
        # in Avalanche's ReservoirSamplingBuffer, and needs no count of the tasks before.
        scores = -torch.rand(n, generator=stream, dtype=torch.float64)
        return scores.argsort(stable=True), scores
    if selection == "ring":
        assert order is not None, "ring needs the order of the stream"
        return order.flip(0), None
    return torch.arange(n), None


def _choose_by_features(
    selection: str, x: Tensor, images: Tensor, k: int, stream: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose ``k`` samples of a group by features ``x`` (n, F); images (n, D) are 0 to 255.

    Return indices (k,) and float64 images (k, D) from 0 to 255, the most important first.
    """
    if k == 0:
        return torch.zeros(0, dtype=torch.int64, device=x.device), images[:0].to(x.dtype)
    if selection == "kmeans_centroids":
        return _mean_images(x, images.to(x.dtype), k, stream)
    chosen = _nearest_to_means(x, k, stream) if selection == "kmeans" else _CHOOSE[selection](x, k)
    return chosen, images[chosen].to(x.dtype)


def _herd(x: Tensor, k: int) -> Tensor:
    """Choose ``k`` of ``x`` (n, F) so that their running mean stays closest to the overall mean.

    iCaRL (Rebuffi et al. 2017, arXiv 1611.07725), algorithm 4, on features of length 1: the next
    is the argmin of ||mu - (sum + f) / m||, with m the number chosen including f. Squared, times
    m^2 and without terms that do not depend on f, this is |f|^2 - 2 f (m mu - sum).
    """
    x = functional.normalize(x)
    cost, towards = x.square().sum(1), x.mean(0)
    mean = towards
    chosen = torch.zeros(k, dtype=torch.int64, device=x.device)
    for i in range(k):
        chosen[i] = (cost - 2 * (x @ towards)).argmin()
        cost[chosen[i]] = torch.inf
        towards = towards + mean - x[chosen[i]]
    return chosen


def _nearest_to_mean(x: Tensor, k: int) -> Tensor:
    """Choose the ``k`` of ``x`` (n, F) nearest to their mean.

    The "mean of features" of Chaudhry et al. 2019 (arXiv 1902.10486), applied when a task has
    ended.
    """
    return (x - x.mean(0)).square().sum(1).argsort(stable=True)[:k]


_CHOOSE: dict[str, Callable[[Tensor, int], Tensor]] = {
    "herding": _herd,
    "mean_of_features": _nearest_to_mean,
}
"""Functions that choose k of a group by its features (n, F) alone, the most important first."""


def _nearest_to_means(x: Tensor, k: int, stream: torch.Generator) -> Tensor:
    """Choose for each of ``k`` clusters of ``x`` (n, F) the sample nearest to its mean.

    The largest cluster chooses first; no sample is chosen twice. Based on Chaudhry et al. 2019
    (arXiv 1902.10486), whose k-means is online.
    """
    distances, cluster = _clusters(x, k, stream)
    distances = distances[:, _by_size(cluster, k)]
    # The two samples of a cluster of two are equally near, up to rounding.
    rounding = 1e-10 * x.square().sum(1).max()
    chosen = torch.zeros(k, dtype=torch.int64, device=x.device)
    for i in range(k):
        is_near = distances[:, i] <= distances[:, i].min() + rounding
        chosen[i] = is_near.to(torch.uint8).argmax()
        distances[chosen[i]] = torch.inf
    return chosen


def _mean_images(
    x: Tensor, images: Tensor, k: int, stream: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Average the images (n, D) of each of ``k`` clusters of ``x`` (n, F), the largest first.

    An empty cluster contributes an image of the group instead: the farthest from its cluster's
    mean that is not used yet. Return indices (k,), of some member for a mean, and images (k, D).
    """
    distances, cluster = _clusters(x, k, stream)
    by_size = _by_size(cluster, k)
    sizes = cluster.bincount(minlength=k)[by_size]
    n_full = int((sizes > 0).sum())
    means = _sums(images, cluster, k)[by_size][:n_full] / sizes[:n_full, None]
    to_own = distances.gather(1, cluster[:, None]).flatten()
    farthest = to_own.argsort(descending=True, stable=True)[: k - n_full]
    return torch.cat([farthest.new_zeros(n_full), farthest]), torch.cat([means, images[farthest]])


def _by_size(cluster: Tensor, k: int) -> Tensor:
    return cluster.bincount(minlength=k).argsort(descending=True, stable=True)


def _clusters(x: Tensor, k: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """Find ``k`` clusters of ``x`` (n, F): k-means++ and up to 20 of Lloyd's steps.

    A cluster that becomes empty keeps its mean. Return the squared distances (n, k) of the samples
    to the means, and the nearest cluster (n,) of each sample.
    """
    squares = x.square().sum(1)
    means = x[_seeds(x, squares, k, stream)]
    distances = _squared_distances(x, squares, means)
    cluster = distances.argmin(1)
    for _ in range(_N_LLOYD_STEPS):
        sizes = cluster.bincount(minlength=k)[:, None]
        means = torch.where(sizes > 0, _sums(x, cluster, k) / sizes.clamp(min=1), means)
        distances = _squared_distances(x, squares, means)
        before, cluster = cluster, distances.argmin(1)
        if torch.equal(before, cluster):
            break
    return distances, cluster


def _seeds(x: Tensor, squares: Tensor, k: int, stream: torch.Generator) -> Tensor:
    """Draw ``k`` of ``x`` (n, F), weighted by the squared distance to the nearest drawn so far.

    k-means++ (Arthur and Vassilvitskii 2007), section 2.2. ``squares`` (n,) are |x|^2.
    """
    draws = torch.rand(k, generator=stream, dtype=torch.float64)
    chance = torch.ones(len(x), dtype=torch.float64)
    nearest = torch.full_like(squares, torch.inf)
    seeds: list[int] = []
    for draw in draws:
        # On the CPU, as CUDA sums in no fixed order; all weights are 0 if all samples are equal.
        total = chance.cumsum(0)
        seed = int(torch.searchsorted(total, draw * total[-1], right=True))
        seeds.append(min(seed, len(x) - 1))
        to_seed = _squared_distances(x, squares, x[seeds[-1:]]).flatten()
        nearest = torch.minimum(nearest, to_seed)
        nearest[seeds[-1]] = 0
        chance = nearest.cpu()
    return torch.tensor(seeds, dtype=torch.int64, device=x.device)


def _squared_distances(x: Tensor, squares: Tensor, means: Tensor) -> Tensor:
    """Compute |x - mean|^2, (n, k), for ``x`` (n, F), its ``squares`` (n,) and ``means`` (k, F)."""
    constant = squares[:, None] + means.square().sum(1)
    return constant.addmm_(x, means.T, alpha=-2).clamp_(min=0)


def _sums(x: Tensor, cluster: Tensor, k: int) -> Tensor:
    """Sum ``x`` (n, F) over each of ``k`` clusters (n,); return (k, F)."""
    if x.is_cuda:  # index_add_ sums in no fixed order on a GPU
        return functional.one_hot(cluster, k).to(x.dtype).T @ x
    return x.new_zeros(k, x.shape[1]).index_add_(0, cluster, x)
