"""A small output folder as the participant level writes it, and a parser for pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from bids_msseg.bids.derivatives import OUTPUTS, preprocessed
from bids_msseg.bids.files import write_json, write_tsv
from bids_msseg.bids.record import VisitRecord, write_record
from bids_msseg.bids.record_values import ContrastUse, ModelUse
from bids_msseg.bids.visit import Visit
from bids_msseg.imaging.volume import Volume, save_volume
from bids_msseg.reports.images.drawing import draw_visit
from bids_msseg.reports.qc import FORMAT, mask_digest

VOID = {"meta", "link", "img", "input", "br", "hr"}


@dataclass
class Page(HTMLParser):
    """Parser that collects the tags, attributes and text of a page."""

    tags: Counter[str] = field(default_factory=Counter)
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    open_tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags, f"</{tag}> closes nothing"
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open_tags or self.open_tags[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, name: str) -> list[str]:
        """Return the values of one attribute in all elements with this tag."""
        return [
            attrs[name] or "" for found, attrs in self.elements if found == tag and name in attrs
        ]


@pytest.fixture
def read_page() -> Callable[[Path | str], Page]:
    """Return a function that parses a page; unbalanced tags fail the test."""

    def read(source: Path | str) -> Page:
        page = Page()
        page.feed(source if isinstance(source, str) else source.read_text(encoding="utf-8"))
        page.close()
        assert page.open_tags == []
        return page

    return read


def lesion_row(index: int, status: str = "kept", **more: object) -> dict[str, object]:
    row: dict[str, object] = {
        "index": index,
        "volume_mm3": 100.0 / index,
        "n_voxels": 50 // index,
        "centroid_x": -12.3,
        "centroid_y": 4.0,
        "centroid_z": 30.6,
        "centroid_template_x": -11.0,
        "centroid_template_y": 6.0,
        "centroid_template_z": 28.0,
        "p_cnn1": 0.91,
        "p_final": 0.873,
        "region": "deep_white_matter",
        "status": status,
        "reason": "" if status == "kept" else "the second net gave 0.12",
    }
    return {**row, **more}


def ok_record(participant: str = "01", session: str | None = "1", **more: object) -> VisitRecord:
    prefix = f"sub-{participant}" + (f"_ses-{session}" if session else "")
    content: dict[str, object] = {
        "contrasts": {
            "FLAIR": ContrastUse(f"{prefix}_FLAIR.nii.gz", (0.5729, 0.5729, 3.3)),
            "T1w": ContrastUse(f"{prefix}_T1w.nii.gz", (1.0, 1.0, 1.0), note="two runs"),
            "T2w": ContrastUse(
                f"{prefix}_T2w.nii.gz", (1.0, 1.0, 5.0), used=False, note="cut off"
            ),
        },
        "model": ModelUse("first", "0.1.0", "0123456789abcdef" * 4),
        "options": {"threshold": 0.4, "min_lesion_volume_mm3": 3.0},
        "brain_volume_ml": 1250.0,
        "lesion_load_ml": 12.5,
        "lesion_count": 31,
        "candidate_count": 45,
        "rejected_count": 14,
        "regions": {
            "periventricular": (8.0, 9),
            "juxtacortical": (2.5, 12),
            "infratentorial": (0.0, 0),
            "deep_white_matter": (2.0, 10),
        },
        "flags": ("The slices are thick.",),
        "timings_s": {"brain": 12.0, "cascade": 71.2},
        "fingerprint": "ab" * 32,
        "versions": {"bids_msseg": "0.1.0"},
        "methods": "First paragraph.\n\nSecond one, doi:10.1016/x.",
    }
    return VisitRecord(participant, session, prefix, "ok", **{**content, **more})


@pytest.fixture(scope="session")
def small_head() -> dict[str, Volume]:
    """A brain of 30 mm radius with a lesion on one side and a rejected candidate on the other."""
    affine = np.diag([-1.5, -1.5, 4.0, 1.0])
    shape = (48, 50, 18)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    world = np.einsum("ij,jxyz->ixyz", affine[:3, :3], np.indices(shape)) + affine[:3, 3].reshape(
        3, 1, 1, 1
    )

    def ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
        return ((world - np.array(centre).reshape(3, 1, 1, 1)) ** 2).sum(0) <= radius**2

    brain, lesion, refused = ball((0, 0, 0), 30), ball((12, 0, 4), 6), ball((-12, 0, 4), 5)
    noise = np.random.default_rng(5).normal(0, 3, shape)
    flair = np.where(brain, 100 + noise + 80 * lesion + 50 * refused, 0).astype(np.float32)
    data = {"flair": flair, "brain": brain, "lesions": lesion, "rejected": refused}
    return {name: Volume(values, affine) for name, values in data.items()}


def write_images(out: Path, visit: Visit, head: dict[str, Volume]) -> None:
    """Write the images of a visit as the participant level does: two lesions, one candidate."""
    brain, lesions = head["brain"].data > 0, head["lesions"].data > 0
    upper = np.indices(brain.shape)[2] > 9
    numbers = np.where(lesions, 1 + upper, 0).astype(np.int16)
    images = (
        (OUTPUTS["brain"], brain.astype(np.uint8)),
        (preprocessed("FLAIR"), head["flair"].data * brain),
        (preprocessed("T1w"), head["t1w"].data * brain),
        (OUTPUTS["mask"], lesions.astype(np.uint8)),
        (OUTPUTS["labels"], numbers),
        (OUTPUTS["rejected"], head["rejected"].data.astype(np.int16)),
        (OUTPUTS["probseg"], (0.9 * lesions).astype(np.float32)),
    )
    for output, data in images:
        path = output.path(out, visit, ".nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_volume(head["flair"].with_data(data), path)


@pytest.fixture
def out_dir(tmp_path: Path, small_head: dict[str, Volume]) -> Path:
    """One participant: a finished visit with all files, a failed visit and a skipped visit."""
    out = tmp_path / "out"
    visit = Visit("01", "1", Path())
    t1w = small_head["flair"].with_data(200 - small_head["flair"].data)
    draw_visit(out, visit, **small_head, moving={"T1w": t1w})
    table = OUTPUTS["lesion_stats"].path(out, visit, ".tsv")
    rows = [lesion_row(i) for i in range(1, 32)] + [
        lesion_row(i, "rejected") for i in range(1, 15)
    ]
    write_images(out, visit, {**small_head, "t1w": t1w})
    write_tsv(table, list(rows[0]), rows)
    write_record(out, ok_record())
    crash = ("logs/crash-sub-01_ses-2.txt",)
    reason = f"cannot read {tmp_path}/in/sub-01_ses-2_FLAIR.nii.gz: it is cut off"
    write_record(
        out, VisitRecord("01", "2", "sub-01_ses-2", "failed", reason, "fetch it again", crash)
    )
    write_record(out, VisitRecord("01", "10", "", "skipped", "there is no FLAIR", "add one"))
    return out


@pytest.fixture
def make_record() -> Callable[..., VisitRecord]:
    """Return a function that creates the record of a finished visit; keywords replace fields."""
    return ok_record


@pytest.fixture
def save_review(out_dir: Path) -> Callable[..., Path]:
    """Return a function that writes a QC file for ``out_dir``; keywords replace its keys."""

    def save(
        folder: Path, participant: str = "01", session: str | None = "1", **more: object
    ) -> Path:
        visit = Visit(participant, session, Path())
        content = {
            "format": FORMAT,
            "participant_id": f"sub-{participant}",
            "session_id": session and f"ses-{session}",
            "mask_sha256": mask_digest(out_dir, visit),
            "lesions": [],
            **more,
        }
        path = folder / f"{visit.prefix}_desc-qc_rating.json"
        write_json(path, content)
        return path

    return save


def many_records(visits: int) -> tuple[VisitRecord, ...]:
    """Make a cohort of two visits per participant, in the order of their numbers from 0.

    Loads differ up to 5,000 visits. Every fifth visit has a flag of one of two kinds, every
    hundredth failed.
    """
    records = []
    for number in range(visits):
        participant, session = f"{number // 2 + 1:04d}", str(number % 2 + 1)
        kind = "T1w: it fits by {} only" if number % 10 == 0 else "FLAIR: slices of {} mm"
        if number % 100 == 99:
            reason = "the FLAIR image is cut off"
            records.append(VisitRecord(participant, session, "", "failed", reason, "fetch it"))
            continue
        records.append(
            ok_record(
                participant,
                session,
                lesion_load_ml=(number * 37 % 5000) / 100 + 0.01,
                lesion_count=number % 60,
                brain_volume_ml=1200.0 + number % 300,
                flags=(kind.format(number % 7 + 0.5),) if number % 5 == 0 else (),
            )
        )
    return tuple(records)


@pytest.fixture(scope="session")
def make_cohort() -> Callable[[int], tuple[VisitRecord, ...]]:
    """Return a function that creates the records of many visits."""
    return many_records
