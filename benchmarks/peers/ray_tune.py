"""Ray Tune: actors are used again, data is put once, an interrupted experiment is restored."""

import json
from pathlib import Path

from ray import tune

from benchmarks.peers.trainer import Data, load, train


def trainable(config: dict[str, float], data: Data) -> None:
    tune.report(train(data, **config))


if __name__ == "__main__":
    grid = json.loads(Path("grid.json").read_text())
    with_data = tune.with_resources(tune.with_parameters(trainable, data=load()), {"cpu": 1})
    folder = str(Path("ray_results").resolve())
    if tune.Tuner.can_restore(f"{folder}/grid"):
        tuner = tune.Tuner.restore(f"{folder}/grid", with_data, restart_errored=True)
    else:
        tuner = tune.Tuner(
            with_data,
            param_space={name: tune.grid_search(values) for name, values in grid.items()},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(name="grid", storage_path=folder, verbose=0),
        )
    tuner.fit().get_dataframe().to_csv("table.csv")
