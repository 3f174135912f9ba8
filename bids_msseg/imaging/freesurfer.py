"""Names of FreeSurfer labels, for segmentations without a table.

From FreeSurferColorLUT.txt: labels of ``aseg`` (Fischl et al. 2002, doi
10.1016/S0896-6273(02)00569-X) and gyri (Desikan et al. 2006, 10.1016/j.neuroimage.2006.01.021).
"""

from __future__ import annotations

_PAIRS = {
    (2, 41): "Cerebral-White-Matter",
    (3, 42): "Cerebral-Cortex",
    (4, 43): "Lateral-Ventricle",
    (5, 44): "Inf-Lat-Vent",
    (7, 46): "Cerebellum-White-Matter",
    (8, 47): "Cerebellum-Cortex",
    (10, 49): "Thalamus",
    (11, 50): "Caudate",
    (12, 51): "Putamen",
    (13, 52): "Pallidum",
    (17, 53): "Hippocampus",
    (18, 54): "Amygdala",
    (26, 58): "Accumbens-area",
    (28, 60): "VentralDC",
    (30, 62): "vessel",
    (31, 63): "choroid-plexus",
    (78, 79): "WM-hypointensities",
    (81, 82): "non-WM-hypointensities",
    (5001, 5002): "UnsegmentedWhiteMatter",
}
_SINGLE = {
    0: "Unknown",
    14: "3rd-Ventricle",
    15: "4th-Ventricle",
    16: "Brain-Stem",
    24: "CSF",
    72: "5th-Ventricle",
    77: "WM-hypointensities",
    80: "non-WM-hypointensities",
    85: "Optic-Chiasm",
    251: "CC_Posterior",
    252: "CC_Mid_Posterior",
    253: "CC_Central",
    254: "CC_Mid_Anterior",
    255: "CC_Anterior",
}
_GYRI = (
    "unknown bankssts caudalanteriorcingulate caudalmiddlefrontal corpuscallosum cuneus "
    "entorhinal fusiform inferiorparietal inferiortemporal isthmuscingulate lateraloccipital "
    "lateralorbitofrontal lingual medialorbitofrontal middletemporal parahippocampal paracentral "
    "parsopercularis parsorbitalis parstriangularis pericalcarine postcentral posteriorcingulate "
    "precentral precuneus rostralanteriorcingulate rostralmiddlefrontal superiorfrontal "
    "superiorparietal superiortemporal supramarginal frontalpole temporalpole "
    "transversetemporal insula"
)
_GYRUS_RANGES = {1000: "ctx-lh", 2000: "ctx-rh", 3000: "wm-lh", 4000: "wm-rh"}


def freesurfer_names() -> dict[int, str]:
    """Return the names of the labels of ``aseg``, ``aparc+aseg`` and ``wmparc``."""
    names = dict(_SINGLE)
    for (left, right), name in _PAIRS.items():
        names |= {left: f"Left-{name}", right: f"Right-{name}"}
    for first, prefix in _GYRUS_RANGES.items():
        names |= {first + k: f"{prefix}-{name}" for k, name in enumerate(_GYRI.split())}
    return names
