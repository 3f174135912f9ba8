"""Comparison of the masks of every visit in two datasets: tables, notes and a page."""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

from bids_msseg import __version__
from bids_msseg.bids.files import write_json, write_tsv
from bids_msseg.errors import DataError, ExitCode, NoInputError, UsageError, convert_os_error
from bids_msseg.evaluation.case import Outcome, Rules, compare, picture
from bids_msseg.evaluation.figures import Row
from bids_msseg.evaluation.files import Choice, Pair, Pairing, Places, find_pairs, other_spaces
from bids_msseg.evaluation.tables import all_tables, segmenter_rows
from bids_msseg.evaluation.text import describe, dictionary, notes
from bids_msseg.reports.evaluation.data import ALL_SITES, COMPARED, TABLES, Case, Evaluation

LOGGER = logging.getLogger("bids_msseg")
PROGRAM = "msseg-evaluate"
HEADLINES = ("dice", "ppv", "sensitivity", "lesion_f1")


@dataclass(frozen=True, slots=True)
class Settings:
    """Inputs, output folder and options of one evaluation."""

    auto: Choice
    manual: Choice
    out: Path
    places: Places = field(default_factory=Places)
    rules: Rules = field(default_factory=Rules)
    nprocs: int = 1
    page: bool = True  # write ``evaluation.html``
    # folders of several segmenters by name, ``auto`` first; their masks are selected like its own
    segmenters: Mapping[str, Path] = field(default_factory=dict)

    @property
    def by_segmenter(self) -> dict[str, Settings]:
        """Settings of each single segmenter by its name, the first segmenter first."""
        folders = self.segmenters or {_name(self.auto): self.auto.folder}
        return {
            name: replace(self, auto=replace(self.auto, folder=folder), segmenters={})
            for name, folder in folders.items()
        }


def evaluate(settings: Settings) -> ExitCode:
    """Compare the masks of every visit and write all tables and the page.

    Raises NoInputError if no visit has all masks, UsageError without scikit-image, DataError for
    other grids or damaged files, CannotCreateError if the output folder cannot be written.
    """
    _require_skimage()
    pairings = _find_all_pairs(settings)
    with convert_os_error(f"cannot write to {settings.out}", hint="choose another folder"):
        settings.out.mkdir(parents=True, exist_ok=True)
    outcomes = {
        name: list(compare_all(pairing.pairs, settings.rules, settings.nprocs))
        for name, pairing in pairings.items()
    }
    for outcome in chain.from_iterable(outcomes.values()):
        for note in outcome.notes:
            LOGGER.warning("%s", note)
    first = next(iter(outcomes))
    result = assemble(settings, pairings[first], outcomes[first])
    if settings.segmenters:
        rows = _compare_segmenters(outcomes)
        result = replace(result, tables={**result.tables, "segmenters": rows})
    write_tables(result, settings)
    if settings.page:
        from bids_msseg.reports.evaluation.report import write_page

        LOGGER.info("wrote %s", write_page(result, settings.out))
    _log_means(result)
    return ExitCode.SUCCESS


def _find_all_pairs(settings: Settings) -> dict[str, Pairing]:
    pairings: dict[str, Pairing] = {}
    for name, single in settings.by_segmenter.items():
        pairings[name] = find_pairs(single.auto, single.manual, single.places)
        _refuse_other_grids(pairings[name].pairs, single)
    visits = [{pair.key for pair in pairing.pairs} for pairing in pairings.values()]
    if not set.intersection(*visits):
        raise NoInputError(
            f"no visit has a mask from every segmenter ({', '.join(pairings)})",
            hint="compare fewer segmenters, or segment the same visits with each",
        )
    return pairings


def _compare_segmenters(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Row]:
    """Build the table of all segmenters and log differences of the main metrics."""
    first = next(iter(outcomes))
    rows = segmenter_rows(
        {name: [outcome.subject for outcome in visits] for name, visits in outcomes.items()}
    )
    for row in rows:
        if row["metric"] in HEADLINES and row["segmenter"] != first:
            LOGGER.info(
                "%s minus %s: mean difference of %s %+.3f, %d visits",
                row["segmenter"], first, row["metric"], row["difference"], row["n_paired"],
            )  # fmt: skip
    return rows


