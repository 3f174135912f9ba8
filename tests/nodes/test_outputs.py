"""Outputs of the last node, also for contrasts that could not be aligned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.bids.derivatives import OUTPUTS, Extras, filled, mask_in, single_images
from bids_msseg.bids.files import load_tsv
from bids_msseg.bids.paths import figure_path, lesion_roi_path
from bids_msseg.bids.record_values import ModelUse
from bids_msseg.bids.visit import Visit
from bids_msseg.nodes import outputs
from bids_msseg.nodes.context import DerivativesContext
from bids_msseg.spaces import AtlasChoice, OutputSpace

LEFT_OUT = [(), ("T1w",), ("T2w",), ("T1w", "T2w")]


@pytest.fixture
def context(tmp_path: Path) -> DerivativesContext:
    paths = {name: tmp_path / f"sub-01_{name}.nii.gz" for name in ("FLAIR", "T1w", "T2w")}
    for path in paths.values():
        nib.save(nib.Nifti1Image(np.ones((6, 6, 6), np.int16), np.eye(4)), path)
    visit = Visit("01", None, paths["FLAIR"], t1w=paths["T1w"], t2w=paths["T2w"])
    model = ModelUse("m", "1", "0" * 64)
    return DerivativesContext(
        visit, tmp_path / "out", tmp_path, model, 0.1, 0.4, 5.0, methods="as planned"
    )


@pytest.mark.parametrize("left_out", LEFT_OUT)
def test_left_out_contrast_is_not_a_source(
    context: DerivativesContext, left_out: tuple[str, ...]
) -> None:
    used = context.without(left_out)
    expected = [name for name in ("FLAIR", "T1w", "T2w") if name not in left_out]
    assert list(used.visit.contrasts) == expected
    assert used.sources() == tuple(f"bids:raw:sub-01_{name}.nii.gz" for name in expected)
    assert (used.methods == "as planned") == (not left_out)
    for name in ("T1w", "T2w"):
        assert (name in used.methods) == (bool(left_out) and name not in left_out)


@pytest.mark.parametrize("left_out", LEFT_OUT)
def test_record_marks_left_out_contrast_as_not_used(
    context: DerivativesContext, left_out: tuple[str, ...]
) -> None:
    used = context.without(left_out)
    for name, path in context.visit.contrasts.items():
        use = outputs._use(used, name, path)
        assert use.used == (name not in left_out)
        assert bool(use.note) == (name in left_out)


@pytest.mark.parametrize("left_out", LEFT_OUT)
def test_names_of_left_out_contrasts_are_removed(left_out: tuple[str, ...]) -> None:
    inputs = {
        "left_out": list(left_out),
        "space_names": ["T1w", "T1w qsm", "MNI152NLin2009aSym:res-1", "FLAIR dwi"],
        "transform_names": ["T1w FLAIR rigid", "T2w FLAIR rigid", "FLAIR MNI affine"],
    }
    spaces = outputs._used_names("space_names", inputs)
    assert spaces == inputs["space_names"][2 * ("T1w" in left_out) :]
    transforms = outputs._used_names("transform_names", inputs)
    assert [name.split()[0] for name in transforms] == [
        name for name in ("T1w", "T2w", "FLAIR") if name not in left_out
    ]
    assert outputs._used_names("nothing", inputs) == []


@pytest.mark.parametrize("entities", [{}, {"acq": "3D", "run": "02"}])
@pytest.mark.parametrize(
    "labels",
    [
        (),
        ("lesions", "brainPlain"),
        ("registrationT1w", "registrationFLAIR"),
        ("registrationMNI152NLin2009aSym",),
    ],
)
def test_record_lists_figures(entities: dict[str, str], labels: tuple[str, ...]) -> None:
    visit = Visit("01", "1", Path("f.nii.gz"), entities=entities)
    paths = [figure_path(Path("/out"), visit, label, extension=".png") for label in labels]
    assert outputs._figure_labels(map(str, paths)) == labels


def test_atlas_table_holds_regions_of_all_atlases(
    context: DerivativesContext, tmp_path: Path
) -> None:
    files = []
    for name in ("a", "b"):
        row = {"atlas": name, "label": 1, "name": "left", "region_ml": float("nan")}
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps([row]))
    table = OUTPUTS["atlases"].path(context.out_dir, context.visit, ".tsv")
    outputs._publish_atlases(context, map(str, files))
    assert not table.exists()
    asked = replace(context, extras=Extras(atlases=(AtlasChoice.parse("sides"),)))
    outputs._publish_atlases(asked, map(str, files))
    rows = load_tsv(table)
    assert [(row["atlas"], row["name"], row["region_ml"]) for row in rows] == [
        ("a", "left", "n/a"),
        ("b", "left", "n/a"),
    ]
    assert list(json.loads(table.with_suffix(".json").read_text())) == list(rows[0])
    # for a contrast that could not be aligned, the table has no rows
    outputs._publish_atlases(asked, [])
    assert load_tsv(table) == []


def test_every_image_of_table_is_published(context: DerivativesContext, tmp_path: Path) -> None:
    image = tmp_path / "image.nii.gz"
    image.touch()
    names = single_images(context.visit)
    inputs = {f"{name}_file": str(image) for name in names}
    outputs._publish_flair_space(context, {"brain_how": "deepbet", **inputs})
    for name in names:
        published, sidecar, *_ = OUTPUTS[name].paths(context.out_dir, context.visit)
        content = json.loads(sidecar.read_text())
        assert published.is_file()
        assert content["Description"].startswith("Brain mask; deepbet") == (name == "brain")
        assert len(content["Sources"]) == (1 if name == "brain" else 3)
    assert set(inputs) <= set(outputs.PublishVisit.input_spec().copyable_trait_names())


@pytest.mark.parametrize("left_out", [(), ("T1w",)])
def test_sidecar_of_filled_image_describes_its_source(
    context: DerivativesContext, tmp_path: Path, left_out: tuple[str, ...]
) -> None:
    # a string is not a valid value
    metadata = {"T1w": {"SkullStripped": True}, "FLAIR": {"SkullStripped": "no"}}
    visit = replace(context.visit, metadata=metadata)
    asked = replace(context, visit=visit, extras=Extras(filled=True)).without(left_out)
    kept = [name for name in ("FLAIR", "T1w") if name not in left_out]
    files = [tmp_path / f"{name}.nii.gz" for name in kept]
    for file in files:
        file.touch()
    inputs = {
        "left_out": list(left_out),
        "brain_how": "deepbet",
        "filled_names": ["FLAIR", "T1w"],
        "filled_files": list(map(str, files)),
    }
    outputs._publish_filled(asked, inputs)
    for name in kept:
        image, sidecar = filled(name).paths(asked.out_dir, asked.visit)
        content = json.loads(sidecar.read_text())
        assert image.is_file()
        assert content["SpatialReference"] == f"bids:raw:sub-01_{name}.nii.gz"
        assert content["SkullStripped"] == (name == "T1w")
        assert content["ModelName"] == "m"
    assert len(list(asked.out_dir.rglob("*filled*.nii.gz"))) == len(kept)


def test_mask_sidecar_states_reference_grid(context: DerivativesContext, tmp_path: Path) -> None:
    """A file outside of all datasets is named without its folder."""
    inside, outside = tmp_path / "sub-01_qsm.nii.gz", tmp_path.parent / "b 0.nii.gz"
    grids = (OutputSpace("qsm", None, str(inside), "T1w"), OutputSpace("b0", None, str(outside)))
    asked = replace(context, extras=Extras(grids=grids))
    mask = tmp_path / "mask.nii.gz"
    mask.touch()
    names = ["T1w", "MNI152NLin2009aSym:res-1", "T1w qsm", "FLAIR b0"]
    outputs._publish_spaces(asked, {"space_names": names, "space_files": [str(mask)] * 4})
    expected = {
        ("T1w", None): "bids:raw:sub-01_T1w.nii.gz",
        ("MNI152NLin2009aSym", 1): None,
        ("qsm", None): "bids:raw:sub-01_qsm.nii.gz",
        ("b0", None): "urn:x-file:b%200.nii.gz",
    }
    for (space, resolution), reference in expected.items():
        image, sidecar = mask_in(space, resolution).paths(asked.out_dir, asked.visit)
        content = json.loads(sidecar.read_text())
        assert image.is_file()
        assert ("Resolution" in content) == (resolution is not None)
        if reference is not None:
            assert content["SpatialReference"] == reference


@pytest.mark.parametrize("left_out", [(), ("T1w",)])
def test_fmriprep_mask_is_published_only_with_t1w(
    context: DerivativesContext, tmp_path: Path, left_out: tuple[str, ...]
) -> None:
    asked = replace(context, extras=Extras(roi=True)).without(left_out)
    mask = tmp_path / "mask.nii.gz"
    mask.write_bytes(b"mask")
    outputs._publish_roi(asked, {} if left_out else {"roi_file": str(mask)})
    found = list(asked.out_dir.rglob("*_roi.nii.gz"))
    assert found == ([] if left_out else [lesion_roi_path(asked.out_dir, asked.visit)])
    assert all(path.read_bytes() == b"mask" for path in found)
