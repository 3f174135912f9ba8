"""Conversion of a patch net to a fully convolutional one that classifies whole tiles.

Every stride becomes 1, and later kernels are dilated (Li et al. 2014, arXiv 1412.4526).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class _FeatureMap:
    """Feature map of a patch: its edge, the voxel distance of its columns, its channels."""

    size: int
    step: int
    channels: int = 0

    def after(self, kernel: int, stride: int, channels: int) -> _FeatureMap:
        if kernel > self.size or (self.size - kernel) % stride:
            raise ValueError(
                f"a window of {kernel} with stride {stride} does not divide a map of {self.size} "
                "without remainder"
            )
        return _FeatureMap((self.size - kernel) // stride + 1, self.step * stride, channels)


def to_dense(net: nn.Sequential, patch: int) -> nn.Sequential:
    """Convert a patch net exactly to one that maps edges X to X - patch + 1, or ValueError."""
    features = _FeatureMap(patch, 1)
    layers: list[nn.Module] = []
    for layer in net:
        if isinstance(layer, nn.Conv3d):
            layers.append(_dilate(layer, features.step))
            features = features.after(
                _edge(layer.kernel_size), _edge(layer.stride), layer.out_channels
            )
        elif isinstance(layer, nn.MaxPool3d):
            layers.append(_dilate_pooling(layer, features.step))
            kernel, stride = _edge(layer.kernel_size), _edge(layer.stride)
            features = features.after(kernel, stride, features.channels)
        elif isinstance(layer, nn.Linear):
            layers.append(_linear_to_convolution(layer, features))
            features = _FeatureMap(1, features.step, layer.out_features)
        elif isinstance(layer, nn.BatchNorm3d | nn.ReLU):
            layers.append(copy.deepcopy(layer))
        elif not isinstance(layer, nn.Dropout | nn.Flatten):
            raise ValueError(f"{type(layer).__name__} has no dense form here")
    return nn.Sequential(*layers).eval()


def _edge(value: int | str | tuple[int, ...]) -> int:
    """Return the edge of a cubic window."""
    if isinstance(value, int):
        return value
    if isinstance(value, str) or len(set(value)) != 1:
        raise ValueError(f"{value} is not a cubic window")
    return value[0]


def _check_layer(layer: nn.Conv3d | nn.MaxPool3d) -> None:
    if layer.padding not in (0, (0, 0, 0)):
        raise ValueError(f"{layer} pads the patch, so it sees its rim: no dense form is equal")
    if layer.dilation not in (1, (1, 1, 1)):
        raise ValueError(f"{layer} is dilated already")


def _dilate(layer: nn.Conv3d, step: int) -> nn.Conv3d:
    _check_layer(layer)
    dense = nn.Conv3d(
        layer.in_channels,
        layer.out_channels,
        _edge(layer.kernel_size),
        dilation=step,
        groups=layer.groups,
        bias=layer.bias is not None,
    )
    return _copy_weights(dense, layer.weight, layer.bias)


def _dilate_pooling(layer: nn.MaxPool3d, step: int) -> nn.MaxPool3d:
    _check_layer(layer)
    return nn.MaxPool3d(_edge(layer.kernel_size), stride=1, dilation=step)


def _linear_to_convolution(layer: nn.Linear, features: _FeatureMap) -> nn.Conv3d:
    """Turn a fully connected layer into a convolution over its whole input map."""
    channels = features.channels or layer.in_features // features.size**3
    dense = nn.Conv3d(
        channels,
        layer.out_features,
        features.size,
        dilation=features.step,
        bias=layer.bias is not None,
    )
    return _copy_weights(dense, layer.weight.reshape(dense.weight.shape), layer.bias)


def _copy_weights(layer: nn.Conv3d, weight: Tensor, bias: Tensor | None) -> nn.Conv3d:
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None and bias is not None:
            layer.bias.copy_(bias)
    return layer
