"""The network that registers two volumes, and what it is made of.

Modality-specific encoders and one decoder that goes from coarse to fine, in the
manner of optical flow (PWC-Net): at each scale the source's features, moved by
what was found so far, are compared with the target's in all shifts of up to two
voxels. Flows are in voxels along (D, H, W).
"""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer, Num
import numpy as np

from dbdc_jax.models.convolution import KERNEL_INIT
from dbdc_jax.models.gradients import convolve
from dbdc_jax.models.instance_norm import InstanceNorm
from dbdc_jax.runtime.precision import EXACT

# Of one volume, and of N of them.
Volume = Float[Array, 'D H W c']
Flow = Float[Array, 'D H W 3']
Labels = Integer[Array, 'D H W']
Volumes = Float[Array, 'N D H W c']
Scales = tuple[Float[Array, 'N _ _ _ _'], ...]

# Shifts that are compared, either way along each axis.
REACH = 2
_SLOPE = 0.1
# Flows start near 0: the untrained network leaves volumes where they are.
_FLOW_INIT = nn.initializers.normal(1e-5)


def _corners(flow: Flow) -> tuple[Integer[Array, 'D H W 3'], Flow]:
  """Where each voxel comes from: whole positions below, and the rest."""
  axes = [jnp.arange(n, dtype=jnp.float32) for n in flow.shape[:3]]
  where = jnp.stack(jnp.meshgrid(*axes, indexing='ij'), -1) + flow
  low = jnp.floor(where)
  return low.astype(jnp.int32), where - low


def _take(
  volume: Num[Array, 'D H W ...'], place: Integer[Array, '*corners D H W 3']
) -> Num[Array, '...']:
  """Voxels at whole positions; 0 outside."""
  size = jnp.array(volume.shape[:3])
  inside = jnp.all((place >= 0) & (place < size), -1)
  place = jnp.clip(place, 0, size - 1)
  found = volume[place[..., 0], place[..., 1], place[..., 2]]
  inside = inside.reshape(*inside.shape, *(1,) * (volume.ndim - 3))
  return jnp.where(inside, found, 0)


@jax.vmap
def warp(volume: Volume, flow: Flow) -> Volume:
  """Linear interpolation at each voxel's place plus the flow; 0 outside.

  Args:
    volume: N of them.
    flow: in voxels; N of them.
  """
  low, rest = _corners(flow)
  corners = np.array(list(itertools.product((0, 1), repeat=3)))
  corners = corners[:, None, None, None]  # [8, 1, 1, 1, 3]
  weights = jnp.prod(jnp.where(corners == 1, rest, 1 - rest), -1)
  found = _take(volume, low + corners)
  return jnp.einsum('edhw,edhwc->dhwc', weights, found, precision=EXACT)


@jax.vmap
def warp_labels(labels: Labels, flow: Flow) -> Labels:
  """The nearest voxel's class, background outside.

  Args:
    labels: N volumes of them.
    flow: in voxels; N of them.
  """
  low, rest = _corners(flow)
  return _take(labels, low + (rest >= 0.5))


def cost_volume(
  source: Volumes, target: Volumes
) -> Float[Array, 'N D H W 125']:
  """How alike the features of the target and of each shift of the source are.

  Returns:
    Mean over channels of target times source, the source looked at up to two
    voxels further along D, H and W; 0 lies outside.
  """
  room = ((0, 0), *((REACH, REACH),) * 3, (0, 0))
  padded = jnp.pad(source, room)
  shifts = itertools.product(range(2 * REACH + 1), repeat=3)

  # What is sliced is not kept for the gradient: it is sliced again.
  @jax.checkpoint
  def one(shift):
    start = (0, shift[0], shift[1], shift[2], 0)
    moved = jax.lax.dynamic_slice(padded, start, source.shape)
    return jnp.mean(moved * target, -1)

  found = jax.lax.map(one, jnp.array(list(shifts), jnp.int32))
  return jnp.moveaxis(found, 0, -1)


def _interleave(x: jax.Array, axis: int) -> jax.Array:
  """Puts one axis's two positions, which are axis 4, into their places.

  Args:
    x: n + 1 values along `axis`; the first position has the first n of them,
      the second the last n.
    axis: in front of 4.
  """
  count = x.shape[axis] - 1
  pairs = [
    jax.lax.index_in_dim(
      jax.lax.slice_in_dim(x, p, p + count, axis=axis), p, 4, keepdims=False
    )
    for p in (0, 1)
  ]
  found = jnp.stack(pairs, axis + 1)
  shape = (*found.shape[:axis], 2 * count, *found.shape[axis + 2 :])
  return found.reshape(shape)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """With a voxel of zeros around."""
  numbers, around = ('NDHWC', 'DHWIO', 'NDHWC'), ((1, 1),) * 3
  return jax.lax.conv_general_dilated(
    x, kernel, (stride,) * 3, around, dimension_numbers=numbers
  )


