from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.cascade.augment import AugmentPlan, augment
from bids_msseg.cascade.augmentation.catalogue import (
    OPERATIONS,
    PlanFields,
    Standard,
    from_dict,
    read_program,
    to_dict,
    write_program,
)
from bids_msseg.cascade.augmentation.geometry import Rotate
from bids_msseg.cascade.augmentation.language import Container, OneOf, Operation, Program, Steps
from bids_msseg.cascade.augmentation.rules import Axes, Count, Number, Range, Word
from bids_msseg.errors import UsageError

EXAMPLE = Path(__file__).parents[3] / "training" / "augmentation-example.yaml"
ECVL = {
    "Rotate",
    "ResizeDim",
    "ResizeScale",
    "Flip",
    "Mirror",
    "GaussianBlur",
    "AdditiveLaplaceNoise",
    "AdditivePoissonNoise",
    "GammaContrast",
    "CoarseDropout",
    "Transpose",
    "Brightness",
    "GridDistortion",
    "ElasticTransform",
    "OpticalDistortion",
    "Salt",
    "Pepper",
    "SaltAndPepper",
    "Normalize",
    "CenterCrop",
    "ToFloat32",
    "DivBy255",
    "ScaleTo",
    "ScaleFromTo",
    "RandomCrop",
}


def _values(rule) -> st.SearchStrategy:
    match rule:
        case Number(low, high):
            return st.floats(low, high)
        case Count(low, high):
            return st.integers(low, high)
        case Range(low, high):
            return st.tuples(st.floats(low, high), st.floats(low, high)).map(sorted)
        case Word(choices):
            return st.sampled_from(choices)
        case Axes():
            return st.text("xyz", min_size=1, max_size=3)
        case PlanFields():
            return st.builds(AugmentPlan, rotate_deg=st.floats(0, 90), flip=st.floats(0, 1))
    raise AssertionError(rule)


def _leaves() -> st.SearchStrategy[Operation]:
    return st.one_of(
        st.builds(kind, **{item.name: _values(item.metadata["rule"]) for item in fields(kind)})
        for kind in OPERATIONS.values()
        if not issubclass(kind, Container)
    )


def _steps() -> st.SearchStrategy[Operation]:
    containers = [kind for kind in OPERATIONS.values() if issubclass(kind, Container)]
    return st.recursive(
        _leaves(),
        lambda inner: st.one_of(
            st.builds(kind, st.lists(inner, max_size=3), p=st.floats(0, 1)) for kind in containers
        ),
        max_leaves=5,
    )


@given(step=_steps())
def test_what_is_written_is_read_back_exactly(step: Operation) -> None:
    written = to_dict(step)
    assert from_dict(written) == step
    assert from_dict(json.loads(json.dumps(written))) == step
    assert to_dict(from_dict(written)) == written


@given(program=st.builds(Program, *[st.lists(_steps(), max_size=2)] * 3))
def test_programs_survive_yaml(program: Program) -> None:
    assert read_program(yaml.safe_load(yaml.safe_dump(write_program(program)))) == program


def test_every_name_of_the_source_library_is_there() -> None:
    assert set(OPERATIONS) >= ECVL


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_step_is_pure_and_seeded(name: str, make_sample) -> None:
    step, sample = from_dict(name), make_sample(12)
    before = [part.clone() for part in (sample.images, sample.present, sample.brain, sample.maps)]
    torch.manual_seed(0)
    np.random.seed(0)
    one = step(sample, np.random.default_rng(3))
    torch.manual_seed(1)
    np.random.seed(1)
    other = step(sample, np.random.default_rng(3))
    for index, part in enumerate(("images", "present", "brain", "maps")):
        assert torch.equal(getattr(one, part), getattr(other, part))
        assert torch.equal(getattr(sample, part), before[index])
        assert torch.isfinite(getattr(one, part)).all()
        assert getattr(one, part).dtype == torch.float32
    assert one.maps.shape[1:] == one.brain.shape == one.images.shape[1:]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_step_can_be_left_out(name: str, make_sample) -> None:
    sample = make_sample(6)
    assert from_dict({name: {"p": 0}})(sample, np.random.default_rng(0)) is sample


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_field_is_told(name: str) -> None:
    kind = OPERATIONS[name]
    assert all(
        item.name in (kind.__doc__ or "") or item.name in ("p", "contrasts", "steps")
        for item in fields(kind)
    )


def test_short_forms() -> None:
    assert from_dict("Rotate") == from_dict({"Rotate": None}) == from_dict({"Rotate": {}})
    assert from_dict({"OneOf": ["Rotate"]}) == OneOf((Rotate(),))
    assert from_dict({"Brightness": {"shift": 0.2}}).shift == (0.2, 0.2)
    assert from_dict({"Rotate": {"degrees": "1e1"}}) == Rotate(10)
    assert from_dict({"Standard": {"plan": {"flip": 0}}}) == Standard(AugmentPlan(flip=0.0))
    assert read_program(["Rotate"]) == Program((Rotate(),))
    assert read_program({"test": ["Rotate"], "training": None}) == Program(test=(Rotate(),))


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("Spin", "no augmentation called Spin", "Rotate"),
        ({"Rotate": {"spin": 1}}, "Rotate has no spin", "degrees"),
        ({"Rotate": {"degrees": 181}}, "181", "from 0 to 180"),
        ({"Rotate": 15}, "Rotate is given 15", "degrees"),
        ({"Rotate": [15]}, "Rotate is given", "degrees"),
        ({"Rotate": {}, "Flip": {}}, "not an augmentation", "one name"),
        (7, "not an augmentation: 7", "one name"),
        ({"Flip": {"axes": "w"}}, "'w' names no axes", "x, y and z"),
        ({"OneOf": {"steps": "Rotate"}}, "not a list", "list"),
        ({"OneOf": [{"Sequence": ["Spin"]}]}, "Spin", "Rotate"),
        ({"Standard": {"plan": {"spin": 1}}}, "spin", "rotate_deg"),
        ({"Standard": {"plan": 3}}, "not a mapping", "rotate_deg"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(written, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        from_dict(written)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"train": ["Rotate"]}, "no augmentation for train"),
        ({"test": 3}, "for test are not a list"),
        ("Rotate", "not a list"),
        (None, "not a list"),
    ],
)
def test_wrong_programs(written, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_program(written)


def test_the_example_is_read_and_runs(make_sample) -> None:
    program = read_program(yaml.safe_load(EXAMPLE.read_text())["augmentation"])
    assert program.training
    assert not program.validation
    for seed in range(10):
        done = augment(make_sample(14), program, np.random.default_rng(seed), size=12, thin=True)
        assert done.images.shape == (3, 12, 12, 12)
        assert torch.isfinite(done.images).all()
        assert float(done.images.abs().max()) <= 5
        assert done.present[0] == 1


def test_rules_say_what_they_want() -> None:
    for rule in (Number(0, 1), Count(1, 2), Range(0, 1), Word(("a",)), Axes(), Steps()):
        assert str(rule).startswith("is ")
