"""Each way of choosing samples against a slow version in plain loops."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from raysweep.learning.declarations.replay import SELECTIONS
from raysweep.learning.replay.selection import Selection, keep, quotas, select

PER_CLASS = ("ring", "class_balanced", "herding", "mean_of_features", "kmeans", "kmeans_centroids")
RANK_NESTED = ("random", "reservoir", "ring", "class_balanced", "herding", "mean_of_features")
FIELDS = ("groups", "priorities")
N, N_CLASSES, N_FEATURES, N_PIXELS = 60, 3, 5, 7


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


class Task:
    """Samples whose first three pixels tell which they are; class 2 has only four."""

    def __init__(self, seed=0, is_integer=False):
        draws = stream(seed + 1000)
        self.images = torch.randint(0, 256, (N, N_PIXELS), dtype=torch.uint8, generator=draws)
        self.images[:, 0] = torch.arange(N)
        self.labels = torch.randint(0, 2, (N,), generator=draws)
        self.labels[::15] = 2
        self.features = torch.randn(N, N_FEATURES, dtype=torch.float64, generator=draws)
        if is_integer:  # exact arithmetic, and many equal samples
            self.features = torch.randint(1, 4, (N, 2), generator=draws).double()
        self.order = torch.randperm(N, generator=draws)[: N - 6]

    def members(self, label):
        return [i for i in range(N) if int(self.labels[i]) == label]

    def select(self, selection, sizes, task=1, seed=0, dtype=torch.float64):
        return select(
            selection,
            sizes,
            images=self.images,
            labels=self.labels,
            n_classes=N_CLASSES,
            task=task,
            features=self.features,
            order=self.order,
            stream=stream(seed),
            dtype=dtype,
        )


def sizes_of(selection, per_group, task=1):
    if selection == "reservoir":
        return {0: per_group}
    n_groups = task if selection == "random" else task * N_CLASSES
    return dict.fromkeys(range(n_groups), per_group)


def samples(chosen: Selection):
    return (chosen.images[:, 0] * 255).round().long().tolist()


def by_group(chosen: Selection):
    picked = {}
    for group, sample in zip(chosen.groups.tolist(), samples(chosen), strict=True):
        picked.setdefault(group, []).append(sample)
    return picked


def squared_distance(a, b):
    return sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True))


def mean(rows):
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def slow_clusters(rows, k, draws):
    """Find the means, and each row's cluster, with k-means++ and 20 of Lloyd's steps."""
    seeds = []
    for u in draws.tolist():
        chances = [min((squared_distance(r, rows[s]) for s in seeds), default=1.0) for r in rows]
        target, total = u * sum(chances), 0.0
        i = -1
        while total <= target and i < len(rows) - 1:
            i += 1
            total += chances[i]
        seeds.append(i)
    means = [list(rows[s]) for s in seeds]

    def nearest():
        distances = [[squared_distance(r, m) for m in means] for r in rows]
        return [row.index(min(row)) for row in distances]

    for _ in range(20):
        cluster = nearest()
        for j in range(k):
            own = [r for r, c in zip(rows, cluster, strict=True) if c == j]
            means[j] = mean(own) if own else means[j]
    return means, nearest()


def slow_kmeans_of_groups(task, quota, seed):
    """Yield each group's samples, features, means, clusters and clusters by size."""
    draws = stream(seed)
    for label in range(N_CLASSES):
        members = task.members(label)
        rows = task.features[members].tolist()
        k = min(quota, len(members))
        u = torch.rand(k, generator=draws, dtype=torch.float64)
        means, cluster = slow_clusters(rows, k, u)
        by_size = sorted(range(k), key=lambda j: (-cluster.count(j), j))
        yield label, members, rows, means, cluster, by_size


@pytest.mark.parametrize("quota", [0, 1, 5, 100])
def test_random_is_the_start_of_one_permutation(quota):
    task = Task()
    chosen = task.select("random", sizes_of("random", quota, 2), task=2)
    assert samples(chosen) == torch.randperm(N, generator=stream()).tolist()[:quota]
    assert chosen.groups.eq(1).all()
    assert chosen.priorities.tolist() == list(range(min(quota, N)))


@pytest.mark.parametrize("quota", [0, 1, 5, 100])
def test_reservoir_keeps_the_largest_draws(quota):
    u = torch.rand(N, generator=stream(), dtype=torch.float64).tolist()
    chosen = Task().select("reservoir", {0: quota})
    assert samples(chosen) == sorted(range(N), key=lambda i: -u[i])[:quota]
    assert chosen.priorities.tolist() == [-u[i] for i in samples(chosen)]