class Doubling(nn.Module):
  """Transposed 4 x 4 x 4 convolution of stride 2: twice the resolution.

  Of each axis's two output positions each sees two inputs, through two of the
  kernel's four values: all eight kinds of positions are outputs of one plain
  2 x 2 x 2 convolution. Compilers do that much faster on CPU than the dilated
  one that it equals.

  Attributes:
    features: output channels.
  """

  features: int

  @nn.compact
  def __call__(
    self, x: Volumes
  ) -> Float[Array, 'N 2*D 2*H 2*W {self.features}']:
    """Doubles all sides, in float32."""
    shape = (4, 4, 4, x.shape[-1], self.features)
    kernel = self.param('kernel', KERNEL_INIT, shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    # (value, position) of each axis; then positions become channels.
    parts = kernel.reshape(2, 2, 2, 2, 2, 2, *shape[3:])
    parts = parts.transpose(0, 2, 4, 6, 1, 3, 5, 7)
    found = _convolve(x, parts.reshape(2, 2, 2, x.shape[-1], -1), 1)
    found = found.reshape(*found.shape[:-1], 2, 2, 2, self.features)
    for axis in (1, 2, 3):
      found = _interleave(found, axis)
    return found + bias


class Conv3(nn.Module):
  """3 x 3 x 3 convolution with zero padding and bias.

  Without a stride it is the sum of three convolutions of slices, one for each
  slice of the kernel: the same numbers, and on CPU several times faster.

  Attributes:
    features: output channels.
    stride: 1 or 2.
    dtype: of the computation; parameters are float32.
    start: the kernel's initializer.
  """

  features: int
  stride: int = 1
  dtype: DTypeLike = jnp.float32
  start: nn.initializers.Initializer = KERNEL_INIT

  @nn.compact
  def __call__(self, x: Volumes) -> Float[Array, 'N _ _ _ {self.features}']:
    """Convolves; each side is divided by the stride."""
    shape = (3, 3, 3, x.shape[-1], self.features)
    kernel = self.param('kernel', self.start, shape).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x = x.astype(self.dtype)
    if self.stride > 1:
      found = _convolve(x, kernel, self.stride)
    else:
      depth, slices = x.shape[1], x.shape[2:]
      padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
      # Three neighbours as one image of three times the channels.
      beside = jnp.concatenate(
        [padded[:, k : k + depth].reshape(-1, *slices) for k in range(3)], -1
      )
      rows = jnp.concatenate(list(kernel), 2)
      found = convolve(beside, rows).reshape(*x.shape[:-1], self.features)
    return found + bias.astype(self.dtype)


class Unit(nn.Module):
  """3 x 3 x 3 convolution, instance norm, leaky ReLU."""

  features: int
  stride: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Volumes) -> Float[Array, 'N _ _ _ {self.features}']:
    """Each side is divided by the stride."""
    x = Conv3(self.features, self.stride, self.dtype)(x)
    return nn.leaky_relu(InstanceNorm()(x), _SLOPE)


class Encoder(nn.Module):
  """Features of one modality's volumes; w = 32 is the published width."""

  width: int = 32
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'N D H W 1']) -> Scales:
    """Features of w/8, w/2 and w channels at 1/2, 1/4 and 1/8.

    Raises:
      ValueError: a side that does not divide by 8.
    """
    if any(side % 8 for side in x.shape[1:4]):
      raise ValueError(
        f'volumes of {" x ".join(map(str, x.shape[1:4]))} voxels: each side'
        ' must divide by 8; change mass.depth or data.slice_size'
      )
    w, found = self.width, []
    for features, count in ((max(1, w // 8), 1), (w // 2, 3), (w, 3)):
      for index in range(count):
        stride = 1 if index else 2
        x = Unit(features, stride, self.dtype)(x)
      found.append(x)
    return tuple(found)


class Decoder(nn.Module):
  """From both volumes' features to the flow that moves source to target."""

  width: int = 32
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, source: Scales, target: Scales
  ) -> Float[Array, 'N D H W 3']:
    """Features of `Encoder` to a flow in float32 voxels."""
    width = self.width
    flow: Any = None
    features: Any = None
    for level, channels in ((2, 3), (1, 2 * width), (0, None)):
      ours, theirs = (x[level].astype(jnp.float32) for x in (source, target))
      if flow is not None:
        ours = warp(ours, flow)
      x = nn.leaky_relu(cost_volume(ours, theirs), _SLOPE)
      if flow is not None:
        x = jnp.concatenate([x, theirs, flow, features], -1)
      x = Unit(width, 1, self.dtype)(x.astype(self.dtype)).astype(jnp.float32)
      flow = Conv3(3, start=_FLOW_INIT)(x)
      flow = Doubling(3)(flow)
      if channels:
        features = Doubling(channels)(x)
    return flow


class Head(nn.Module):
  """Vectors of a volume's channels, which contrastive learning compares."""

  width: int = 32
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'N d h w {self.width}']
  ) -> Float[Array, 'N 2*{self.width} 4*{self.width}']:
    """Unit vectors, one for each channel of the coarsest features."""
    w = self.width
    x = Conv3(2 * w, 2, self.dtype)(x)
    x = x.astype(jnp.float32).reshape(len(x), -1, x.shape[-1]).swapaxes(1, 2)
    for index, features in enumerate((16 * w, 16 * w, 8 * w, 4 * w)):
      x = nn.Dense(features)(nn.relu(x) if index else x)
    # Not `norm`, whose gradient at 0 is no number.
    length = jnp.sqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + 1e-12)
    return x / length
