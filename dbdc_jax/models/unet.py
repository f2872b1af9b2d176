"""The U-Net that all modalities share (method page, section "The network").

  conv0  1     1 -> w        u3  1/4  [x3, up(m)]  -> 8w (x4)
  d1     1     w -> 2w (x1)  u2  1/2  [x2, up(x4)] -> 4w (x5)
  d2     1/2  2w -> 4w (x2)  u1  1    [x1, up(x5)] -> 2w (x6)
  d3     1/4  4w -> 8w (x3)  head  1  2w -> (2w ->) w -> classes
  mid    1/8  8w -> 8w (m)

with w = `width` (32 in the paper), and every normalisation a `ModulationBank`.
Encoder: conv0 to d3; bottleneck: mid; decoder: u3 to the head.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dbdc_jax.models.convolution import JoinedConv
from dbdc_jax.models.gradients import upsample
from dbdc_jax.models.modulation import ModulationBank
from dbdc_jax.ops.shapes import Features, Ids, Keys, Slices

# Of the encoder (x1, x2, x3, m) and of the decoder (x4, x5, x6).
Encoded = tuple[Array, Array, Array, Array]
Decoded = tuple[Array, Array, Array]
Logits = Float[Array, 'N H W {self.num_classes}']

LEAKY_SLOPE = 0.01
# The paper's Table IV: in which parts each modality has its own modulation. In
# the others one batch norm serves all, each modality's pass on its own;
# 'mixed' is one batch norm over the samples of all modalities together.
MODULATIONS = {
  'none': (),
  'encoder': ('encoder',),
  'encoder+bottleneck': ('encoder', 'bottleneck'),
  'all': ('encoder', 'bottleneck', 'decoder'),
  'mixed': (),
}


def max_pool(x: Features) -> Float[Array, 'N H//2 W//2 c']:
  """2 x 2 maximum, by reshaping: its gradient has no scatter."""
  n, h, w, c = x.shape
  return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


class ConvNorm(nn.Module):
  """3 x 3 convolution, modulation, leaky ReLU."""

  features: int
  num_modalities: int
  grouped: bool
  passes: int
  dtype: DTypeLike
  shared: bool = False

  @nn.compact
  def __call__(
    self,
    inputs: Float[Array, 'N H W _'] | tuple[Float[Array, 'N H W _'], ...],
    modality: Ids,
    train: bool,
  ) -> Float[Array, 'N H W {self.features}']:
    """One input, or several as if they were concatenated."""
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    x, bias = JoinedConv(self.features, self.dtype, name='conv')(*inputs)
    return ModulationBank(
      self.num_modalities,
      grouped=self.grouped,
      passes=self.passes,
      slope=LEAKY_SLOPE,
      shared=self.shared,
      name='modulation',
    )(x, modality, train, bias)


class UNet(nn.Module):
  """The network.

  Attributes:
    num_classes: C, background included.
    num_modalities: K; 1 makes every normalisation plain batch norm.
    width: channels of the first convolution.
    extra_head: DBDC's additional convolution in the head.
    grouped: training batches are sorted by modality with equal counts.
    passes: a training batch is so many of these (`ModulationBank`).
    dtype: of activations; parameters, statistics and logits are float32.
    modulation: a key of `MODULATIONS`; without effect where K is 1.
  """

  num_classes: int
  num_modalities: int
  width: int = 32
  extra_head: bool = False
  grouped: bool = False
  passes: int = 1
  dtype: DTypeLike = jnp.float32
  modulation: str = 'all'

  def setup(self):
    """Makes the layers of the module's table."""
    w, modulation = self.width, self.modulation

    def layer(features, part):
      return ConvNorm(
        features,
        1 if modulation == 'mixed' else self.num_modalities,
        self.grouped,
        self.passes,
        self.dtype,
        shared=part not in MODULATIONS[modulation],
      )

    block = lambda features, part: [layer(features, part) for _ in range(2)]
    encoder, bottleneck, decoder = 'encoder', 'bottleneck', 'decoder'
    self.conv0 = layer(w, encoder)
    self.d1, self.d2 = block(2 * w, encoder), block(4 * w, encoder)
    self.d3 = block(8 * w, encoder)
    self.mid = block(8 * w, bottleneck)
    self.u3, self.u2 = block(8 * w, decoder), block(4 * w, decoder)
    self.u1 = block(2 * w, decoder)
    extra = [layer(2 * w, decoder)] * self.extra_head
    self.head_layers = [*extra, layer(w, decoder)]
    self.logits = JoinedConv(self.num_classes, self.dtype)

  def _chain(self, layers, x, modality, train):
    for layer in layers:
      x = layer(x, modality, train)
    return x

  def encode(self, x: Slices, modality: Ids, train: bool) -> Encoded:
    """Encoder.

    Args:
      x: in [0, 1]; H and W divisible by 8.
      modality: of each image.
      train: use batch statistics.

    Returns:
      (x1, x2, x3, m) at 1, 1/2, 1/4 and 1/8 of the resolution.

    Raises:
      ValueError: for a size that does not divide by 8.
    """
    if x.shape[1] % 8 or x.shape[2] % 8:
      raise ValueError(
        f'images of {x.shape[1]} x {x.shape[2]} pixels: both sides must'
        ' divide by 8 (three poolings)'
      )
    x = self.conv0(x.astype(self.dtype), modality, train)
    x1 = self._chain(self.d1, x, modality, train)
    x2 = self._chain(self.d2, max_pool(x1), modality, train)
    x3 = self._chain(self.d3, max_pool(x2), modality, train)
    m = self._chain(self.mid, max_pool(x3), modality, train)
    return x1, x2, x3, m

  def decode(self, features: Encoded, modality: Ids, train: bool) -> Decoded:
    """Decoder: (x1, x2, x3, m) to (x4, x5, x6) at 1/4, 1/2 and 1."""
    x1, x2, x3, m = features
    x4 = self._chain(self.u3, (x3, upsample(m)), modality, train)
    x5 = self._chain(self.u2, (x2, upsample(x4)), modality, train)
    x6 = self._chain(self.u1, (x1, upsample(x5)), modality, train)
    return x4, x5, x6

  def head(self, x6: Features, modality: Ids, train: bool) -> Logits:
    """Segmentation head: float32 logits."""
    x = self._chain(self.head_layers, x6, modality, train)
    logits, bias = self.logits(x)
    return logits.astype(jnp.float32) + bias

  def __call__(self, x: Slices, modality: Ids, train: bool) -> Logits:
    """Images to float32 logits."""
    features = self.encode(x, modality, train)
    taps = self.decode(features, modality, train)
    return self.head(taps[-1], modality, train)


def drop_bottleneck(
  features: tuple[Float[Array, 'N _ _ _'], ...], keys: Keys, rate: float
) -> tuple[Float[Array, 'N _ _ _'], ...]:
  """Drops bottleneck elements, keeping the mean (inverted scaling; eq 19).

  Args:
    features: of `UNet.encode`, the bottleneck last.
    keys: one for each sample.
    rate: share of the elements that become 0.
  """
  *skips, m = features
  keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, m.shape[1:]))(
    keys
  )
  return (*skips, jnp.where(keep, m / (1 - rate), jnp.zeros_like(m)))