@pytest.mark.slow
def test_reservoir_keeps_every_sample_of_two_tasks_equally_often():
    n_seeds, n_slots, n, n_second = 3000, 5, 12, 8
    counts = np.zeros(n + n_second)
    images = torch.arange(n + n_second, dtype=torch.uint8)[:, None]
    for seed in range(n_seeds):
        draws, parts = stream(seed), []
        for task, part in ((1, images[:n]), (2, images[n:])):
            labels = torch.zeros(len(part), dtype=torch.int64)
            sizes = quotas("reservoir", n_slots, is_total=True, task=task, n_tasks=2, n_classes=1)
            parts.append(
                select(
                    "reservoir",
                    sizes,
                    images=part,
                    labels=labels,
                    n_classes=1,
                    task=task,
                    features=None,
                    order=None,
                    stream=draws,
                    dtype=torch.float64,
                )
            )
        kept = keep(*(torch.cat([getattr(p, f) for p in parts]) for f in FIELDS), sizes)
        pixels = torch.cat([p.images for p in parts])[kept]
        counts[(pixels[:, 0] * 255).round().long().numpy()] += 1
    chance = n_slots / (n + n_second)
    # Five standard deviations of a binomial count.
    tolerance = 5 * math.sqrt(n_seeds * chance * (1 - chance))
    assert counts.sum() == n_seeds * n_slots
    assert np.abs(counts - n_seeds * chance).max() < tolerance


@pytest.mark.parametrize("n_slots", [1, 7, 50, 200])
def test_reservoir_in_two_stages_equals_one_over_the_union(n_slots):
    first, second = Task(1), Task(2)
    draws = stream(3)
    labels = torch.cat([first.labels, second.labels])
    images = torch.cat([first.images, second.images])
    choose = partial(
        select,
        "reservoir",
        {0: n_slots},
        n_classes=N_CLASSES,
        task=1,
        features=None,
        order=None,
        dtype=torch.float64,
    )
    parts = [choose(images=t.images, labels=t.labels, stream=draws) for t in (first, second)]
    whole = choose(images=images, labels=labels, stream=stream(3))
    groups, priorities = (torch.cat([getattr(p, f) for p in parts]) for f in FIELDS)
    kept = keep(groups, priorities, {0: n_slots})
    ranked = kept[priorities[kept].argsort()]
    assert torch.equal(priorities[ranked], whole.priorities)
    assert torch.equal(torch.cat([p.images for p in parts])[ranked], whole.images)
    assert torch.equal(torch.cat([p.labels for p in parts])[ranked], whole.labels)


@pytest.mark.parametrize("quota", [0, 1, 6, 100])
def test_ring_keeps_what_a_fifo_buffer_would_hold(quota):
    task = Task()
    rings = {label: [] for label in range(N_CLASSES)}
    for i in task.order.tolist():
        ring = rings[int(task.labels[i])]
        ring.append(i)
        if len(ring) > quota:
            ring.pop(0)
    chosen = task.select("ring", sizes_of("ring", quota))
    assert by_group(chosen) == {g: ring[::-1] for g, ring in rings.items() if ring}


@pytest.mark.parametrize("quota", [0, 1, 6, 100])
def test_class_balanced_keeps_each_class_s_largest_draws(quota):
    task = Task()
    u = torch.rand(N, generator=stream(), dtype=torch.float64).tolist()
    best = {g: sorted(task.members(g), key=lambda i: -u[i])[:quota] for g in range(N_CLASSES)}
    chosen = task.select("class_balanced", sizes_of("class_balanced", quota))
    assert by_group(chosen) == {g: b for g, b in best.items() if b}


@pytest.mark.parametrize("quota", [0, 1, 6, 100])
def test_herding_equals_greedy_search(quota):
    task = Task()
    chosen = by_group(task.select("herding", sizes_of("herding", quota)))
    for label in range(N_CLASSES):
        members = task.members(label)
        unit = {}
        for i in members:
            row = task.features[i].tolist()
            length = math.sqrt(sum(v * v for v in row))
            unit[i] = [v / length for v in row]
        mu = mean(list(unit.values()))
        picked = []
        while len(picked) < min(quota, len(members)):
            left = [i for i in members if i not in picked]
            costs = [squared_distance(mu, mean([unit[j] for j in [*picked, i]])) for i in left]
            picked.append(left[costs.index(min(costs))])
        assert chosen.get(label, []) == picked


