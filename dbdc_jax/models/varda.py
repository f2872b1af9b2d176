"""The networks of VarDA: a U-Net with latents, and decoders that draw images.

  encoder    five levels n, 2n, 4n, 8n, 16n, each two Conv3-norm-ReLU; 2 x 2
             maxima between them
  decoder    levels 8n to n: 2 x 2 transposed convolution, beside the encoder's
             level; two Conv3-norm-ReLU; half the channels dropped behind the
             first, in all but the second level
  latents    of the levels 4n, 2n and n (1/4, 1/2 and 1 of the resolution), from
             a level's output h, and the decoder goes on from z:
               mean = tanh(norm(h * Conv1(h -> 1)))
               log variance = tanh(norm(Conv3(h)))
               z = mean + standard deviation * noise
  heads      1/4 and 1/2: Conv3 to the classes; 1: Conv3-norm-ReLU, Conv3
  fusion     the three softmaxes at full size: Conv3-norm-ReLU, Conv3
  drawing    for each domain and latent, from z beside a map of the classes:
             Conv3 to 2n, 2n, n, n, n/2, n/2, each with batch norm and ReLU;
             Conv3 to the image

with n = 2 `width` (64 in the published network). The other norms are instance
norms without parameters.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from dbdc_jax.models.blocks import Doubling, Layer, Upsample, check_sides
from dbdc_jax.models.convolution import JoinedConv
from dbdc_jax.models.instance_norm import InstanceNorm
from dbdc_jax.models.unet import max_pool
from dbdc_jax.ops.shapes import Keys, Slices

LEVELS = 5
SCALES = 3
DOMAINS = 2
_DROPPED = 0.5
# The decoder's levels, deepest first, that drop no channel.
_WHOLE = (1,)


class Latent(NamedTuple):
  """What a level of the decoder is described by."""

  mean: Float[Array, 'N h w c']
  log_variance: Float[Array, 'N h w c']
  value: Float[Array, 'N h w c']


class Found(NamedTuple):
  """What the segmenter makes of images.

  Attributes:
    latents: of 1/4, 1/2 and 1 of the resolution.
    logits: of the same.
    fused: logits, the network's answer.
  """

  latents: list[Latent]
  logits: list[Float[Array, 'N h w C']]
  fused: Float[Array, 'N H W C']


def _conv(
  conv: JoinedConv, *inputs: Float[Array, 'N H W _']
) -> Float[Array, 'N H W features']:
  """A convolution with its bias."""
  x, bias = conv(*inputs)
  return x + bias.astype(x.dtype)


def _drawn(
  keys: Keys, number: int, draw: Callable[[Array], Array]
) -> Shaped[Array, 'N ...']:
  """`draw(key)` of every sample; `number` tells the draws apart."""
  return jax.vmap(lambda key: draw(jax.random.fold_in(key, number)))(keys)


class InstanceLayer(nn.Module):
  """3 x 3 convolution, instance norm, ReLU."""

  features: int
  dtype: DTypeLike

  def setup(self):
    """Makes the convolution and the norm."""
    self.conv = JoinedConv(self.features, self.dtype)
    self.norm = InstanceNorm()

  def __call__(
    self, *inputs: Float[Array, 'N H W _']
  ) -> Float[Array, 'N H W {self.features}']:
    """Convolves the inputs as if they were concatenated."""
    return nn.relu(self.norm(_conv(self.conv, *inputs)))


class LatentLayer(nn.Module):
  """From a level's features to its latent."""

  features: int
  dtype: DTypeLike

  def setup(self):
    """Makes the layers of the module's table."""
    self.attention = nn.Dense(1, dtype=self.dtype)
    self.spread = JoinedConv(self.features, self.dtype)
    self.mean_norm, self.spread_norm = InstanceNorm(), InstanceNorm()

  def __call__(
    self,
    h: Float[Array, 'N h w {self.features}'],
    keys: Keys | None,
    number: int,
  ) -> Latent:
    """The latent; without keys its value is the mean."""
    mean = jnp.tanh(self.mean_norm(h * self.attention(h)))
    log_variance = jnp.tanh(self.spread_norm(_conv(self.spread, h)))
    if keys is None:
      return Latent(mean, log_variance, mean)
    draw = lambda key: jax.random.normal(key, h.shape[1:], h.dtype)
    noise = _drawn(keys, number, draw)
    return Latent(mean, log_variance, mean + jnp.exp(log_variance / 2) * noise)


