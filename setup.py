"""Packaging metadata of bids_msseg; the build system is declared in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "bids_msseg/__init__.py").read_text(), re.MULTILINE
)[1]

RUNTIME = [
    "pybids>=0.22,<0.23",
    "nipype>=1.11,<1.12",
    "nibabel>=5.4,<6",
    "numpy>=2.2,<3",
    "scipy>=1.15,<2",
    "scikit-image>=0.26,<0.27",
    "torch>=2.13,<2.14",
    "templateflow>=25.1,<26",
    "SimpleITK>=2.5,<2.6",
    "deepbet>=1.0.2,<1.1",
    "connected-components-3d>=4.1,<5",
    "safetensors>=0.8,<0.9",
    "matplotlib>=3.11,<4",
    "contourpy>=1.3,<2",
    "Jinja2>=3.1,<4",
    "pillow>=12,<14",
    "PyYAML>=6,<7",
    "rich>=15,<16",
    "tomli-w>=1.2,<2",
]
ONNX = ["onnx>=1.23,<1.24", "onnxruntime>=1.32,<1.33"]
DOCS = ["mkdocs>=1.6.1,<2", "mkdocs-material>=9.8,<10", "mkdocstrings[python]>=1.0.8,<2"]
TEST = [
    "pytest>=9.2,<10",
    "pytest-cov>=7.1,<8",
    "pytest-xdist>=3.8,<4",
    "hypothesis>=6.170,<7",
    "mypy>=2.4,<3",
    "ruff>=0.17.6,<0.18",
    "import-linter>=2.16,<3",
    "bids-validator-deno>=3.0.2,<4",
    "boutiques>=0.5.33,<0.6",
    "check-jsonschema>=0.39,<0.40",
    "jsonschema>=4.26,<5",
    "lesion-metrics>=0.1.12,<0.2",
    "surface-distance>=0.1,<0.2",
    "onnx>=1.23,<1.24",
    "onnxruntime>=1.32,<1.33",
    "playwright>=1.65,<2",
]

setup(
    name="bids_msseg",
    version=VERSION,
    description="A BIDS App that segments multiple-sclerosis lesions by a cascade of two 3-D CNNs",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "bids_msseg/data/template/LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["bids_msseg", "bids_msseg.*"]),
    package_data={
        "bids_msseg": ["py.typed", "data/**/*"],
        "bids_msseg.reports": ["templates/*", "vendor/*"],
    },
    install_requires=RUNTIME,
    extras_require={"docs": DOCS, "onnx": ONNX, "test": [*TEST, *DOCS]},
    entry_points={
        "console_scripts": [
            "msseg=bids_msseg.cli:main",
            "msseg-train=bids_msseg.commands.train:main",
            "msseg-demo=bids_msseg.commands.demo:main",
            "msseg-export=bids_msseg.commands.export:main",
            "msseg-consensus=bids_msseg.commands.consensus:main",
            "msseg-evaluate=bids_msseg.commands.evaluate:main",
        ]
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
)
