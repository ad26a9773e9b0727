"""One configuration: every hyper-parameter of one run, typed, frozen and hashable."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import model_validator

from raysweep.learning.data import task_kinds
from raysweep.learning.data.source_shapes import content_of
from raysweep.learning.declarations import DECLARATIONS, Settings
from raysweep.learning.declare import Varies, describe
from raysweep.learning.experiments import EXPERIMENTS
from raysweep.learning.methods import METHODS, Method
from raysweep.learning.models import MODELS, Model
from raysweep.learning.rules import check_together, meanings_of_auto
from raysweep.learning.stage_parts import applicable, decodes_images

_DEFAULTS: dict[str, Any] = {name: f.default for name, f in Settings.model_fields.items()}


def settings_that_vary(*kinds: Varies) -> frozenset[str]:
    """Return the settings in which the configurations of a pack differ in one of some ways."""
    return frozenset(name for name, of in DECLARATIONS.items() if of.varies in kinds)


def defaults_of(experiment: str) -> dict[str, Any]:
    """Return the default of every setting in an experiment."""
    return {**_DEFAULTS, "experiment": experiment, **EXPERIMENTS[experiment].defaults}


def partial(values: Mapping[str, Any]) -> Settings:
    """Return settings of which some are given, unchecked: the others are the experiment's own."""
    experiment = values.get("experiment", Settings.model_fields["experiment"].default)
    settings = Settings.model_construct(**{**defaults_of(experiment), **values})
    _resolve_auto(settings)
    return settings


def _resolve_auto(settings: Settings) -> None:
    """Replace each `auto` by what it stands for."""
    for name, value in meanings_of_auto(settings).items():
        if getattr(settings, name) == "auto":
            object.__setattr__(settings, name, value)


class Config(Settings):
    """One complete setting of every hyper-parameter, seed included.

    A setting that no stage of the configuration reads does not apply to it: it is no part of its
    identity, whatever its value.
    """

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        """Take the experiment's own defaults."""
        known = EXPERIMENTS.get(str(values.get("experiment"))) if isinstance(values, dict) else None
        return {**known.defaults, **values} if known else values

    def model_post_init(self, context: Any, /) -> None:
        """Resolve `auto` and hold the settings against each other."""
        _resolve_auto(self)
        check_together(self)

    @property
    def n_inputs(self) -> int:
        """Input size D of every model."""
        return task_kinds.n_inputs(self)

    @property
    def n_classes(self) -> int:
        """Class count C of every task."""
        return task_kinds.n_classes(self)

    @property
    def of_model(self) -> Model:
        """The model that learns the tasks."""
        return MODELS[self.model]

    @property
    def of_replay(self) -> Method:
        """The way of not forgetting."""
        return METHODS[self.replay]

    @property
    def has_vae(self) -> bool:
        """Whether a VAE of its own generates for replay."""
        return self._generates and not self.of_model.decodes_images

    @property
    def trains_decoder(self) -> bool:
        """Whether the model's own decoder of images goes on learning after task 1."""
        return decodes_images(self, is_first=False)

    @property
    def _generates(self) -> bool:
        return self.n_stored_tasks > 0 and self.of_replay.generates

    @property
    def loss_weights(self) -> tuple[float, float]:
        """Weights of reconstruction and KL in task 1."""
        return self.of_model.loss_weights(self)

    @property
    def vae_lr(self) -> float:
        """Learning rate of a separate VAE."""
        return self.generator_lr or self.lr

    @property
    def vae_epochs(self) -> int:
        """Epochs per task of a separate VAE."""
        return self.generator_epochs or self.epochs

    @property
    def n_noise(self) -> int:
        """Width of the noise that a classifier's step takes."""
        return self.n_bottleneck if self.of_model.has_latent else 0

    @property
    def keeps_optimizer_state(self) -> bool:
        """Whether the optimiser goes on at a new task; freezing the encoder starts a new one."""
        return self.optimizer_state == "keep" and not self.freeze_encoder

    @cached_property
    def applicable(self) -> dict[str, Any]:
        """The settings that apply, with their values: what the stages read or are decided by."""
        return {name: getattr(self, name) for name in applicable(self)}

    @cached_property
    def canonical(self) -> str:
        """The settings that apply and are not at their defaults, as JSON; the text that is hashed.

        So a setting that is new in a version leaves the ids of earlier configurations alone.
        """
        defaults = _DEFAULTS | meanings_of_auto(self)
        values = {n: v for n, v in self.applicable.items() if v != defaults[n]}
        if "source" in values:
            values["source"] = content_of(self.source)  # a file may be renamed
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @cached_property
    def id(self) -> str:
        """Identity of the configuration: 16 hexadecimal digits."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:16]


def section_of(name: str) -> str:
    """Return the section of the search-space file that a setting belongs to."""
    return DECLARATIONS[name].section


def expected_of(name: str) -> str:
    """Return what a setting accepts in words, by its type and limits."""
    return describe(Settings.model_fields[name])