@pytest.mark.parametrize("quota", [0, 1, 6, 100])
def test_mean_of_features_keeps_the_nearest_to_the_mean(quota):
    task = Task()
    chosen = by_group(task.select("mean_of_features", sizes_of("mean_of_features", quota)))
    for label in range(N_CLASSES):
        members = task.members(label)
        centre = mean(task.features[members].tolist())
        ranked = sorted(members, key=lambda i: squared_distance(task.features[i], centre))
        assert chosen.get(label, []) == ranked[:quota]


@pytest.mark.parametrize("quota", [1, 6, 12, 100])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("is_integer", [False, True], ids=["distinct", "equal_samples"])
def test_kmeans_keeps_the_nearest_sample_to_each_mean(quota, seed, is_integer):
    task = Task(seed, is_integer)
    chosen = by_group(task.select("kmeans", sizes_of("kmeans", quota), seed=seed))
    for label, members, rows, means, _, by_size in slow_kmeans_of_groups(task, quota, seed):
        picked = []
        for j in by_size:
            left = [p for p in range(len(rows)) if members[p] not in picked]
            costs = [squared_distance(rows[p], means[j]) for p in left]
            # Both samples of a cluster of two are as near.
            nearest = next(i for i, cost in enumerate(costs) if cost <= min(costs) + 1e-9)
            picked.append(members[left[nearest]])
        assert chosen.get(label, []) == picked


@pytest.mark.parametrize("is_integer", [False, True], ids=["distinct", "equal_samples"])
@pytest.mark.parametrize("quota", [1, 6, 12, 100])
def test_kmeans_centroids_are_mean_images_and_the_farthest_samples(quota, is_integer):
    task = Task(is_integer=is_integer)
    chosen = task.select("kmeans_centroids", sizes_of("kmeans_centroids", quota))
    pixels = task.images.double() / 255
    n_empty = 0
    for label, members, rows, means, cluster, by_size in slow_kmeans_of_groups(task, quota, 0):
        expected = []
        to_own = [squared_distance(r, means[c]) for r, c in zip(rows, cluster, strict=True)]
        farthest = sorted(range(len(rows)), key=lambda p: (-to_own[p], p))
        for j in by_size:
            own = [pixels[m].tolist() for m, c in zip(members, cluster, strict=True) if c == j]
            if not own:
                own = [pixels[members[farthest.pop(0)]].tolist()]
                n_empty += 1
            expected.append(mean(own))
        got = chosen.images[chosen.groups == label]
        assert len(got) == len(expected) == min(quota, len(members))
        assert np.allclose(got.numpy(), np.array(expected).reshape(-1, N_PIXELS), atol=1e-12)
    assert (n_empty > 0) == (is_integer and quota >= 6)
    assert torch.equal(chosen.labels, chosen.groups)


def test_kmeans_centroids_fill_empty_clusters_with_the_farthest_samples(monkeypatch):
    # k-means++ all but never leaves a cluster empty while samples lie off their means.
    distances = torch.tensor([[1.0, 9, 5, 9], [4.0, 9, 5, 9], [2.0, 9, 3, 9], [9.0, 9, 3, 9]])
    cluster = torch.tensor([0, 0, 0, 2])
    monkeypatch.setattr(
        "raysweep.learning.replay.selection._clusters", lambda *_: (distances.double(), cluster)
    )
    images = torch.tensor([[0], [50], [100], [200]], dtype=torch.uint8)
    chosen = select(
        "kmeans_centroids",
        {0: 4},
        images=images,
        labels=torch.zeros(4, dtype=torch.int64),
        n_classes=1,
        task=1,
        features=torch.zeros(4, 1),
        order=None,
        stream=stream(),
        dtype=torch.float64,
    )
    # Two means by size, then samples 1 (at 4 from its mean) and 3 (at 3).
    assert (chosen.images[:, 0] * 255).round().tolist() == [50, 200, 50, 200]
    assert chosen.priorities.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("is_integer", [False, True], ids=["distinct", "equal_samples"])
