"""How well images fit a modality, by what its rows of the banks know.

A scan of another modality gives activations that the modality's running
statistics do not expect, and embeddings that are far from its prototypes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dbdc_jax.models.convolution import JoinedConv
from dbdc_jax.models.unet import UNet

_EPSILON = 1e-5


def normal_divergence(
  mean: jax.Array, var: jax.Array, known_mean: jax.Array, known_var: jax.Array
) -> jax.Array:
  """KL(normal(mean, var) || normal(known_mean, known_var)), elementwise."""
  var, known_var = var + _EPSILON, known_var + _EPSILON
  off = jnp.square(mean - known_mean)
  return 0.5 * (jnp.log(known_var / var) + (var + off) / known_var - 1)


def _forward(net: UNet, x, modality):
  features = net.encode(x, modality, False)
  taps = net.decode(features, modality, False)
  return net.head(taps[-1], modality, False), taps


def statistics_gap(
  net: UNet, variables: Any, images: jax.Array, modality: jax.Array
) -> tuple[jax.Array, Any, jax.Array]:
  """The network's outputs, and how far its activations are from the bank's.

  In each layer in front of a modulation, each channel's mean and variance over
  all images are held against the modality's running ones: the divergence
  KL(images || running) of two normal distributions, averaged over channels and
  then layers.

  Args:
    net: the network, not grouped.
    variables: its parameters and modulation statistics.
    images: `[n, H, W, 1]` in [0, 1], of one scan.
    modality: `[n]` int32, all equal.

  Returns:
    Logits `[n, H, W, C]`, the decoder's taps, and the gap: 0 is a perfect fit.
  """
  (logits, taps), state = net.apply(
    variables,
    images,
    modality,
    method=_forward,
    capture_intermediates=lambda module, _: isinstance(module, JoinedConv),
  )
  gaps = []
  layers = state['intermediates']
  for name, known in variables['modulation'].items():
    # (output without its bias, the bias).
    x, bias = layers[name]['conv']['__call__'][0]
    x = x.astype(jnp.float32)
    row = 0 if known['modulation']['mean'].shape[0] == 1 else modality[0]
    here = jnp.mean(x, (0, 1, 2))
    spread = jnp.mean(jnp.square(x - here), (0, 1, 2))
    mean, var = (known['modulation'][k][row] for k in ('mean', 'var'))
    gaps.append(jnp.mean(normal_divergence(here + bias, spread, mean, var)))
  return logits, taps, jnp.mean(jnp.stack(gaps))


def prototype_similarity(
  embeddings: jax.Array, classes: jax.Array, bank: jax.Array
) -> jax.Array:
  """Mean cosine of foreground pixels with the prototype of their class.

  Args:
    embeddings: `[n, h, w, D]` unit vectors.
    classes: `[n, h, w]` predicted classes.
    bank: `[C, D]` the modality's prototypes.

  Returns:
    Scalar; -1 where nothing is foreground.
  """
  cosine = jnp.sum(embeddings * bank[classes], -1)
  found = classes > 0
  total = jnp.sum(jnp.where(found, cosine, 0.0))
  count = jnp.sum(found)
  return jnp.where(count > 0, total / jnp.maximum(count, 1), -1.0)