class Segmenter(nn.Module):
  """Encoder, decoder, latents, heads and fusion; see the module.

  Attributes:
    num_classes: C, background included.
    width: half the channels of the first level.
    dtype: of activations; parameters and logits are float32.
  """

  num_classes: int
  width: int
  dtype: DTypeLike

  def setup(self):
    """Makes the layers of the module's table, deepest decoder level first."""
    widths = [2 * self.width * 2**level for level in range(LEVELS)]
    below = widths[-2::-1]
    layer = lambda features: InstanceLayer(features, self.dtype)
    classes = lambda count: JoinedConv(count, self.dtype)
    self.encoder = [[layer(w), layer(w)] for w in widths]
    self.up = [Doubling(w, self.dtype) for w in below]
    self.decoder = [[layer(w), layer(w)] for w in below]
    self.latent = [LatentLayer(w, self.dtype) for w in below[-SCALES:]]
    self.heads = [classes(self.num_classes) for _ in range(SCALES)]
    self.last = layer(widths[0])
    self.fusion = layer(SCALES * self.num_classes)
    self.fused = classes(self.num_classes)
    self.double = Upsample()

  def _encode(self, images):
    """The levels, finest first."""
    x, levels = images.astype(self.dtype), []
    for level, (first, second) in enumerate(self.encoder):
      x = max_pool(x) if level else x
      x = second(first(x))
      levels.append(x)
    return levels

  def _level(self, index, x, skip, keys):
    """A level of the decoder, up to the features of its latent."""
    first, second = self.decoder[index]
    x = first(self.up[index](x), skip)
    if keys is not None and index not in _WHOLE:
      draw = lambda key: jax.random.bernoulli(
        key, 1 - _DROPPED, (1, 1, x.shape[-1])
      )
      kept = _drawn(keys, index, draw)
      x = jnp.where(kept, x / (1 - _DROPPED), 0)
    return second(x)

  def _fuse(self, logits):
    """One answer from the scales' logits."""
    maps = []
    for index, x in enumerate(logits):
      x = jax.nn.softmax(x).astype(self.dtype)
      for _ in range(SCALES - 1 - index):
        x = self.double(x)
      maps.append(x)
    return _conv(self.fused, self.fusion(*maps)).astype(jnp.float32)

  def __call__(self, images: Slices, keys: Keys | None = None) -> Found:
    """Segments images.

    Args:
      images: in [0, 1]; H and W divisible by 16.
      keys: one of each sample's; None leaves noise and dropout out.

    Raises:
      ValueError: for a size that does not divide by 16.
    """
    check_sides(images, LEVELS - 1)
    levels = self._encode(images)
    x, latents, logits = levels[-1], [], []
    plain = LEVELS - 1 - SCALES
    for index, skip in enumerate(levels[-2::-1]):
      x = self._level(index, x, skip, keys)
      if index < plain:
        continue
      scale = index - plain
      latent = self.latent[scale](x, keys, LEVELS + index)
      x = latent.value
      latents.append(latent)
      seen = self.last(x) if scale == SCALES - 1 else x
      logits.append(_conv(self.heads[scale], seen).astype(jnp.float32))
    return Found(latents, logits, self._fuse(logits))


class Drawer(nn.Module):
  """From a latent and a map of the classes to the image, of one domain."""

  width: int
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self,
    value: Float[Array, 'N h w c'],
    classes: Shaped[Array, 'N h w C'],
    train: bool,
  ) -> Float[Array, 'N h w 1']:
    """Draws.

    Args:
      value: of the latent.
      classes: probabilities, or one of each pixel.
      train: use batch statistics.

    Returns:
      Float32, before the sigmoid.
    """
    inputs: tuple[Array, ...] = (value, classes.astype(self.dtype))
    for times in (4, 4, 2, 2, 1, 1):
      layer = Layer(times * self.width, self.dtype)
      inputs = (layer(*inputs, train=train),)
    return _conv(JoinedConv(1, self.dtype), *inputs).astype(jnp.float32)


class VarDA(nn.Module):
  """The segmenter and the drawing decoders of both domains.

  Attributes:
    num_classes: C, background included.
    width: half the channels of the first level.
    dtype: of activations; parameters, statistics and outputs are float32.
    domains: for how many there are decoders.
  """

  num_classes: int
  width: int = 32
  dtype: DTypeLike = jnp.float32
  domains: int = DOMAINS

  def setup(self):
    """Makes both."""
    self.segmenter = Segmenter(self.num_classes, self.width, self.dtype)
    self.drawers = [
      [Drawer(self.width, self.dtype) for _ in range(SCALES)]
      for _ in range(self.domains)
    ]

  def segment(self, images: Slices, keys: Keys | None = None) -> Found:
    """See `Segmenter`."""
    return self.segmenter(images, keys)

  def draw(
    self,
    values: Sequence[Float[Array, 'N _ _ _']],
    classes: Sequence[Shaped[Array, 'N _ _ _']],
    domain: int,
    train: bool,
  ) -> list[Float[Array, 'N _ _ 1']]:
    """Images of each scale, before the sigmoid; see `Drawer`."""
    drawers = self.drawers[domain]
    return [
      drawer(value, shown, train)
      for drawer, value, shown in zip(drawers, values, classes, strict=True)
    ]

  def __call__(self, images: Slices, train: bool) -> list[list[Array]]:
    """Every part once, as far as parameters go: all domains' images."""
    found = self.segment(images)
    values = [latent.value for latent in found.latents]
    shown = [jax.nn.softmax(x) for x in found.logits]
    return [
      self.draw(values, shown, domain, train) for domain in range(self.domains)
    ]
