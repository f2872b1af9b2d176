"""The plain U-Net in PyTorch, for comparison only.

The same layers, in the same order, as `dbdc_jax/models/unet.py` with one
modality: batch norm, leaky ReLU, 2 x 2 maximum, bilinear x 2 with half-pixel
centres. `copy_weights` takes over a Flax network's parameters, so that both
can be held against each other.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

LEAKY_SLOPE = 0.01
DICE_EPSILON = 1e-5


def _layer(inputs: int, outputs: int) -> nn.Sequential:
  """3 x 3 convolution, batch norm, leaky ReLU."""
  return nn.Sequential(
    nn.Conv2d(inputs, outputs, 3, padding=1),
    nn.BatchNorm2d(outputs),
    nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
  )


def _block(inputs: int, outputs: int) -> nn.Sequential:
  return nn.Sequential(_layer(inputs, outputs), _layer(outputs, outputs))


def _up(x: torch.Tensor) -> torch.Tensor:
  return functional.interpolate(
    x, scale_factor=2, mode='bilinear', align_corners=False
  )


class UNet(nn.Module):
  """`[N, 1, H, W]` to `[N, classes, H, W]` logits."""

  def __init__(self, num_classes: int, width: int = 32):
    super().__init__()
    w = width
    self.conv0 = _layer(1, w)
    self.d1, self.d2 = _block(w, 2 * w), _block(2 * w, 4 * w)
    self.d3, self.mid = _block(4 * w, 8 * w), _block(8 * w, 8 * w)
    self.u3 = _block(16 * w, 8 * w)
    self.u2, self.u1 = _block(12 * w, 4 * w), _block(6 * w, 2 * w)
    self.head = _layer(2 * w, w)
    self.logits = nn.Conv2d(w, num_classes, 3, padding=1)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Runs the network."""
    x1 = self.d1(self.conv0(x))
    x2 = self.d2(functional.max_pool2d(x1, 2))
    x3 = self.d3(functional.max_pool2d(x2, 2))
    m = self.mid(functional.max_pool2d(x3, 2))
    x4 = self.u3(torch.cat([x3, _up(m)], 1))
    x5 = self.u2(torch.cat([x2, _up(x4)], 1))
    x6 = self.u1(torch.cat([x1, _up(x5)], 1))
    return self.logits(self.head(x6))


def copy_weights(net: UNet, params: Mapping[str, Any]) -> None:
  """Copies the parameters of a Flax `UNet` with one modality.

  Args:
    net: changed in place.
    params: the Flax network's 'params'.
  """

  def fill(target: torch.Tensor, values: Any) -> None:
    target.copy_(torch.from_numpy(np.array(values)))

  def convolution(module: nn.Conv2d, found: Mapping[str, Any]) -> None:
    fill(module.weight, np.transpose(found['kernel'], (3, 2, 0, 1)))
    fill(module.bias, found['bias'])

  def layer(module: nn.Sequential, found: Mapping[str, Any]) -> None:
    convolution(module[0], found['conv'])
    fill(module[1].weight, found['modulation']['scale'][0])
    fill(module[1].bias, found['modulation']['bias'][0])

  with torch.no_grad():
    layer(net.conv0, params['conv0'])
    for name in ('d1', 'd2', 'd3', 'mid', 'u3', 'u2', 'u1'):
      for i in range(2):
        layer(getattr(net, name)[i], params[f'{name}_{i}'])
    layer(net.head, params['head_layers_0'])
    convolution(net.logits, params['logits'])


def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
  """Cross entropy plus soft Dice with squared denominator.

  Args:
    logits: `[N, C, H, W]`.
    labels: `[N, H, W]` int64.
  """
  p = torch.softmax(logits, 1)
  g = functional.one_hot(labels, logits.shape[1]).permute(0, 3, 1, 2)
  axes = (0, 2, 3)
  both = 2 * (p * g).sum(axes) + DICE_EPSILON
  sizes = (p * p).sum(axes) + g.sum(axes) + DICE_EPSILON
  return functional.cross_entropy(logits, labels) + (1 - both / sizes).mean()
