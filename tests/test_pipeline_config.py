import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import (
    ApplyConfig,
    FitConfig,
    NeuralConfig,
    QCConfig,
    RunConfig,
    TrainConfig,
    load_config,
    replace_values,
)
from pipeline.errors import InputError

COMPLETE = RunConfig(
    seed=7,
    qc=QCConfig(
        enabled=False,
        include_x=True,
        autosomes=29,
        min_variant_call_rate=0.5,
        min_sample_call_rate=0.25,
        min_maf=0.0,
        min_hwe_p=1e-6,
        max_ld_r2=1.0,
        variants="list.txt",
        exclude_regions="GRCh38",
        relatives="project",
        ld_window_bp=1_000,
        ld_max_samples=9,
    ),
    fit=FitConfig(
        method="neural",
        n_populations=3,
        tolerance=1e-7,
        max_rounds=12,
        n_secants=5,
        shard_people=100,
        shard_bytes=4_096,
        start_people=50,
        start_variants=60,
        cache_bytes=0,
    ),
    train=TrainConfig(
        hidden_dims=(8, 4, 2), epochs=0, batch_size=32, n_slices=2, learning_rate=0.5
    ),
    neural=NeuralConfig(
        epochs=3,
        batch_size=32,
        n_slices=2,
        learning_rate=0.5,
        frequency_rate=0.25,
        held_out=0.0,
    ),
    apply=ApplyConfig(
        refine=0,
        strand="drop",
        min_overlap=0.7,
        standard_errors="information",
        jackknife_blocks=64,
        fit_check_people=100,
        fit_check_threshold=0.1,
    ),
)


def _write(folder: Path, content: str) -> Path:
    path = folder / "run.toml"
    path.write_text(content)
    return path


def _as_toml(values: dict[str, Any]) -> str:
    """TOML of nested tables; JSON spells numbers, booleans and lists as TOML does."""
    lines, tables = [], []
    for name, value in values.items():
        if isinstance(value, dict):
            tables.append(f"[{name}]\n{_as_toml(value)}")
        else:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join([*lines, *tables])


@pytest.mark.parametrize("config", [RunConfig(), COMPLETE])
def test_load_config__round_trips(tmp_path, config):
    loaded = load_config(_write(tmp_path, _as_toml(config.as_json())))
    assert loaded == config
    assert hash(loaded) == hash(config)


def test_complete__differs_from_every_default():
    default, complete = RunConfig().as_json(), COMPLETE.as_json()
    for section in ("qc", "fit", "train", "neural", "apply"):
        for name, value in default[section].items():
            # A neural fit is its encoder, and refuses to go without.
            assert complete[section][name] != value or name == "encoder", name


def test_load_config__without_a_file_is_the_default():
    assert load_config(None) == RunConfig()


@pytest.mark.parametrize("content", ["", "# nothing\n", "[fit]\n"])
def test_load_config__what_is_not_given_is_the_default(tmp_path, content):
    assert load_config(_write(tmp_path, content)) == RunConfig()


def test_load_config__a_list_becomes_a_tuple(tmp_path):
    config = load_config(_write(tmp_path, "[train]\nhidden_dims = [16, 8]\n"))
    assert config.train.hidden_dims == (16, 8)
    empty = load_config(_write(tmp_path, "[train]\nhidden_dims = []\n"))
    assert empty.train.hidden_dims == ()


def test_load_config__a_whole_number_may_stand_for_a_float(tmp_path):
    config = load_config(_write(tmp_path, "[qc]\nmax_ld_r2 = 1\n"))
    assert config.qc.max_ld_r2 == 1.0
    assert isinstance(config.qc.max_ld_r2, float)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "sead = 1\nseet = 2",
            r"unknown key sead, seet in the top level; known are seed, qc, fit, train",
        ),
        (
            "[fit]\nk = 3",
            r"run\.toml: unknown key k in \[fit\]; known are method, n_populations",
        ),
        ("[model]\nk = 3", r"unknown key model in the top level"),
        ("fit = 3", r"run\.toml: fit must be a table, \[fit\]"),
        ("[[fit]]\n", r"run\.toml: fit must be a table, \[fit\]"),
        ("seed = '1'", r"run\.toml: seed is '1'; it must be of type int"),
        ("seed = 1.0", r"seed is 1\.0; it must be of type int"),
        ("seed = true", r"seed is True; it must be of type int"),
        ("seed = 2024-01-01", r"seed is datetime\.date\(.*; it must be of type int"),
        ("[qc]\nmin_maf = true", r"min_maf is True; it must be of type float"),
        ("[qc]\nenabled = 1", r"enabled is 1; it must be of type bool"),
        ("[qc]\nenabled = 'no'", r"enabled is 'no'; it must be of type bool"),
        ("[train]\nhidden_dims = 8", r"run\.toml: hidden_dims must be a list"),
        ("[train]\nhidden_dims = [8, 'a']", r"hidden_dims is 'a'; .* of type int"),
        ("[train]\nhidden_dims = [[8]]", r"hidden_dims is \[8\]; .* of type int"),
        ("[train]\nhidden_dims = [true]", r"hidden_dims is True; .* of type int"),
        ("[qc]\nmin_maf = 0.6", r"qc\.min_maf is 0\.6; it must be in \[0, 0\.5\]"),
        ("seed = -1", r"seed is -1; it must be in \[0, 4294967295\]"),
        ("seed = ", r"run\.toml is not TOML: Invalid value"),
        ("[qc]\n[qc]", r"run\.toml is not TOML: Cannot declare \('qc',\) twice"),
    ],
)
def test_load_config__refuses(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        load_config(_write(tmp_path, content))


def test_load_config__refuses_what_is_not_text(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"\x1f\x8b\xff\xfe")
    with pytest.raises(InputError, match=r"run\.toml is not TOML: 'utf-8' codec"):
        load_config(path)


def test_load_config__refuses_a_missing_file(tmp_path):
    message = r"none\.toml: No such file or directory; check --config"
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "none.toml")