def _require_skimage() -> None:
    """Raise UsageError if scikit-image, needed for surface distances, is not installed."""
    if importlib.util.find_spec("skimage") is None:
        raise UsageError(
            "surface distances require the package scikit-image",
            hint="pip install 'bids_msseg[evaluate]'",
        )


def _refuse_other_grids(pairs: Sequence[Pair], settings: Settings) -> None:
    """Raise DataError if grids differ without resampling, before any computation."""
    mismatched = [pair.key for pair in pairs if not pair.same_grid]
    if mismatched and not settings.rules.resample:
        spaces = other_spaces(settings.auto, settings.manual)
        raise DataError(
            f"automatic and manual masks are on different grids: {', '.join(mismatched)}",
            hint=f"use masks in the same space{f' ({spaces})' if spaces else ''}, or pass "
            "--resample to resample the automatic masks onto the grids of the manual masks",
        )
    if mismatched:
        LOGGER.warning("resampled onto the grid of the manual mask: %s", ", ".join(mismatched))


def compare_all(pairs: Sequence[Pair], rules: Rules, nprocs: int) -> Iterator[Outcome]:
    """Compare visits in ``nprocs`` processes and yield the outcomes in order."""
    workers = min(nprocs, len(pairs))
    if workers == 1:
        for number, pair in enumerate(pairs, 1):
            LOGGER.info("%s, %d of %d", pair.key, number, len(pairs))
            yield compare(pair, rules)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        outcomes = pool.map(compare, pairs, [rules] * len(pairs))
        for number, (pair, outcome) in enumerate(zip(pairs, outcomes, strict=True), 1):
            LOGGER.info("%s, %d of %d", pair.key, number, len(pairs))
            yield outcome


def assemble(settings: Settings, pairing: Pairing, outcomes: Sequence[Outcome]) -> Evaluation:
    """Combine tables, definitions, notes and a loader of cases; one outcome per pair, in order."""
    return Evaluation(
        f"{_name(settings.auto)} against {_name(settings.manual)}",
        partial(_cases, pairing.pairs, outcomes, settings.rules),
        all_tables(outcomes, pairing.without_auto, pairing.without_manual),
        describe(),
        notes(settings.rules.min_volume),
    )


def _name(choice: Choice) -> str:
    folder = choice.folder.resolve().name
    return folder if choice.desc is None else f"{folder} ({choice.desc})"


def _cases(pairs: Sequence[Pair], outcomes: Sequence[Outcome], rules: Rules) -> Iterator[Case]:
    for pair, outcome in zip(pairs, outcomes, strict=True):
        yield picture(pair, rules, outcome.subject, outcome.lesions)


def write_tables(result: Evaluation, settings: Settings) -> None:
    """Write every table with its data dictionary, and the settings as ``evaluation.json``."""
    for stem, columns in {**TABLES, **COMPARED}.items():
        if stem in result.tables:
            write_json(settings.out / f"{stem}.json", dictionary(stem))
            write_tsv(settings.out / f"{stem}.tsv", tuple(columns), result.tables[stem])
    write_json(
        settings.out / "evaluation.json",
        {
            "Name": result.title,
            "GeneratedBy": [{"Name": "bids_msseg", "Version": __version__, "Program": PROGRAM}],
            "Notes": list(result.notes),
            "Rules": asdict(settings.rules),
            "Auto": _choice_record(settings.auto),
            "Manual": _choice_record(settings.manual),
            "Segmenters": list(settings.segmenters),
        },
    )


def _choice_record(choice: Choice) -> dict[str, str | None]:
    """Describe the selected masks for output, with the folder's name but not its path."""
    return asdict(choice) | {"folder": choice.folder.resolve().name}


def _log_means(result: Evaluation) -> None:
    for row in result.tables["sites"]:
        shown = row["metric"] in HEADLINES
        if shown and (row["site"] != ALL_SITES or len(result.tables["subjects"]) == 1):
            LOGGER.info(
                "%s: mean %s %.3f, %d patients", row["site"], row["metric"], row["mean"],
                row["n_patients"],
            )  # fmt: skip
