"""Hydra: one training of a multirun; hydra_table.py gathers the results."""

import json
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from benchmarks.peers.trainer import load, train


@hydra.main(version_base=None, config_path=None)
def main(config: DictConfig) -> None:
    torch.set_num_threads(1)
    settings = OmegaConf.to_container(config)
    row = settings | train(load(), **settings)
    Path(HydraConfig.get().runtime.output_dir, "row.json").write_text(json.dumps(row))


if __name__ == "__main__":
    main()
