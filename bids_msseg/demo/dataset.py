"""Participants of the demo, their lesions, and the acquisition of their images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_msseg.demo.brain import CONTRASTS, Brain, Maps, load_maps, make_brain
from bids_msseg.demo.files import (
    Participant,
    VisitFiles,
    clear,
    write_image_sidecar,
    write_top,
    write_truth,
)
from bids_msseg.demo.head import Scene, add_head, brain_only
from bids_msseg.demo.scan import (
    Protocol,
    average_over_voxels,
    half_maximum,
    lay_grid,
    random_pose,
    record,
    write_image,
)
from bids_msseg.errors import convert_os_error
from bids_msseg.imaging.template import load_template
from bids_msseg.training.synthesis.painting import paint
from bids_msseg.training.synthesis.placing import place_lesions
from bids_msseg.training.synthesis.shapes import LesionMap, resize
from bids_msseg.training.synthesis.statistics import LesionStatistics, sample_contrasts

LOGGER = logging.getLogger("bids_msseg")
LARGEST_COHORT: Final = 99
NEW_LESIONS: Final = 5


@dataclass(frozen=True, slots=True)
class Resolution:
    """Protocols of FLAIR, T1w and T2w, and the smallest visible lesion in mm³."""

    protocols: tuple[Protocol, Protocol, Protocol]
    smallest: float


RESOLUTIONS: Final[Mapping[str, Resolution]] = {
    "fine": Resolution(
        (
            Protocol("FLAIR", (1.0, 1.0, 3.0), -8.0, "LAS", 3.5, 0.14, 0.12),
            Protocol("T1w", (1.0, 1.0, 1.0), 0.0, "PSR", 2.75, 0.14, 0.15),
            Protocol("T2w", (0.9, 0.9, 4.0), -8.0, "LPS", 2.3, 0.12, 0.10),
        ),
        smallest=10.0,
    ),
    "coarse": Resolution(
        (
            Protocol("FLAIR", (2.0, 2.0, 4.0), -8.0, "LAS", 3.5, 0.10, 0.12),
            Protocol("T1w", (2.0, 2.0, 2.0), 0.0, "PSR", 2.75, 0.10, 0.15),
            Protocol("T2w", (2.0, 2.0, 5.0), -8.0, "LPS", 2.3, 0.10, 0.10),
        ),
        smallest=40.0,
    ),
}


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Options of the ``msseg-demo`` command line."""

    out: Path
    seed: int = 7
    grid: str = "fine"  # a key of RESOLUTIONS
    participants: int = 3
    heads: str = "mixed"  # mixed, all or none


def write_demo(options: DemoOptions) -> None:
    """Write the dataset over an earlier demo; CannotCreateError if this is not possible."""
    people = plan(options)
    hint = "choose a writable folder on a disk with 200 MB of free space"
    with convert_os_error(f"cannot write {options.out}", hint=hint):
        clear(options.out)
        write_top(options.out, people, seed=options.seed)
        maps = load_maps(load_template())
        for person in people:
            _write_participant(options, person, maps)
            LOGGER.info("%s: written", person.label)
    LOGGER.info("synthetic dataset: %s", options.out)


def plan(options: DemoOptions) -> tuple[Participant, ...]:
    """Choose the participants of the dataset: the first has two visits, the third no T2w."""
    loads = {1: 9.0, 2: 4.0, 3: 18.0}
    heads = {"all": True, "none": False}
    return tuple(
        Participant(
            number,
            load=loads.get(number, 2.0 + 3.0 * (number % 7)),
            sessions=2 if number == 1 else 1,
            head=heads.get(options.heads, number % 2 == 1),
            contrasts=CONTRASTS[:2] if number == 3 else CONTRASTS,
        )
        for number in range(1, options.participants + 1)
    )


def _write_participant(options: DemoOptions, person: Participant, maps: Maps) -> None:
    """Write one participant with all visits, independently of other participants."""
    rng = np.random.default_rng([options.seed, person.number])
    brain = make_brain(maps, rng)
    scene = add_head(brain, rng) if person.head else brain_only(brain)
    resolution = RESOLUTIONS[options.grid]
    statistics = replace(LesionStatistics(), smallest=resolution.smallest)
    lesions = place_lesions(rng, brain.terrain, statistics=statistics, load=person.load)
    contrasts = sample_contrasts(rng, lesions.volumes, statistics)
    for session in range(1, person.sessions + 1):
        if session > 1:
            lesions, contrasts = _next_visit(rng, brain, lesions, contrasts, statistics)
        painted = paint(
            brain.images, lesions, contrasts, rng, within=brain.mask >= 0.5, statistics=statistics
        )
        images = scene.images.copy()
        images[(slice(None), *scene.box)] += (painted - brain.images) * brain.mask
        soft = np.zeros(scene.brain.shape, np.float32)
        soft[scene.box] = lesions.soft * brain.mask
        name = f"ses-{session}" if person.sessions > 1 else None
        visit = VisitFiles(options.out, person, name)
        _scan_visit(visit, replace(scene, images=images), soft, resolution, rng)


def _next_visit(
    rng: np.random.Generator,
    brain: Brain,
    lesions: LesionMap,
    contrasts: NDArray[np.float64],
    statistics: LesionStatistics,
) -> tuple[LesionMap, NDArray[np.float64]]:
    """Return the lesions of the next visit: a quarter grow, a tenth shrink, a few are new."""
    # confluent lesions do not change: growth of one of them would double the load
    fate = np.where(lesions.volumes < 1000.0, rng.random(len(lesions.lesions)), 0.5)
    factors = np.where(fate < 0.25, rng.uniform(1.4, 2.5, len(fate)), 1.0)
    factors = np.where(fate > 0.9, 0.7, factors)
    changed = resize(lesions, factors)
    visible = replace(statistics, smallest=max(60.0, statistics.smallest), largest=600.0)
    extended = place_lesions(
        rng, brain.terrain, statistics=visible, count=NEW_LESIONS, beside=changed
    )
    new = sample_contrasts(rng, extended.volumes[len(factors) :], statistics)
    return extended, np.concatenate([contrasts, new])


def _scan_visit(
    visit: VisitFiles,
    scene: Scene,
    soft: NDArray[np.float32],
    resolution: Resolution,
    rng: np.random.Generator,
) -> None:
    """Write every contrast of a visit, and the ground truth on the grid of the FLAIR."""
    for channel, protocol in enumerate(resolution.protocols):
        # drawn also for a contrast that is not written: the other contrasts must not change
        grid = lay_grid(scene.body, scene.affine, protocol, random_pose(rng))
        noise_rng = np.random.default_rng(rng.integers(2**63))
        if protocol.contrast not in visit.person.contrasts:
            continue
        averaged = average_over_voxels(scene.images[channel], scene.affine, grid)
        image = record(averaged, protocol, noise_rng)
        is_flair = protocol.contrast == "FLAIR"
        if is_flair or not visit.person.head:
            brain = average_over_voxels(scene.brain, scene.affine, grid).data >= 0.5
        if not visit.person.head:
            image = image.with_data(image.data * brain)
        write_image(image, visit.out / visit.image(protocol.contrast), protocol.axes)
        write_image_sidecar(visit, protocol, skull_stripped=not visit.person.head)
        if is_flair:
            lesion = average_over_voxels(soft, scene.affine, grid).data
            write_truth(visit, "label-L", half_maximum(lesion) & brain, grid, protocol.axes)
            write_truth(visit, "desc-brain", brain, grid, protocol.axes)
