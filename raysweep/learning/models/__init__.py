"""The models, one a file; the file's name is the word for it in ``model:``."""

from raysweep.learning.declare import load_words
from raysweep.learning.models._model import Model, Network
from raysweep.learning.models._vae import VAE

__all__ = ["MODELS", "VAE", "Model", "Network"]

MODELS: dict[str, Model] = load_words(__name__, "MODEL")
