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
    """Return the settings that vary in one of the given ways within a pack."""
    return frozenset(name for name, of in DECLARATIONS.items() if of.varies in kinds)


def defaults_of(experiment: str) -> dict[str, Any]:
    """Return the default of every setting for an experiment."""
    return {**_DEFAULTS, "experiment": experiment, **EXPERIMENTS[experiment].defaults}


def partial(values: Mapping[str, Any]) -> Settings:
    """Return unchecked settings: the given values, and the experiment's defaults for the rest."""
    experiment = values.get("experiment", Settings.model_fields["experiment"].default)
    settings = Settings.model_construct(**{**defaults_of(experiment), **values})
    _resolve_auto(settings)
    return settings


def _resolve_auto(settings: Settings) -> None:
    """Replace each `auto` with the value it stands for."""
    for name, value in meanings_of_auto(settings).items():
        if getattr(settings, name) == "auto":
            object.__setattr__(settings, name, value)


class Config(Settings):
    """A complete set of hyper-parameters, including the seed.

    A setting that no stage of the configuration reads does not apply to it: whatever its value, it
    is not part of the configuration's identity.
    """

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        """Fill in the experiment's defaults."""
        known = EXPERIMENTS.get(str(values.get("experiment"))) if isinstance(values, dict) else None
        return {**known.defaults, **values} if known else values

    def model_post_init(self, context: Any, /) -> None:
        """Resolve `auto` and check that the settings go together."""
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
        """The method against forgetting."""
        return METHODS[self.replay]

    @property
    def has_vae(self) -> bool:
        """Whether a separate VAE generates the replay samples."""
        return self._generates and not self.of_model.decodes_images

    @property
    def trains_decoder(self) -> bool:
        """Whether the model's own image decoder keeps training after task 1."""
        return decodes_images(self, is_first=False)

    @property
    def _generates(self) -> bool:
        return self.n_stored_tasks > 0 and self.of_replay.generates

    @property
    def loss_weights(self) -> tuple[float, float]:
        """Weights of the reconstruction loss and the KL in task 1."""
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
        """Width of the noise that a classifier's training step draws."""
        return self.n_bottleneck if self.of_model.has_latent else 0

    @property
    def keeps_optimizer_state(self) -> bool:
        """Whether a new task keeps the optimiser state; freezing the encoder always resets it."""
        return self.optimizer_state == "keep" and not self.freeze_encoder

    @cached_property
    def applicable(self) -> dict[str, Any]:
        """The settings that apply, with their values: stages read them or depend on them."""
        return {name: getattr(self, name) for name in applicable(self)}

    @cached_property
    def canonical(self) -> str:
        """The applicable settings that differ from their defaults, as JSON; this text is hashed.

        Leaving defaults out keeps the ids of earlier configurations when a version adds a setting.
        """
        defaults = _DEFAULTS | meanings_of_auto(self)
        values = {n: v for n, v in self.applicable.items() if v != defaults[n]}
        if "source" in values:
            values["source"] = content_of(self.source)  # renaming a file must not change the id
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    @cached_property
    def id(self) -> str:
        """Identity of the configuration: 16 hexadecimal digits."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:16]


def section_of(name: str) -> str:
    """Return the section of the search-space file that a setting belongs to."""
    return DECLARATIONS[name].section


def expected_of(name: str) -> str:
    """Describe in words what a setting accepts, from its type and limits."""
    return describe(Settings.model_fields[name])
