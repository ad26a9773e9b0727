"""Settings of models and their optimisers."""

from typing import Annotated, Literal

from raysweep.learning.declarations.training import TrainingSettings
from raysweep.learning.declare import (
    Choice,
    Count,
    Part,
    Real,
    Varies,
    Widths,
    setting,
    when,
    words_in,
)

OPTIMIZERS = ("adam", "adamw", "adagrad", "rmsprop", "sgd")


class ModelSettings(TrainingSettings):
    """What learns."""

    model: Annotated[str, Choice(words_in("models"))] = setting(
        "vib",
        "space",
        "Model that learns the tasks; mlp (no bottleneck) with experiments replay and joint.",
        Part.CLASSIFIER,
        decides=lambda config: True,
    )
    n_bottleneck: Count = setting(
        100,
        "space",
        "Width Z of the bottleneck, and of the VAE's.",
        Part.BOTTLENECK,
        Part.VAE,
        when(Part.REPLAY, retrieval=("generative_mir",)),
        ge=1,
        le=100_000,
    )
    encoder_widths: Widths = setting(
        (200, 200), "space", "Hidden widths of the encoder, or of the MLP.", Part.HIDDEN_LAYERS
    )
    class_decoder_widths: Widths = setting(
        (), "space", "Hidden widths of the class decoder.", Part.CLASSIFIER
    )
    rec_decoder_widths: Widths = setting(
        (200, 200),
        "space",
        "Hidden widths of the reconstruction decoder; the VAE's, whose encoder mirrors them.",
        Part.RECONSTRUCTION,
        Part.VAE,
        when(Part.REPLAY, retrieval=("generative_mir",)),
    )
    nonlinearity: Literal["relu", "leaky_relu", "elu", "tanh", "sigmoid"] = setting(
        "relu",
        "space",
        "Between the layers of classifier and VIB (the VAE always uses relu).",
        Part.CLASSIFIER,
    )
    dropout: Real = setting(
        0.0,
        "space",
        "Probability that a training step leaves out a hidden unit of the encoder, or of the MLP "
        "(Srivastava et al. 2014); tests, labels and the virtual step of retrieval are without it.",
        Part.HIDDEN_LAYERS,
        varies=Varies.BY_LANE,
        ge=0,
        lt=1,
    )
    variance: Literal["exp", "softplus"] = setting(
        "exp",
        "space",
        "How a bottleneck's standard deviation comes from the encoder's output s: exp(s / 2), or "
        "softplus(s - 5) as in the deep VIB paper (the VAE always uses exp).",
        Part.BOTTLENECK,
    )
    optimizer: Annotated[str, Choice(OPTIMIZERS)] = setting(
        "adam", "space", "Optimiser, as in torch.optim.", Part.CLASSIFIER
    )
    lr: Real = setting(
        0.001,
        "space",
        "Learning rate.",
        Part.CLASSIFIER,
        when(Part.VAE, generator_lr=(0.0,)),
        varies=Varies.BY_LANE,
        gt=0,
    )
    lr_schedule: Literal["constant", "exponential", "cosine"] = setting(
        "constant",
        "space",
        "Learning rate within a task: lr, lr * lr_decay^(epochs done), or lr times a cosine that "
        "goes from 1 to 0 over the epochs (SGDR without restarts, arXiv 1608.03983, equation 5).",
        Part.CLASSIFIER,
        varies=Varies.BY_LANE,
    )
    lr_decay: Real = setting(
        0.97,
        "space",
        "Factor of the exponential schedule.",
        when(Part.CLASSIFIER, lr_schedule=("exponential",)),
        varies=Varies.BY_LANE,
        gt=0,
        le=1,
    )
    weight_decay: Real = setting(
        0.0,
        "space",
        "L2 penalty as in torch.optim: added to the gradient; of adamw a decay beside it.",
        Part.TRAINING,
        varies=Varies.BY_LANE,
        ge=0,
    )
    momentum: Real = setting(
        0.0,
        "space",
        "Momentum of sgd and rmsprop, as in torch.optim.",
        when(Part.CLASSIFIER, optimizer=("sgd", "rmsprop")),
        when(Part.VAE, generator_optimizer=("sgd", "rmsprop")),
        varies=Varies.BY_LANE,
        ge=0,
        lt=1,
    )
    clip_norm: Real = setting(
        0.0,
        "space",
        "Greatest norm of a configuration's gradient, to which it is scaled down as "
        "torch.nn.utils.clip_grad_norm_ does; 0: as it is.",
        Part.TRAINING,
        varies=Varies.BY_LANE,
        ge=0,
    )
    optimizer_state: Literal["auto", "reset", "keep"] = setting(
        "auto",
        "space",
        "Optimiser state at a new task; auto resets it for vib, else keeps it.",
        when(Part.LATER_TASK, freeze_encoder=(False,)),
        varies=Varies.BY_LANE,
    )
    beta_1: Real = setting(
        0.0,
        "space",
        "VIB: weight of the reconstruction if negative (as -beta_1), of the KL if positive.",
        Part.RECONSTRUCTION,
        varies=Varies.BY_LANE,
    )
    beta_2: Real = setting(
        0.0, "space", "Weight of the KL term.", Part.BOTTLENECK, varies=Varies.BY_LANE, ge=0
    )