def test_load_config__refuses_a_directory(tmp_path):
    with pytest.raises(InputError, match="Is a directory; check --config"):
        load_config(tmp_path)


NAN = float("nan")
FRACTIONS = ["min_variant_call_rate", "min_sample_call_rate", "min_hwe_p", "max_ld_r2"]
POSITIVE_QC = ["ld_window_bp", "ld_max_samples"]
POSITIVE_FIT = [
    f.name
    for f in dataclasses.fields(FitConfig)
    if f.name not in ("method", "cache_bytes")
]


@pytest.mark.parametrize("name", FRACTIONS)
@pytest.mark.parametrize("value", [-0.1, 1.1, NAN])
def test_qc_config__refuses_what_is_no_fraction(name, value):
    message = rf"qc\.{name} is {value}; it must be in \[0, 1\]"
    with pytest.raises(InputError, match=message):
        QCConfig(**{name: value})


@pytest.mark.parametrize("value", [-0.1, 0.51, NAN])
def test_qc_config__refuses_a_minor_allele_frequency(value):
    message = rf"qc\.min_maf is {value}; it must be in \[0, 0\.5\]"
    with pytest.raises(InputError, match=message):
        QCConfig(min_maf=value)


@pytest.mark.parametrize("name", POSITIVE_QC)
def test_qc_config__refuses_nothing_and_less(name):
    for value in (0, -5):
        message = rf"qc\.{name} is {value}; it must be positive"
        with pytest.raises(InputError, match=message):
            QCConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", POSITIVE_FIT)
def test_fit_config__refuses_nothing_and_less(name):
    for value in (0, -1):
        message = rf"fit\.{name} is {value}; it must be positive"
        with pytest.raises(InputError, match=message):
            FitConfig(**{name: value})  # type: ignore[arg-type]


def test_fit_config__a_cache_may_be_none_but_not_less():
    assert FitConfig(cache_bytes=0).cache_bytes == 0
    message = r"fit\.cache_bytes must not be negative"
    with pytest.raises(InputError, match=message):
        FitConfig(cache_bytes=-1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": -1}, r"train\.epochs is -1; it must be >= 0"),
        ({"batch_size": 0}, r"train\.batch_size is 0; it must be positive"),
        ({"n_slices": 0}, r"train\.n_slices is 0; it must be positive"),
        ({"learning_rate": 0.0}, r"train\.learning_rate is 0\.0; it must be positive"),
        ({"hidden_dims": (8, 0)}, r"train\.hidden_dims\[1\] is 0; it must be positive"),
    ],
)
def test_train_config__refuses(values, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**values)


def test_apply_config__refuses_negative_steps():
    with pytest.raises(InputError, match=r"apply\.refine is -2; it must be >= 0"):
        ApplyConfig(refine=-2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strand": "guess"}, r"apply\.strand is 'guess'; it must be one of check,"),
        (
            {"fit_check_people": 8},
            r"apply\.fit_check_people is 8; it must be at least 32, or 0 for no check",
        ),
        (
            {"fit_check_threshold": -0.1},
            r"apply\.fit_check_threshold is -0\.1; it must be in \[0, 1\]",
        ),
        ({"min_overlap": 1.5}, r"apply\.min_overlap is 1\.5; it must be in \[0, 1\]"),
    ],
)
def test_apply_config__refuses(values, message):
    with pytest.raises(InputError, match=message):
        ApplyConfig(**values)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_run_config__refuses_a_seed(seed):
    message = rf"seed is {seed}; it must be in \[0, 4294967295\]"
    with pytest.raises(InputError, match=message):
        RunConfig(seed=seed)


def test_replace_values__changes_one_section_of_a_copy():
    config = RunConfig()
    changed = replace_values(config, "fit", n_populations=8, max_rounds=5)
    assert changed.fit == FitConfig(n_populations=8, max_rounds=5)
    assert dataclasses.replace(changed, fit=config.fit) == config == RunConfig()
    assert replace_values(config, "", seed=3) == RunConfig(seed=3)


def test_replace_values__checks_them():
    with pytest.raises(InputError, match=r"fit\.n_populations is 0; it must be pos"):
        replace_values(RunConfig(), "fit", n_populations=0)


def test_as_json__round_trips_through_json():
    values = COMPLETE.as_json()
    assert json.loads(json.dumps(values))["train"]["hidden_dims"] == [8, 4, 2]
    assert values["fit"]["tolerance"] == 1e-7


def test_fit_config__refuses_an_unknown_method():
    message = "fit.method is 'magic'; it must be one of likelihood, neural"
    with pytest.raises(InputError, match=message):
        FitConfig(method="magic")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, r"neural\.epochs is 0; it must be positive"),
        ({"frequency_rate": 1.5}, r"neural\.frequency_rate is 1\.5; it must be in"),
        ({"held_out": 0.6}, r"neural\.held_out is 0\.6; it must be in \[0, 0\.5\]"),
    ],
)
def test_neural_config__refuses(values, message):
    with pytest.raises(InputError, match=message):
        NeuralConfig(**values)


def test_newton_steps__are_the_methods_unless_given():
    assert ApplyConfig().newton_steps("likelihood") == 8
    assert ApplyConfig().newton_steps("neural") == 0
    assert ApplyConfig().newton_steps("given") == 8
    assert ApplyConfig(refine=3).newton_steps("neural") == 3


def test_held_out__concerns_the_neural_method_alone():
    assert RunConfig().held_out == 0
    assert RunConfig(fit=FitConfig(method="neural")).held_out == 0.05
