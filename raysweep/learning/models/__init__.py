"""The models, one file each; the file's name is its word in ``model:``."""

from raysweep.learning.declare import load_words
from raysweep.learning.models._model import Model, Network
from raysweep.learning.models._vae import VAE

__all__ = ["MODELS", "VAE", "Model", "Network"]

MODELS: dict[str, Model] = load_words(__name__, "MODEL")
