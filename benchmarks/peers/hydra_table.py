"""Gather the results of all multiruns."""

import json
from pathlib import Path

import pandas as pd

rows = [json.loads(file.read_text()) for file in Path("multirun").rglob("row.json")]
pd.DataFrame(rows).to_csv("table.csv")
