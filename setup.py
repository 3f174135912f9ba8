"""Packaging metadata of bids_msseg; the build system is declared in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "bids_msseg/__init__.py").read_text(), re.MULTILINE
)[1]
REPOSITORY = "https://github.com/owner_to_be_set/bids_msseg"

# Lower bounds only: requirements.lock pins what tests and images install. What a single program
# needs is an extra, and that program names the extra where it is missing.
RUNTIME = [
    "pybids>=0.22",
    "nipype>=1.11",
    "nibabel>=5.4",
    "numpy>=2.2",
    "scipy>=1.15",
    "torch>=2.13",
    "templateflow>=25.1",
    "SimpleITK>=2.5",
    "deepbet>=1.0.2",
    "connected-components-3d>=4.1",
    "safetensors>=0.8",
    "contourpy>=1.3",
    "Jinja2>=3.1",
    "MarkupSafe>=3.0",
    "pillow>=12",
    "pydantic>=2.12",
    "PyYAML>=6",
    "rich>=15",
    "SQLAlchemy>=2.0",
    "tomli-w>=1.2",
]
EVALUATE = ["scikit-image>=0.26"]
TRAIN = ["matplotlib>=3.11"]
# large, and of use only to those who have a model of it: in no other extra
NNUNET = ["nnunetv2>=2.6"]
# MkDocs 2 drops the plugins that the other two are
DOCS = ["mkdocs>=1.6.1,<2", "mkdocs-material>=9.8", "mkdocstrings[python]>=1.0.8"]
TEST = [
    "pytest>=9.2",
    "pytest-cov>=7.1",
    "pytest-xdist>=3.8",
    "hypothesis>=6.170",
    "mypy>=2.4",
    "ruff>=0.17.6",
    "import-linter>=2.16",
    "bids-validator-deno>=3.0.2",
    "boutiques>=0.5.33",
    "check-jsonschema>=0.39",
    "jsonschema>=4.26",
    "lesion-metrics>=0.1.12",
    "surface-distance>=0.1",
    "packaging>=24",
    "playwright>=1.65",
]

setup(
    name="bids_msseg",
    version=VERSION,
    description="A BIDS App that segments multiple-sclerosis lesions by a cascade of two 3-D CNNs",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The bids_msseg developers",
    maintainer="The bids_msseg developers",
    url=REPOSITORY,
    project_urls={
        "Documentation": "https://owner_to_be_set.github.io/bids_msseg/",
        "Source": REPOSITORY,
        "Issues": f"{REPOSITORY}/issues",
        "Changes": f"{REPOSITORY}/blob/main/CHANGES.md",
        "Container image": "https://ghcr.io/owner_to_be_set/bids_msseg",
    },
    keywords=[
        "BIDS",
        "BIDS App",
        "deep learning",
        "FLAIR",
        "lesion segmentation",
        "MRI",
        "multiple sclerosis",
        "neuroimaging",
        "white-matter lesions",
    ],
    license="Apache-2.0",
    license_files=["LICENSE", "bids_msseg/data/template/LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["bids_msseg", "bids_msseg.*"]),
    package_data={
        "bids_msseg": ["py.typed", "data/**/*"],
        "bids_msseg.reports": ["templates/*", "vendor/*"],
    },
    install_requires=RUNTIME,
    extras_require={
        "evaluate": EVALUATE,
        "train": TRAIN,
        "nnunet": NNUNET,
        "docs": DOCS,
        "test": [*TEST, *EVALUATE, *TRAIN, *DOCS],
        "all": [*EVALUATE, *TRAIN],
    },
    entry_points={
        "console_scripts": [
            "msseg=bids_msseg.cli.run:main",
            "msseg-file=bids_msseg.cli.segment_file:main",
            "msseg-train=bids_msseg.cli.train:main",
            "msseg-demo=bids_msseg.cli.demo:main",
            "msseg-consensus=bids_msseg.cli.consensus:main",
            "msseg-evaluate=bids_msseg.cli.evaluate:main",
            "msseg-check=bids_msseg.cli.check:main",
        ]
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
)
