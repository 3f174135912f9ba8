"""Options of ``msseg``: selection of visits, processing and resources."""

from __future__ import annotations

import argparse


def add_query_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select visits and their input."""
    group = parser.add_argument_group("which visits")
    for name, nouns, prefix in (
        ("participant", "participants", "sub-"),
        ("session", "sessions", "ses-"),
    ):
        group.add_argument(
            f"--{name}-label",
            metavar="LABEL..",
            nargs="+",
            action="extend",
            help=f"only these {nouns}, with or without {prefix}; or a file with one per line",
        )
    group.add_argument(
        "--session-order",
        metavar="LABEL..",
        nargs="+",
        action="extend",
        help="sessions, earliest first [by acq_time, labels]",
    )
    group.add_argument(
        "--exclude-participant-label",
        metavar="LABEL..",
        nargs="+",
        action="extend",
        help="leave these participants out",
    )
    group.add_argument(
        "--ignore",
        metavar="CONTRAST..",
        nargs="+",
        action="extend",
        help="leave these contrasts out: t1w, t2w",
    )
    group.add_argument(
        "--bids-filter-file", metavar="FILE", help="JSON of pybids entities for each contrast"
    )
    add_switch(group, "skip-bids-validation", "do not check the dataset description")
    group.add_argument(
        "--bids-database-dir", metavar="DIR", help="keep the pybids index here for later runs"
    )
    group.add_argument(
        "-d",
        "--derivatives",
        metavar="PATH..",
        nargs="+",
        action="extend",
        help="datasets with brain masks; or NAME=PATH",
    )
    group.add_argument(
        "--lesion-masks",
        metavar="PATH..",
        nargs="+",
        action="extend",
        help="lesion masks that replace the networks: a dataset, or a file pattern with "
        "{subject} and {session}; or NAME=PATH",
    )
    group.add_argument(
        "--exclude-masks",
        metavar="PATH..",
        nargs="+",
        action="extend",
        help="exclusion masks (tumour, infarct), in the same forms; optional for each visit",
    )


def add_processing_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the method and its outputs."""
    group = parser.add_argument_group("processing")
    group.add_argument(
        "--output-spaces",
        metavar="SPACE..",
        nargs="+",
        action="extend",
        help="FLAIR, T1w, a TemplateFlow name with or without :res-N, or an image FILE with the "
        "grid [FLAIR T1w MNI152NLin2009aSym:res-1]",
    )
    group.add_argument(
        "--atlas",
        metavar="ATLAS..",
        nargs="+",
        action="extend",
        help="lesion load by region: sides, FILE:SPACE, or a TemplateFlow or FreeSurfer name",
    )
    add_switch(group, "fill-lesions", "also write FLAIR and T1w with filled lesions")
    add_switch(group, "lesion-roi", "also write a T1w lesion mask for fMRIPrep")
    group.add_argument("--model", metavar="PATH|NAME", help="weights [the bundled ones]")
    group.add_argument(
        "--segmenter",
        metavar="NAME",
        help="segmenter: cascade, nnunet, samseg or command [cascade]",
    )
    group.add_argument("--segmenter-config", metavar="FILE", help="options of the segmenter, TOML")
    group.add_argument(
        "--threshold",
        metavar="P",
        help="lesion at or above this probability, 0-1 [the model's]",
    )
    group.add_argument(
        "--min-lesion-volume", metavar="MM3", help="drop smaller lesions, in mm³ [3]"
    )
    group.add_argument(
        "--mask-values",
        metavar="any|N..",
        nargs="+",
        action="extend",
        help="values of given lesion masks that are lesion [any above zero]",
    )
    group.add_argument(
        "--skull-stripped", metavar="ANSWER", help="skull-stripped images: auto, yes or no [auto]"
    )
    add_switch(group, "fast", "trade some accuracy for time")
    group.add_argument("--random-seed", metavar="N", help="seed of every random draw [0]")


def add_performance_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for CPUs, memory, device and cluster."""
    group = parser.add_argument_group("performance")
    group.add_argument("--nprocs", metavar="N", help="CPUs of the whole run [all available]")
    group.add_argument("--omp-nthreads", metavar="N", help="threads of one step [CPUs, at most 8]")
    group.add_argument(
        "--mem-gb", metavar="GB", help="memory of the whole run, in GB [90 %% of all]"
    )
    group.add_argument(
        "--device", metavar="DEVICE", help="auto, cpu, cuda[:N] or mps, for the networks [auto]"
    )
    group.add_argument(
        "--use-plugin", metavar="FILE", help="nipype plugin (SLURM, SGE, PBS, HTCondor), YAML"
    )


def add_switch(group: argparse._ArgumentGroup, name: str, text: str) -> None:
    """Add ``--NAME``, and a hidden ``--no-NAME`` that overrides a configuration file."""
    dest = name.replace("-", "_")
    group.add_argument(f"--{name}", action="store_true", help=text)
    group.add_argument(f"--no-{name}", action="store_false", dest=dest, help=argparse.SUPPRESS)
