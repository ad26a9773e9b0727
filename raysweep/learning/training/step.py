"""One training step of a group: forward, backward and update without autograd.

It computes the same losses and gradients as ``objectives.define_losses`` in less time. No control
flow depends on the content of a tensor, so that a GPU can capture a whole step as a CUDA graph.
Letters: K lanes, R new and replayed samples of a batch.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from raysweep.learning.models import Network
from raysweep.learning.stacked.functional import row_sum
from raysweep.learning.stacked.gradients import cross_entropy_rows, reconstruction
from raysweep.learning.stacked.layers import Chain, Workspace, first
from raysweep.learning.stacked.optimizers import Optimizer
from raysweep.learning.stacked.parameters import Parameters
from raysweep.learning.stacked.warnings import add_warning
from raysweep.learning.training.batches import Batches
from raysweep.learning.training.forward import Encoder
from raysweep.learning.training.loss_monitor import LossMonitor
from raysweep.learning.training.objectives import Batch, Weights, count_correct

_WARM_UPS = 3
"""Steps run on a side stream before a capture, as torch.cuda.graph requires."""


class Pass:
    """Forward and backward of a network over the batches of one ``Batches``.

    ``compute`` leaves each lane's gradient in ``Parameters.grad`` and its losses in the monitor.
    Lanes from ``n_free`` on have a frozen encoder, whose backward is skipped.
    """

    def __init__(
        self,
        network: Network,
        weights: Weights,
        *,
        parameters: Parameters,
        batch: Batch,
        monitor: LossMonitor,
        n_free: int,
    ) -> None:
        self._weights, self._batch, self._n_free = weights, batch, n_free
        self._mean, self._values = monitor.mean, monitor.values
        self._workspace = workspace = Workspace(parameters.flat)
        self._encoder = Encoder(parameters, network, workspace, weights.lanes)

        def decoder(prefix: str | None) -> Chain | None:
            if prefix is None:
                return None
            return Chain(parameters, prefix, network.nonlinearity, True, workspace)

        self._class_decoder = decoder(network.class_decoder)
        self._image_decoder = decoder(network.image_decoder) if weights.n_rec > 0 else None
        self._rec_weight = weights.rec[: weights.n_rec]
        self._kl_weight = weights.kl[:, None, None]
        self._row_weight: Tensor | None = None
        if batch.n_replay > 0 or weights.is_mean:
            n, m = batch.n_new, batch.n_replay
            w = weights.replay[:, None]
            new, replayed = ((1 - w) / n, w / max(m, 1)) if weights.is_mean else (1 - w, w)
            self._row_weight = torch.cat([new.expand(-1, n), replayed.expand(-1, m)], 1)[..., None]
            self._kl_weight = self._row_weight * self._kl_weight

    @torch.no_grad()
    def compute(self) -> None:
        """Compute losses and gradients of the current batch."""
        batch = self._batch
        z = self._encoder.forward(batch.inputs, batch.noises)
        if self._encoder.has_latent:
            self._sum_rows("kl", self._encoder.kl_rows())
        grad_z: Tensor | None = None
        if self._class_decoder is not None:
            grad_z = self._classify(self._class_decoder, z)
        if self._image_decoder is not None:
            grad_z = self._reconstruct(self._image_decoder, z, grad_z)
        self._add_up("", self._mean).div_(batch.n_new)
        if batch.n_replay > 0:
            replayed = self._workspace("replayed", self._mean.size(0))
            self._add_up("replay_", replayed).div_(batch.n_replay)
            self._mean.lerp_(replayed, self._weights.replay)
        if grad_z is not None and self._n_free > 0:
            self._encoder.backward(grad_z, self._kl_weight)

    def _add_up(self, prefix: str, total: Tensor) -> Tensor:
        """Write the weighted sum of the losses with a name prefix into ``total`` (K,)."""
        values, n_rec = self._values, self._weights.n_rec
        if self._encoder.has_latent:
            torch.mul(self._weights.kl, values[f"{prefix}kl"], out=total)
        else:
            total.zero_()
        if self._class_decoder is not None:
            total.add_(values[f"{prefix}class"])
        if self._image_decoder is not None:
            rec = first(values[f"{prefix}rec"], n_rec)
            first(total, n_rec).addcmul_(self._rec_weight, rec)
        return total

    def _sum_rows(self, name: str, rows: Tensor) -> None:
        """Sum rows (K, R) separately over the new samples and the replayed ones."""
        n = self._batch.n_new
        if self._batch.n_replay == 0:
            row_sum(rows, out=self._values[name])
        else:
            row_sum(rows[:, :n], out=self._values[name])
            row_sum(rows[:, n:], out=self._values[f"replay_{name}"])

    def _classify(self, decoder: Chain, z: Tensor) -> Tensor | None:
        """Return the gradient of z in the lanes that need one."""
        batch = self._batch
        assert batch.targets is not None and batch.labels is not None
        logits = decoder.forward(z)
        new = logits if batch.n_replay == 0 else logits[:, : batch.n_new]
        self._values["n_correct"].copy_(count_correct(new, batch.labels))
        rows, grad = cross_entropy_rows(logits, batch.targets)
        self._sum_rows("class", rows)
        if self._row_weight is not None:
            grad.mul_(self._row_weight)
        return decoder.backward(grad, n_free=self._n_free)

    def _reconstruct(self, decoder: Chain, z: Tensor, grad_z: Tensor | None) -> Tensor | None:
        """Add the reconstruction of the lanes that have one; return the gradient of z."""
        n_rec = self._weights.n_rec
        logits = decoder.forward(first(z, n_rec))
        grad = self._reconstruction(logits)
        grad.mul_(self._rec_weight[:, None, None])
        if self._row_weight is not None:
            grad.mul_(first(self._row_weight, n_rec))
        if self._n_free == 0:
            decoder.backward(grad, n_free=0)
            return grad_z
        n_both = min(n_rec, self._n_free)
        into = None if grad_z is None else first(grad_z, n_both)
        result = decoder.backward(grad, n_free=n_both, add_to=into)
        assert result is not None
        return result if grad_z is None else grad_z

    def _reconstruction(self, logits: Tensor) -> Tensor:
        """Sum the reconstruction of the lanes that have one; return the gradient (K, R, D)."""
        batch, n_rec = self._batch, self._weights.n_rec
        if batch.n_replay == 0:
            losses, grad = reconstruction(logits, batch.images, self._workspace)
            first(self._values["rec"], n_rec).copy_(losses)
            return grad
        assert batch.replay_images is not None
        whole = self._workspace("rec grad of all", *logits.shape)
        parts = {
            "rec": (slice(batch.n_new), batch.images),
            "replay_rec": (slice(batch.n_new, None), first(batch.replay_images, n_rec)),
        }
        for name, (rows, images) in parts.items():
            losses, grad = reconstruction(logits[:, rows], images, self._workspace)
            first(self._values[name], n_rec).copy_(losses)
            whole[:, rows] = grad
        return whole


class Step:
    """Load a batch, compute, log losses, update; with ``has_graph`` captured as a CUDA graph.

    ``retrieve`` copies the replayed samples into the batch if ``Batches`` does not do so itself;
    ``average`` runs after the update.
    """

    def __init__(
        self,
        batches: Batches,
        compute: Pass,
        *,
        monitor: LossMonitor,
        optimizer: Optimizer,
        is_frozen: Tensor | None,
        frozen_end: int,
        has_graph: bool,
        retrieve: Callable[[], None] | None = None,
        average: Callable[[], None] | None = None,
    ) -> None:
        self.batches = batches
        self._retrieve, self._average = retrieve, average
        self._pass, self._monitor, self._optimizer = compute, monitor, optimizer
        self._frozen = (is_frozen, frozen_end)
        self._graph = _Graph() if has_graph else None

    def __call__(self) -> None:
        """Train on the next batch."""
        self.batches.prepare()
        self._monitor.begin_step(self.batches.batch.n_new)
        if self._graph is None:
            self.run()
        else:
            self._graph.run(self.run)

    @torch.no_grad()
    def run(self) -> None:
        """Train on the next batch, which must be prepared."""
        self.batches.load()
        if self._retrieve is not None:
            self._retrieve()
        self._pass.compute()
        self._monitor.note()
        self._optimizer.step(self._monitor.is_alive, *self._frozen)
        if self._average is not None:
            self._average()


class _Graph:
    """A CUDA graph of a function: three plain calls, then a capture at the fourth.

    See "CUDA Graphs" in PyTorch's notes on CUDA semantics. The function is not stored: its owner
    owns the graph, and a reference cycle would keep both alive until the next garbage collection.
    """

    def __init__(self) -> None:
        self._n_calls = 0
        self._is_refused = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, function: Callable[[], None]) -> None:
        """Call the function, or replay its captured graph."""
        if self._graph is None and self._n_calls < _WARM_UPS:
            self._n_calls += 1
            side = _side_stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                function()
            torch.cuda.current_stream().wait_stream(side)
            return
        if self._graph is None and not self._is_refused:
            self._capture(function)
        if self._graph is not None:
            self._graph.replay()
        else:
            function()

    def _capture(self, function: Callable[[], None]) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                function()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # what was captured has not run
            self._is_refused = True
            add_warning(
                f"steps run without a CUDA graph, which is slower; the capture failed: {error}"
            )
            return
        self._graph = graph


@cache
def _side_stream() -> torch.cuda.Stream:
    # Shared by all graphs, as cuBLAS keeps a workspace for each stream.
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]
