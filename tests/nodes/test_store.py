from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.nodes.intermediate import is_usable, stored_outputs
from bids_msseg.nodes.store import StoreSteps

IMAGES = {
    "on_flair_FLAIR": "sub-01/anat/sub-01_space-FLAIR_desc-preproc_FLAIR.nii.gz",
    "on_flair_T1w": "sub-01/anat/sub-01_space-FLAIR_desc-preproc_T1w.nii.gz",
}


@pytest.mark.parametrize("left_out", [[], ["T1w"]])
def test_unpublished_image_of_left_out_contrast_is_stored(
    run: Callable[..., Any], tmp_path: Path, left_out: list[str]
) -> None:
    out = tmp_path / "out"
    outputs: dict[str, dict[str, Any]] = {
        "coregister_T1w": {"left_out": left_out, "attempt_file": "/not/wanted", "notes": ["odd"]}
    }
    for step, place in IMAGES.items():
        made = tmp_path / step / "on_flair.nii.gz"
        for path in (made, out / place):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(step.encode())
        outputs[step] = {"out_file": str(made), "notes": [], "seconds": 1.0}
    files = []
    for step, found in outputs.items():
        files.append(tmp_path / f"{step}.json")
        files[-1].write_text(json.dumps(found))
    wanted = {step: ["notes", "out_file"] for step in IMAGES}
    stored = run(
        StoreSteps,
        outputs_files=[str(path) for path in files],
        step_names=list(outputs),
        selected_outputs={"coregister_T1w": ["notes", "transform_file", "left_out"], **wanted},
        published={f"{step}.out_file": place for step, place in IMAGES.items()},
        fingerprint="f",
        versions={"a": "1"},
    )
    # the path of the archive in OUT, so that published files are found
    archive = out / "logs/intermediate/sub-01.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(Path(stored.archive_file).read_bytes())
    assert is_usable(archive, out, fingerprint="f", versions={"a": "1"})
    # a missing output stays undefined
    found = stored_outputs(archive, "coregister_T1w", tmp_path)
    assert found == {"notes": ["odd"], "left_out": left_out}
    flair = stored_outputs(archive, "on_flair_FLAIR", tmp_path)["out_file"]
    assert flair == str(out / IMAGES["on_flair_FLAIR"])
    t1w = Path(stored_outputs(archive, "on_flair_T1w", tmp_path)["out_file"])
    assert (t1w == out / IMAGES["on_flair_T1w"]) == (not left_out)
    assert t1w.read_bytes() == b"on_flair_T1w"