@pytest.mark.parametrize("task_number", [1, 3])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_each_group_gets_its_quota_or_all_it_has(selection, task_number, is_integer):
    task = Task(is_integer=is_integer)
    for quota in (0, 1, 5, 13, 100):
        sizes = sizes_of(selection, quota, task_number)
        chosen = task.select(selection, sizes, task_number, dtype=torch.float32)
        there = range(N) if selection != "ring" else task.order.tolist()
        first = (task_number - 1) * (1 if selection == "random" else N_CLASSES)
        group_sizes = {}
        for i in there:
            group = first if selection == "random" else 0
            if selection in PER_CLASS:
                group = first + int(task.labels[i])
            group_sizes[group] = group_sizes.get(group, 0) + 1
        expected = [g for g in sorted(group_sizes) for _ in range(min(quota, group_sizes[g]))]
        assert chosen.groups.tolist() == expected
        assert chosen.images.shape == (len(expected), N_PIXELS)
        assert chosen.images.dtype == torch.float32
        assert chosen.labels.dtype == chosen.groups.dtype == torch.int64
        assert chosen.priorities.dtype == torch.float64
        assert all(chosen.priorities[chosen.groups == g].diff().gt(0).all() for g in set(expected))
        if selection != "kmeans_centroids":
            picked = samples(chosen)
            assert len(set(picked)) == len(picked)
            assert torch.equal(chosen.images, task.images[picked].float() / 255)
            assert torch.equal(chosen.labels, task.labels[picked])


@pytest.mark.parametrize("selection", RANK_NESTED)
def test_shrinking_equals_choosing_fewer(selection):
    task = Task()
    large = task.select(selection, sizes_of(selection, 20))
    for quota in (0, 1, 3, 19, 20):
        small = task.select(selection, sizes_of(selection, quota))
        kept = keep(large.groups, large.priorities, sizes_of(selection, quota))
        for field in ("images", "labels", "groups", "priorities"):
            assert torch.equal(getattr(large, field)[kept], getattr(small, field))


def test_keep_takes_the_lowest_of_each_group_wherever_they_lie():
    groups = torch.tensor([4, 0, 4, 0, 4, 2])
    priorities = torch.tensor([1.0, 0.5, 0.0, 0.5, 1.0, 9.0], dtype=torch.float64)
    assert keep(groups, priorities, {0: 1, 2: 0, 4: 2}).tolist() == [0, 1, 2]
    assert keep(groups[:0], priorities[:0], {}).tolist() == []


@pytest.mark.parametrize("selection", SELECTIONS)
def test_quotas_use_the_budget(selection):
    for budget, n_tasks, n_classes in product((0, 1, 7, 100, 1003), (1, 3, 10), (1, 2, 10)):
        for task in range(1, n_tasks + 1):
            total = quotas(
                selection, budget, is_total=True, task=task, n_tasks=n_tasks, n_classes=n_classes
            )
            n_groups = {"reservoir": 1, "random": task}.get(selection, task * n_classes)
            assert list(total) == list(range(n_groups))
            if selection == "ring":
                size = budget // (n_tasks * n_classes)
                assert set(total.values()) == {size}
                assert sum(total.values()) <= budget
            else:
                assert sum(total.values()) == budget
                assert list(total.values()) == sorted(total.values(), reverse=True)
                assert max(total.values()) - min(total.values()) <= 1
            if selection == "reservoir":
                continue
            each = list(
                quotas(
                    selection,
                    budget,
                    is_total=False,
                    task=task,
                    n_tasks=n_tasks,
                    n_classes=n_classes,
                ).values()
            )
            n_each = len(each) // task
            assert len(each) == n_groups
            assert each == each[:n_each] * task
            lost = budget % n_classes if selection == "ring" else 0
            assert sum(each[:n_each]) == budget - lost


@pytest.mark.parametrize("selection", SELECTIONS)
def test_quotas_of_a_total_budget_never_grow(selection):
    for budget, n_classes in product((0, 7, 100, 1003), (1, 2, 10)):
        for task in range(1, 10):
            now, later = (
                quotas(selection, budget, is_total=True, task=t, n_tasks=10, n_classes=n_classes)
                for t in (task, task + 1)
            )
            assert all(later[group] <= size for group, size in now.items())


def test_equal_samples_are_taken_from_the_lowest_index():
    images = torch.arange(6, dtype=torch.uint8)[:, None].expand(6, 3)
    labels = torch.zeros(6, dtype=torch.int64)
    features = torch.ones(6, 2)
    for selection in ("herding", "mean_of_features", "kmeans"):
        chosen = select(
            selection,
            {0: 4},
            images=images,
            labels=labels,
            n_classes=1,
            task=1,
            features=features,
            order=None,
            stream=stream(),
            dtype=torch.float64,
        )
        assert samples(chosen) == [0, 1, 2, 3]
