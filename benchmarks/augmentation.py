"""What a step of augmentation costs: ours against TorchIO's and MONAI's, where they are installed.

Every line is one operation on a sub-image of 3 contrasts and one map, 64³ voxels, by one thread,
with the same amounts as far as each library can say them. Times are of the processor, so that
other work on the machine does not count; the best of the repetitions is printed. Run it as::

    python benchmarks/augmentation.py [--edge 64] [--repeat 9]
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bids_msseg.cascade.augment import AugmentPlan, SubImage
from bids_msseg.cascade.augmentation.catalogue import from_dict, standard_program

Step = Callable[[], object]
OURS: dict[str, Any] = {
    "affine": {"Affine": {"degrees": 15, "scale": 0.15}},
    "elastic": {"ElasticTransform": {"amount": 3, "spacing": 16}},
    "mirror": "Mirror",
    "bias field": {"BiasField": {"strength": 0.15}},
    "blur": {"GaussianBlur": {"sigma": 0.9}},
    "gamma": {"GammaContrast": {"gamma": [0.7, 1.4]}},
    "Rician noise": {"RicianNoise": {"sd": 0.3}},
    "thick slices": {"ThickSlices": {"mm": 4, "axes": "z"}},
    "ghosting": {"Ghosting": {"strength": 0.1}},
    "motion": {"Motion": {"mm": 2}},
    "Gibbs ringing": {"GibbsRinging": {"keep": 0.7}},
}


def make_sample(edge: int) -> SubImage:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.standard_normal((3, edge, edge, edge), dtype=np.float32))
    truth = torch.from_numpy((rng.random((1, edge, edge, edge)) < 0.02).astype(np.float32))
    return SubImage(images, torch.ones(3), torch.ones(edge, edge, edge), truth)


def ours(sample: SubImage) -> dict[str, Step]:
    def bind(written: Any) -> Step:
        step, rng = from_dict(written), np.random.default_rng(0)
        return lambda: step(sample, rng)

    steps = {name: bind(written) for name, written in OURS.items()}
    whole, rng = standard_program(AugmentPlan()), np.random.default_rng(0)
    steps["all steps of the default augmentation"] = lambda: whole(sample, rng)
    return steps


def torchio(sample: SubImage) -> dict[str, Step]:
    tio = importlib.import_module("torchio")
    subject = tio.Subject(
        images=tio.ScalarImage(tensor=sample.images.clone()),
        truth=tio.LabelMap(tensor=sample.maps.clone()),
    )
    edge = sample.images.shape[-1]
    knots = max(5, edge // 16 + 1)
    transforms = {
        "affine": lambda: tio.RandomAffine(scales=0.15, degrees=15),
        "elastic": lambda: tio.RandomElasticDeformation(knots, 3, locked_borders=0),
        "mirror": lambda: tio.RandomFlip(axes=(0,), flip_probability=1),
        "bias field": lambda: tio.RandomBiasField(0.15, order=3),
        "blur": lambda: tio.RandomBlur((0.9, 0.9)),
        "gamma": lambda: tio.RandomGamma((-0.35, 0.35)),
        "thick slices": lambda: tio.RandomAnisotropy(axes=(2,), downsampling=(4, 4)),
        "ghosting": lambda: tio.RandomGhosting((4, 4), axes=(0, 1), intensity=(0.1, 0.1)),
        "motion": lambda: tio.RandomMotion(0, (2, 2), 2),
    }
    return {name: _bound(make(), subject) for name, make in transforms.items()}


def monai(sample: SubImage) -> dict[str, Step]:
    mt = importlib.import_module("monai.transforms")
    data = {"images": sample.images.clone(), "truth": sample.maps.clone()}
    keys, image = ["images", "truth"], ["images"]
    turn = float(np.deg2rad(15))
    transforms = {
        "affine": lambda: mt.RandAffined(
            keys, prob=1, rotate_range=[turn] * 3, scale_range=[0.15] * 3, padding_mode="zeros"
        ),
        "elastic": lambda: mt.Rand3DElasticd(
            keys, sigma_range=(6, 6), magnitude_range=(100, 100), prob=1, padding_mode="zeros"
        ),
        "mirror": lambda: mt.RandFlipd(keys, prob=1, spatial_axis=0),
        "bias field": lambda: mt.RandBiasFieldd(image, prob=1, coeff_range=(0, 0.15)),
        "blur": lambda: mt.RandGaussianSmoothd(image, (0.9, 0.9), (0.9, 0.9), (0.9, 0.9), prob=1),
        "gamma": lambda: mt.RandAdjustContrastd(image, prob=1, gamma=(0.7, 1.4)),
        "Rician noise": lambda: mt.RandRicianNoised(image, prob=1, std=0.3, sample_std=False),
        "thick slices": lambda: mt.RandSimulateLowResolutiond(
            image, prob=1, zoom_range=(0.25, 0.25)
        ),
        "Gibbs ringing": lambda: mt.RandGibbsNoised(image, prob=1, alpha=(0.3, 0.3)),
    }
    return {name: _bound(make(), data) for name, make in transforms.items()}


def _bound(transform: Callable[[Any], object], data: Any) -> Step:
    return lambda: transform(data)


def milliseconds(step: Step, repeat: int) -> float:
    """Processor time of one call, the best of several, after one to warm up."""
    step()
    times = []
    for _ in range(repeat):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return min(times) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sample = make_sample(options.edge)
    libraries: dict[str, dict[str, Step]] = {"ours": ours(sample)}
    for name, make in (("torchio", torchio), ("monai", monai)):
        try:
            libraries[f"{name} {importlib.import_module(name).__version__}"] = make(sample)
        except ImportError as error:
            print(f"{name} is not measured: {error}")
    print(f"CPU ms for 3 + 1 x {options.edge}³, load average {os.getloadavg()[0]:.1f}")
    print(f"{'':<26}" + "".join(f"{name:>16}" for name in libraries))
    for operation in libraries["ours"]:
        cells = [
            f"{milliseconds(steps[operation], options.repeat):>16.1f}"
            if operation in steps
            else f"{'-':>16}"
            for steps in libraries.values()
        ]
        print(f"{operation:<26}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
