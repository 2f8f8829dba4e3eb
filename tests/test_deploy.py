"""Example configurations are read by the program that they are examples for."""

import dataclasses
import tomllib
from pathlib import Path

from pipeline.config import RunConfig, load_config

EXAMPLE = Path(__file__).parents[1] / "deploy" / "example.toml"


def test_example__is_the_defaults():
    assert load_config(EXAMPLE) == RunConfig()


def test_example__names_every_setting():
    written = tomllib.loads(EXAMPLE.read_text())
    defaults = dataclasses.asdict(RunConfig())
    assert written.keys() == defaults.keys()
    for section in ("qc", "fit", "train", "neural", "apply", "source"):
        assert written[section].keys() == defaults[section].keys()
