"""The graph of one visit, without running it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import networkx as nx
import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine import Node, Workflow

from bids_msseg.bids.derivatives import NO_EXTRAS, Extras, visit_outputs
from bids_msseg.bids.record_values import ModelUse
from bids_msseg.bids.visit import Visit
from bids_msseg.nodes.context import DerivativesContext
from bids_msseg.nodes.intermediate import write_archive
from bids_msseg.reports.images.figures import WIDE_RIM_MM
from bids_msseg.segmenters.base import Identity
from bids_msseg.segmenters.command import CommandSegmenter
from bids_msseg.spaces import AtlasChoice, OutputSpace
from bids_msseg.workflow.participant import init_visit_wf
from bids_msseg.workflow.plan import Settings, step_label, visit_workflow_name

Images = dict[str, Path]
Others = tuple[str, ...]
CONTRASTS = ("FLAIR", "T1w", "T2w")
DEFAULT = (("FLAIR", None), ("T1w", None), ("MNI152NLin2009aSym", 1))


@pytest.fixture
def images(tmp_path: Path) -> Images:
    paths = {name: tmp_path / f"sub-01_{name}.nii.gz" for name in (*CONTRASTS, "mask")}
    for path in paths.values():
        path.touch()
    return paths


def build(
    images: Images,
    *others: str,
    sidecar: Mapping[str, object] | None = None,
    intermediate: Path | None = None,
    extras: Extras = NO_EXTRAS,
    **settings: object,
) -> Workflow:
    visit = Visit(
        "01",
        "1",
        images["FLAIR"],
        t1w=images["T1w"] if "T1w" in others else None,
        t2w=images["T2w"] if "T2w" in others else None,
        brain_mask=images["mask"] if "mask" in others else None,
        metadata={"FLAIR": sidecar or {}},
        lesion_mask=images["mask"] if "given" in others else None,
        exclude_masks=(images["mask"],) if "excluded" in others else (),
    )
    context = DerivativesContext(
        visit,
        out_dir=images["FLAIR"].parent / "out",
        bids_dir=images["FLAIR"].parent,
        model=ModelUse("m", "1", "0" * 64),
        candidate_threshold=0.1,
        threshold=0.4,
        min_lesion_volume=5.0,
        fingerprint="f",
        maps_fingerprint="m",
        intermediate=intermediate,
        extras=extras,
    )
    model = images["FLAIR"]
    chosen = {"spaces": DEFAULT, "threads": 3, **settings}
    return init_visit_wf(context=context, settings=Settings(model, **chosen))


def nodes_of(workflow: Workflow) -> dict[str, Node]:
    return {node.name: node for node in workflow._graph.nodes}


def input_sources(workflow: Workflow, target: str) -> dict[str, str]:
    """Input of a node to ``node.output`` that it is connected to."""
    found = {}
    for start, end, data in workflow._graph.edges(data=True):
        if end.name == target:
            found |= {field: f"{start.name}.{output}" for output, field in data["connect"]}
    return found


def inputs_missing(workflow: Workflow) -> dict[str, set[str]]:
    """Mandatory inputs that are neither set nor connected, by node."""
    missing = {}
    for name, node in nodes_of(workflow).items():
        traits = node.inputs.traits(mandatory=True)
        unset = {field for field in traits if not isdefined(getattr(node.inputs, field))}
        missing[name] = unset - set(input_sources(workflow, name))
    return {name: fields for name, fields in missing.items() if fields}


ALWAYS = {
    "conform_FLAIR",
    "brain",
    "bias",
    "template",
    "check_brain",
    "anatomy",
    "stack",
    "quality",
    "segment",
    "volumes",
    "delineate",
    "estimate",
    "on_flair_FLAIR",
    "on_flair_head",
    "draw",
    "store",
    "publish",
    "list_outputs",
    "list_preproc",
    "list_transforms",
    "list_faults",
    "list_seconds",
    "list_notes",
}
A_CONTRAST = {"conform", "coregister", "on_flair"}


@pytest.mark.parametrize("others", [(), ("T1w",), ("T2w",), ("T1w", "T2w")])
def test_visit_workflow_has_expected_node_names(images: Images, others: Others) -> None:
    """Names are stable: a re-run finds its finished steps by them."""
    expected = ALWAYS | {"space_MNI152NLin2009aSym", "list_spaces"}
    expected |= {f"{kind}_{name}" for kind, name in product(A_CONTRAST, others)}
    expected |= {"list_moving", "list_left_out"} if others else set()
    expected |= {"space_T1w"} if "T1w" in others else set()
    assert set(nodes_of(build(images, *others))) == expected


@pytest.mark.parametrize("others", [(), ("T1w", "T2w")])
def test_every_mandatory_input_is_set_or_connected(images: Images, others: Others) -> None:
    assert inputs_missing(build(images, *others)) == {}


@pytest.mark.parametrize("others", [(), ("T1w", "T2w")])
def test_graph_is_acyclic_and_ends_in_publish_node(images: Images, others: Others) -> None:
    graph = build(images, *others)._graph
    assert nx.is_directed_acyclic_graph(graph)
    assert [node.name for node in graph.nodes if graph.out_degree(node) == 0] == ["publish"]


def test_nodes_declare_memory_and_threads(images: Images) -> None:
    workflow = build(images, "T1w", "T2w", threads=3)
    threads = {"bias": 3, "segment": 3}
    for name, node in nodes_of(workflow).items():
        if name.startswith("list_"):
            assert node.run_without_submitting
            continue
        assert 0 < node._mem_gb <= 4, name
        assert node._n_procs == node.inputs.threads == threads.get(name, 1), name
    single = nodes_of(build(images, threads=3))
    assert single["bias"]._n_procs == 1


@pytest.mark.parametrize(
    ("spaces", "expected"),
    [
        ((("FLAIR", None),), set()),
        ((("T1w", None),), {"space_T1w"}),
        ((("MNI152NLin2009cAsym", None),), {"space_MNI152NLin2009cAsym"}),
        (
            (("MNI152NLin2009cAsym", 1), ("MNI152NLin2009cAsym", 2)),
            {"space_MNI152NLin2009cAsym", "space_MNI152NLin2009cAsym_2"},
        ),
        ((("MNI152NLin2009aSym", 1),) * 2, {"space_MNI152NLin2009aSym"}),
    ],
)
def test_output_spaces_give_expected_nodes(
    images: Images, spaces: tuple[tuple[str, int | None], ...], expected: set[str]
) -> None:
    found = {
        name for name in nodes_of(build(images, "T1w", spaces=spaces)) if name.startswith("space")
    }
    assert found == expected


def test_t1w_space_needs_a_t1w(images: Images) -> None:
    workflow = build(images, "T2w", spaces=(("FLAIR", None), ("T1w", None)))
    assert "space_T1w" not in nodes_of(workflow)
    assert not isdefined(nodes_of(workflow)["publish"].inputs.space_names) or (
        nodes_of(workflow)["publish"].inputs.space_names == []
    )


def test_other_template_is_registered_once_for_all_resolutions(images: Images) -> None:
    spaces = (("MNI152NLin2009cAsym", 1), ("MNI152NLin2009cAsym", 2))
    workflow = build(images, spaces=spaces)
    nodes = nodes_of(workflow)
    assert nodes["template_MNI152NLin2009cAsym"].inputs.template == "MNI152NLin2009cAsym"
    for name in ("space_MNI152NLin2009cAsym", "space_MNI152NLin2009cAsym_2"):
        fit = input_sources(workflow, name)["transform_file"]
        assert fit == "template_MNI152NLin2009cAsym.transform_file"
    assert nodes["space_MNI152NLin2009cAsym_2"].inputs.resolution == 2
    publish = nodes["publish"].inputs
    assert publish.space_names == ["MNI152NLin2009cAsym:res-1", "MNI152NLin2009cAsym:res-2"]
    assert publish.transform_names == [
        "FLAIR MNI152NLin2009aSym affine",
        "FLAIR MNI152NLin2009cAsym affine",
    ]


def test_publish_node_receives_names_and_files_in_same_order(images: Images) -> None:
    workflow = build(images, "T1w", "T2w")
    publish = nodes_of(workflow)["publish"].inputs
    assert publish.transform_names == [
        "T1w FLAIR rigid",
        "T2w FLAIR rigid",
        "FLAIR MNI152NLin2009aSym affine",
    ]
    assert list(input_sources(workflow, "list_transforms").values()) == [
        "coregister_T1w.transform_file",
        "coregister_T2w.transform_file",
        "template.transform_file",
    ]
    assert publish.space_names == ["T1w", "MNI152NLin2009aSym:res-1"]
    assert list(input_sources(workflow, "list_spaces").values()) == [
        "space_T1w.mask_file",
        "space_MNI152NLin2009aSym.mask_file",
    ]
    assert publish.preproc_names == ["FLAIR", "T1w", "T2w"]
    for gathered, output in (("list_seconds", "seconds"), ("list_notes", "notes")):
        assert list(input_sources(workflow, gathered).values()) == [
            f"{step}.{output}" for step in publish.step_names
        ]


def test_atlas_nodes_use_transform_of_atlas_space(images: Images) -> None:
    texts = {
        "sides": "template",
        "A:MNI152NLin6Asym": "template_MNI152NLin6Asym",
        "B:MNI152NLin6Asym": "template_MNI152NLin6Asym",
        f"own={images['T1w']}.nii:T1w": "coregister_T1w",
        f"drawn={images['FLAIR']}.nii:FLAIR": None,
    }
    atlases = tuple(map(AtlasChoice.parse, texts))
    for atlas in atlases:
        if atlas.kind == "file":
            Path(atlas.source).touch()
    workflow = build(images, "T1w", extras=Extras(atlases))
    nodes = nodes_of(workflow)
    for atlas, fit in zip(atlases, texts.values(), strict=True):
        name = f"atlas_{atlas.name}"
        assert AtlasChoice.parse(nodes[name].inputs.atlas) == atlas
        assert isdefined(nodes[name].inputs.atlas_file) == (atlas.kind == "file")
        # a template is fitted to the FLAIR, the FLAIR is aligned with the T1w
        assert nodes[name].inputs.invert == bool(fit and fit.startswith("template"))
        fed = input_sources(workflow, name)
        assert fed["labels_file"] == "delineate.labels_file"
        assert fed.get("transform_file") == (fit and f"{fit}.transform_file")
    assert list(input_sources(workflow, "list_atlases").values()) == [
        f"atlas_{atlas.name}.rows_file" for atlas in atlases
    ]
    # transforms of atlas templates are written, and required of a finished visit
    names = nodes["publish"].inputs.transform_names
    assert names.count("FLAIR MNI152NLin6Asym affine") == 1
    visit = Visit("01", "1", images["FLAIR"], images["T1w"])
    stems = [one.stem for one in visit_outputs(visit, DEFAULT, Extras(atlases))]
    assert "from-FLAIR_to-MNI152NLin6Asym_mode-image_xfm" in stems
    assert "desc-atlases_stats" in stems


def test_fill_lesions_adds_nodes_for_flair_and_t1w(images: Images) -> None:
    asked = Extras(filled=True)
    assert {name for name in nodes_of(build(images, extras=asked)) if "fill" in name} == {
        "fill_FLAIR",
        "list_filled",
    }
    workflow = build(images, "T1w", "T2w", spaces=(("FLAIR", None),), extras=asked)
    nodes = nodes_of(workflow)
    masks = {"FLAIR": "delineate", "T1w": "space_T1w"}
    for contrast, mask in masks.items():
        name = f"fill_{contrast}"
        assert nodes[name].inputs.image_file == str(images[contrast])
        fed = input_sources(workflow, name)
        assert fed.pop("transform_file", None) == (
            "coregister_T1w.transform_file" if contrast == "T1w" else None
        )
        assert fed == {"mask_file": f"{mask}.mask_file", "anatomy_file": "segment.anatomy_file"}
    publish = nodes["publish"].inputs
    assert publish.filled_names == list(masks)
    assert list(input_sources(workflow, "list_filled").values()) == [
        f"fill_{contrast}.out_file" for contrast in masks
    ]
    # the T1w-space mask is computed but not written
    assert publish.space_names == []
    assert "list_spaces" not in nodes


def test_fmriprep_roi_is_t1w_space_mask(images: Images) -> None:
    asked = Extras(roi=True)
    alone, with_t1w = (
        build(images, *others, spaces=(), extras=asked) for others in ((), ("T1w",))
    )
    assert input_sources(with_t1w, "publish")["roi_file"] == "space_T1w.mask_file"
    assert nodes_of(with_t1w)["publish"].inputs.space_names == []
    assert "roi_file" not in input_sources(alone, "publish")
    assert "space_T1w" not in nodes_of(alone)


def test_grid_file_nodes_use_transform_only_for_t1w(images: Images) -> None:
    """One is aligned with the FLAIR, one with the T1w."""
    grids = tuple(
        OutputSpace(name, None, str(images[name]), world)
        for name, world in (("T2w", "FLAIR"), ("mask", "T1w"))
    )
    workflow = build(images, "T1w", spaces=(("T1w", None),), extras=Extras(grids=grids))
    nodes = nodes_of(workflow)
    for grid in grids:
        step = nodes[f"space_{grid.name}"].inputs
        assert step.reference_file == grid.file
        assert (step.same_world, step.invert) == (grid.world == "FLAIR", grid.world == "T1w")
        fed = input_sources(workflow, f"space_{grid.name}")
        assert fed["probability_file"] == "delineate.probability_file"
        assert ("transform_file" in fed) == (grid.world == "T1w")
    assert nodes["publish"].inputs.space_names == ["T1w", "FLAIR T2w", "T1w mask"]
    assert list(input_sources(workflow, "list_spaces").values()) == [
        f"space_{name}.mask_file" for name in ("T1w", "T2w", "mask")
    ]


@pytest.mark.parametrize("others", [("T1w",), ("T2w",), ("T1w", "T2w")])
def test_unaligned_contrast_reaches_only_figure_nodes(images: Images, others: Others) -> None:
    """Later steps read the output of its alignment; only the figure shows it unaligned."""
    workflow = build(images, *others)
    for contrast in others:
        name, step = contrast.lower(), f"coregister_{contrast}"
        assert input_sources(workflow, "bias")[f"{name}_file"] == f"{step}.used_file"
        for later in ("stack", "anatomy"):
            assert input_sources(workflow, later)[f"{name}_file"] == f"bias.{name}_file"
        shown = input_sources(workflow, f"on_flair_{contrast}")
        assert shown["left_out_file"] == f"conform_{contrast}.out_file"
        assert shown["transform_file"] == f"{step}.attempt_file"
    assert list(input_sources(workflow, "list_left_out").values()) == [
        f"coregister_{contrast}.left_out" for contrast in others
    ]
    for last in ("draw", "publish"):
        assert input_sources(workflow, last)["left_out"] == "list_left_out.out"


def test_all_faults_are_connected_to_quality_node(images: Images) -> None:
    workflow = build(images, "T1w", "T2w", spaces=(("MNI152NLin2009cAsym", 1),))
    assert set(input_sources(workflow, "list_faults").values()) == {
        "coregister_T1w.faults",
        "coregister_T2w.faults",
        "template.faults",
        "template_MNI152NLin2009cAsym.faults",
        "check_brain.faults",
    }
    assert input_sources(workflow, "quality")["known_faults"] == "list_faults.out"


@pytest.mark.parametrize("step", ["anatomy", "stack", "quality", "delineate"])
def test_later_steps_use_checked_brain_mask(images: Images, step: str) -> None:
    assert input_sources(build(images), step)["mask_file"] == "check_brain.mask_file"


@pytest.mark.parametrize(
    ("said", "expected"),
    [({}, "auto"), ({"SkullStripped": True}, "yes"), ({"SkullStripped": False}, "no"),
     ({"SkullStripped": "yes"}, "auto"), ({"SkullStripped": None}, "auto")],
)  # fmt: skip
@pytest.mark.parametrize("asked", ["auto", "yes", "no"])
def test_brain_node_gets_skull_option_and_sidecar_separately(
    images: Images, said: dict[str, object], expected: str, asked: str
) -> None:
    """The brain step reads the image and decides between them."""
    brain = nodes_of(build(images, skull_stripped=asked, sidecar=said))["brain"]
    assert (brain.inputs.skull_stripped, brain.inputs.sidecar) == (asked, expected)


def test_a_given_brain_mask_is_used(images: Images) -> None:
    assert nodes_of(build(images, "mask"))["brain"].inputs.given_mask == str(images["mask"])
    assert not isdefined(nodes_of(build(images))["brain"].inputs.given_mask)


def test_options_reach_their_nodes(images: Images) -> None:
    nodes = nodes_of(
        build(images, "T1w", seed=5, fast=True, device="cuda:1", measure=True, threads=2)
    )
    assert nodes["coregister_T1w"].inputs.seed == nodes["template"].inputs.seed == 5
    assert nodes["segment"].inputs.fast is True
    assert nodes["segment"].inputs.device == nodes["brain"].inputs.device == "cuda:1"
    assert nodes["delineate"].inputs.threshold == nodes["space_T1w"].inputs.threshold == 0.4
    assert nodes["delineate"].inputs.min_volume == nodes["space_T1w"].inputs.min_volume == 5.0
    assert all(n.inputs.measure for name, n in nodes.items() if not name.startswith("list_"))


@pytest.mark.parametrize(
    ("device", "brain"),
    [("auto", "cpu"), ("cpu", "cpu"), ("mps", "cpu"), ("cuda", "cuda"), ("cuda:1", "cuda:1")],
)
def test_brain_extraction_uses_gpu_only_for_cuda_option(
    images: Images, device: str, brain: str
) -> None:
    nodes = nodes_of(build(images, device=device))
    assert (nodes["segment"].inputs.device, nodes["brain"].inputs.device) == (device, brain)


@pytest.mark.parametrize("others", [(), ("T1w", "T2w")])
def test_given_lesion_mask_replaces_network_nodes(images: Images, others: Others) -> None:
    whole = build(images, *others)
    workflow = build(images, *others, "given", mask_values=(1, 5))
    nodes = nodes_of(workflow)
    assert set(nodes_of(whole)) - set(nodes) == {"segment", "estimate", "volumes"}
    assert set(nodes) <= set(nodes_of(whole))
    lesions = nodes["delineate"].inputs
    assert (lesions.lesion_file, lesions.values) == (str(images["mask"]), [1, 5])
    assert not isdefined(nodes["quality"].inputs.model_file)
    found = input_sources(workflow, "publish")
    absent = {"probseg_file", "candidates_file", "anatomy_file", "volumes_file"}
    assert not absent & set(found)
    assert "anatomy_file" not in input_sources(workflow, "draw")
    for name in ("table", "estimate", "mask", "labels", "rejected", "ventricles"):
        assert found[f"{name}_file"] == f"delineate.{name}_file"
    for space in (name for name in nodes if name.startswith("space_")):
        assert input_sources(workflow, space)["probability_file"] == "delineate.probability_file"
    assert inputs_missing(workflow) == {}
    graph = workflow._graph
    assert [node.name for node in graph.nodes if graph.out_degree(node) == 0] == ["publish"]
    assert {"stack", "quality", "template"} <= set(nodes["store"].inputs.step_names)


@pytest.mark.parametrize("others", [(), ("T1w", "T2w")])
def test_external_segmenter_replaces_networks(images: Images, others: Others) -> None:
    other = CommandSegmenter(Identity("command", "x", "1", "", ""), ("x", "{flair}", "{out}"))
    whole = build(images, *others)
    workflow = build(images, *others, segmenter=other, extras=Extras(anatomy=False))
    nodes = nodes_of(workflow)
    assert set(nodes_of(whole)) - set(nodes) == {"volumes"}
    assert set(nodes) <= set(nodes_of(whole))
    step = nodes["segment"]
    assert (step.inputs.segmenter, step.inputs.digest) == (other, "0" * 64)
    assert step._mem_gb == other.mem_gb
    fed = input_sources(workflow, "segment")
    expected = {"flair_file": "bias.flair_file", "mask_file": "check_brain.mask_file"}
    for contrast in others:
        name = contrast.lower()
        expected[f"{name}_file"] = f"bias.{name}_file"
        expected[f"{name}_transform"] = f"coregister_{contrast}.transform_file"
    assert fed == expected
    of_segmenter = {
        field
        for field, source in input_sources(workflow, "delineate").items()
        if "segment." in source
    }
    assert of_segmenter == {"probability_file"}
    for name in ("quality", "estimate"):
        assert not isdefined(nodes[name].inputs.model_file)
    assert not {"anatomy_file", "volumes_file"} & set(input_sources(workflow, "publish"))
    assert "anatomy_file" not in input_sources(workflow, "draw")
    assert inputs_missing(workflow) == {}
    # so that a new threshold does not need the segmenter
    assert "segment" in nodes["store"].inputs.step_names


def test_filling_of_given_mask_runs_networks_for_anatomy_only(images: Images) -> None:
    workflow = build(images, "T1w", "given", extras=Extras(filled=True))
    nodes = nodes_of(workflow)
    assert {"segment", "volumes", "fill_FLAIR", "fill_T1w"} <= set(nodes)
    assert nodes["segment"].inputs.anatomy_only
    assert not nodes_of(build(images))["segment"].inputs.anatomy_only
    assert "estimate" not in nodes
    assert nodes["delineate"].inputs.lesion_file == str(images["mask"])
    fed = input_sources(workflow, "delineate").values()
    assert not any(source.startswith("segment.") for source in fed)
    assert input_sources(workflow, "fill_FLAIR") == {
        "mask_file": "delineate.mask_file",
        "anatomy_file": "segment.anatomy_file",
    }
    found = input_sources(workflow, "publish")
    assert found["anatomy_file"] == "volumes.anatomy_file"
    assert not {"probseg_file", "candidates_file"} & set(found)
    assert nodes["store"].inputs.selected_outputs["segment"] == [
        "notes",
        "seconds",
        "anatomy_file",
    ]


@pytest.mark.parametrize("others", [(), ("given",)])
def test_exclusion_masks_reach_only_delineate_node(images: Images, others: Others) -> None:
    """The outputs stored for a new delineation do not depend on them."""
    plain, masked = build(images, *others), build(images, *others, "excluded")
    assert nodes_of(plain)["delineate"].inputs.exclusion_files == []
    assert nodes_of(masked)["delineate"].inputs.exclusion_files == [str(images["mask"])]
    assert input_sources(masked, "publish")["excluded_ml"] == "delineate.excluded_ml"
    one, other = (nodes_of(workflow)["store"].inputs for workflow in (plain, masked))
    assert (one.step_names, one.selected_outputs) == (other.step_names, other.selected_outputs)


def stored(images: Images, *others: str) -> set[str]:
    """Outputs that a complete run stores, as ``step.output``, without notes and times."""
    wanted = nodes_of(build(images, *others))["store"].inputs.selected_outputs
    return {
        f"{step}.{output}"
        for step, outputs in wanted.items()
        for output in outputs
        if output not in ("notes", "seconds")
    }


@pytest.mark.parametrize("others", [(), ("T1w",), ("T1w", "T2w")])
def test_store_node_keeps_outputs_needed_for_delineation(images: Images, others: Others) -> None:
    """No image of the whole head is stored, only the part that the figures show."""
    expected = {f"segment.{name}_file" for name in ("probability", "candidate", "lesion")}
    expected |= {"segment.candidates_file", "quality.quality_file", "brain.how"}
    expected |= {"check_brain.mask_file", "check_brain.extracerebral_file"}
    expected |= {"template.transform_file", "template.trusted"}
    expected |= {"anatomy.regions_file", "anatomy.own_ventricles"}
    expected |= {"volumes.anatomy_file", "volumes.volumes_file"}
    expected |= {f"on_flair_{name}.out_file" for name in ("head", "FLAIR", *others)}
    for name in others:
        expected |= {f"coregister_{name}.{what}" for what in ("transform_file", "left_out")}
    assert stored(images, *others) == expected
    head = nodes_of(build(images, *others))["on_flair_head"].inputs
    assert head.rim_mm == WIDE_RIM_MM
    inputs = nodes_of(build(images, *others))["store"].inputs
    assert set(inputs.step_names) == set(inputs.selected_outputs)
    assert inputs.fingerprint == "m"
    assert set(inputs.published) <= stored(images, *others)


@pytest.mark.parametrize("others", [(), ("T1w", "T2w")])
def test_workflow_from_archive_reuses_stored_steps(
    images: Images, tmp_path: Path, others: Others
) -> None:
    whole = build(images, *others)
    first = nodes_of(whole)["store"].inputs.step_names
    assert {"brain", "bias", "template", "segment"} <= set(first)
    archive = tmp_path / "steps.zip"
    steps = {step: {"notes": [], "seconds": 0.0} for step in first}
    write_archive(archive, steps, published={}, fingerprint="m", versions={})
    again = build(images, *others, intermediate=archive)
    assert again.name == f"{whole.name}_cut"
    nodes = nodes_of(again)
    assert set(nodes_of(whole)) - set(nodes) == {"store", "list_outputs", "list_faults"}
    for name, node in nodes.items():
        if name.startswith("list_"):
            continue
        assert isdefined(node.inputs.stored) == (name in first), name
        assert bool(node.overwrite) == (name in first), name
        assert bool(input_sources(again, name)) == (name not in first), name
    graph = again._graph
    assert [node.name for node in graph.nodes if graph.out_degree(node) == 0] == ["publish"]
    assert nodes["publish"].inputs.step_names == nodes_of(whole)["publish"].inputs.step_names
    assert "intermediate_file" not in input_sources(again, "publish")


def test_labels_with_a_plus_make_distinct_names() -> None:
    """BIDS allows ``+`` in labels, nipype does not allow it in names."""
    names = [visit_workflow_name(Visit(label, None, Path())) for label in ("a+b", "ab", "aplusb")]
    assert len(set(names)) == 3
    for name in names:
        Workflow(name)


def test_name_and_description_of_nodes() -> None:
    assert visit_workflow_name(Visit("01", "1", Path("f.nii.gz"))) == "sub_01_ses_1"
    assert step_label("on_flair_T1w") == "writing images"
    assert step_label("list_notes") is None
