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
    """Settings of models and optimisers."""

    model: Annotated[str, Choice(words_in("models"))] = setting(
        "vib",
        "space",
        "Model that learns the tasks; mlp (no bottleneck) only in experiments replay and joint.",
        Part.CLASSIFIER,
        decides=lambda config: True,
    )
    n_bottleneck: Count = setting(
        100,
        "space",
        "Width Z of the bottleneck, and of the separate VAE's latent space.",
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
        "Hidden widths of the reconstruction decoder, or of the separate VAE's decoder, which its "
        "encoder mirrors.",
        Part.RECONSTRUCTION,
        Part.VAE,
        when(Part.REPLAY, retrieval=("generative_mir",)),
    )
    nonlinearity: Literal["relu", "leaky_relu", "elu", "tanh", "sigmoid"] = setting(
        "relu",
        "space",
        "Nonlinearity between the layers of classifier and VIB (the separate VAE always uses "
        "relu).",
        Part.CLASSIFIER,
    )
    dropout: Real = setting(
        0.0,
        "space",
        "Probability of dropping a hidden unit of the encoder, or of the MLP, in a training step "
        "(Srivastava et al. 2014); off when testing, labelling and in retrieval's virtual step.",
        Part.HIDDEN_LAYERS,
        varies=Varies.BY_LANE,
        ge=0,
        lt=1,
    )
    variance: Literal["exp", "softplus"] = setting(
        "exp",
        "space",
        "How the bottleneck's standard deviation is computed from the encoder's output s: "
        "exp(s / 2), or softplus(s - 5) as in the deep VIB paper (the separate VAE always uses "
        "exp).",
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
        "falls from 1 to 0 over the epochs (SGDR without restarts, arXiv 1608.03983, equation 5).",
        Part.CLASSIFIER,
        varies=Varies.BY_LANE,
    )
    lr_decay: Real = setting(
        0.97,
        "space",
        "Factor per epoch of the exponential lr_schedule.",
        when(Part.CLASSIFIER, lr_schedule=("exponential",)),
        varies=Varies.BY_LANE,
        gt=0,
        le=1,
    )
    weight_decay: Real = setting(
        0.0,
        "space",
        "Weight decay as in torch.optim: an L2 penalty added to the gradient, or decoupled from it "
        "for adamw.",
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
        "Largest norm of a configuration's gradient; a larger gradient is scaled down as by "
        "torch.nn.utils.clip_grad_norm_; 0: no clipping.",
        Part.TRAINING,
        varies=Varies.BY_LANE,
        ge=0,
    )
    optimizer_state: Literal["auto", "reset", "keep"] = setting(
        "auto",
        "space",
        "Whether a new task resets or keeps the optimiser state; auto: reset for vib, keep for the "
        "other models.",
        when(Part.LATER_TASK, freeze_encoder=(False,)),
        varies=Varies.BY_LANE,
    )
    beta_1: Real = setting(
        0.0,
        "space",
        "VIB: if negative, -beta_1 weighs the reconstruction loss; if positive, beta_1 is added to "
        "the weight of the KL.",
        Part.RECONSTRUCTION,
        varies=Varies.BY_LANE,
    )
    beta_2: Real = setting(
        0.0, "space", "Weight of the KL term.", Part.BOTTLENECK, varies=Varies.BY_LANE, ge=0
    )
