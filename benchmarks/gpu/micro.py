"""Parts `micro` and `arena`: forms chosen on a CPU, beside others.

Forward and backward of one construction at a time, at the sizes of the heart's
step. What the project has is marked `(here)`; it looks into modules whose forms
are not public.
"""

from collections.abc import Callable
import re
import sys
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from benchmarks.gpu import clock, plan, workspace
from dbdc_jax.models import gradients, projector, unet
from dbdc_jax.ops import sinkhorn

_CLASSES = 8
# Two modalities in each of three passes.
_GROUPS = 6
_EPSILON, _SLOPE = 1e-5, 0.01
# Seconds that must be left to begin another form.
_NEEDED = 15


class _Bench:
  """Sizes, random arrays, and what is found."""

  def __init__(self, context: plan.Context, found: plan.Found):
    self._context, self._found = context, found
    # Slices of three passes of two modalities, their side, and the width.
    self.n, self.side, self.width = (6, 16, 4) if context.tiny else (48, 96, 32)
    self.dtype = jnp.float32 if context.tiny else jnp.bfloat16

  def draw(self, *shape: int) -> jax.Array:
    """Normal numbers."""
    x = jax.random.normal(jax.random.key(0), shape, jnp.float32)
    return x.astype(self.dtype)

  def images(self, part: int, channels: int) -> jax.Array:
    """Features `[n, side / part, side / part, channels]`."""
    return self.draw(self.n, self.side // part, self.side // part, channels)

  def kernel(self, inputs: int, outputs: int) -> jax.Array:
    """A 3 x 3 kernel."""
    x = self.draw(3, 3, inputs, outputs)
    return (x / (3 * inputs**0.5)).astype(self.dtype)

  def say(self, label: str, seconds: float, flops: float = 0.0) -> None:
    """Takes a time down."""
    self._found['ms'][label] = 1e3 * seconds
    rate = f', {flops / seconds / 1e12:.0f} TFLOP/s' if flops else ''
    self._found['lines'].append(f'{label:46s}{1e3 * seconds:8.3f} ms{rate}')
    self._found.save()

  def gradient(
    self,
    label: str,
    function: Callable[..., jax.Array],
    *args: jax.Array,
    flops: float = 0.0,
  ) -> None:
    """Times forward and backward of a function of all its arguments."""
    if self._context.left() < _NEEDED:
      return
    scalar = lambda *a: jnp.sum(function(*a).astype(jnp.float32) ** 2)
    call = jax.jit(jax.grad(scalar, tuple(range(len(args)))))
    number = 5 if self._context.tiny else 20
    try:
      _, piped = clock.seconds(lambda: call(*args), number)
    except Exception as error:
      self._found['ms'][label] = f'failed: {str(error)[:200]}'
    else:
      self.say(label, piped, flops)


def _convolve(x, kernel):
  """The plain convolution."""
  numbers = ('NHWC', 'HWIO', 'NHWC')
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=numbers
  )


def _convolutions(bench: _Bench) -> None:
  """What a convolution of this network reaches at best."""
  w = bench.width
  shapes = [
    (i * w, o * w, part)
    for i, o, part in ((2, 2, 1), (4, 4, 2), (8, 8, 4), (1, 2, 1), (6, 2, 1))
  ]
  for i, o, part in [*shapes, (1, w, 1), (w, _CLASSES, 1)]:
    size = bench.side // part
    flops = 3 * 2 * 9 * bench.n * size**2 * i * o
    images, kernel = bench.images(part, i), bench.kernel(i, o)
    label = f'conv {i}->{o} at {size}'
    bench.gradient(label, _convolve, images, kernel, flops=flops)


def _decoder(bench: _Bench) -> None:
  """The decoder's two inputs apart, or concatenated."""
  w = bench.width
  inputs = (bench.images(1, 2 * w), bench.images(1, 4 * w))
  kernels = (bench.kernel(2 * w, 2 * w), bench.kernel(4 * w, 2 * w))

  def apart(a, b, ka, kb):
    return gradients.convolve(a, ka) + gradients.convolve(b, kb)

  def concatenated(a, b, ka, kb):
    kernel = jnp.concatenate([ka, kb], 2)
    return _convolve(jnp.concatenate([a, b], -1), kernel)

  bench.gradient('decoder inputs apart (here)', apart, *inputs, *kernels)
  bench.gradient('decoder inputs concatenated', concatenated, *inputs, *kernels)


def _interpolations(bench: _Bench) -> None:
  """Bilinear interpolation of the decoder and of the projector."""
  w, side = bench.width, bench.side
  half, quarter = bench.images(2, 4 * w), bench.images(4, 14 * w)
  bench.gradient('upsample, stencil (here)', gradients.upsample, half)
  resize = lambda x: jax.image.resize(x, (bench.n, side, side, 4 * w), 'linear')
  bench.gradient('upsample, jax.image.resize', resize, half)
  takes = lambda x: projector.upsample_to(x, (side, side), 1)
  bench.gradient('projector upsample x4, takes (here)', takes, quarter)
  matrix = jnp.asarray(projector.aligned_matrix(side // 4, side), bench.dtype)
  products = lambda x: jnp.einsum('ah,bw,nhwc->nabc', matrix, matrix, x)
  bench.gradient('projector upsample x4, matrix products', products, quarter)


def _plain_modulation(x, scale, bias):
  """One pass over the data for both moments; the gradient is autodiff's."""
  y = x.reshape(len(scale), -1, *x.shape[1:]).astype(jnp.float32)
  mean = y.mean((1, 2, 3), keepdims=True)
  var = jnp.mean(y * y, (1, 2, 3), keepdims=True) - mean**2
  factor = scale[:, None, None, None] * lax.rsqrt(var + _EPSILON)
  y = y * factor + (bias[:, None, None, None] - mean * factor)
  return jax.nn.leaky_relu(y, _SLOPE).astype(x.dtype).reshape(x.shape)


def _modulations(bench: _Bench) -> None:
  """Modulation with leaky ReLU: the gradient written out, or autodiff's."""
  groups = gradients.Groups(_GROUPS, _EPSILON, True, _SLOPE)
  x = bench.images(1, 2 * bench.width)
  scale = jnp.ones((_GROUPS, 2 * bench.width))
  ids = jnp.repeat(jnp.arange(_GROUPS), bench.n // _GROUPS)

  def written(x, scale, bias):
    return gradients.normalize(groups, x, scale, bias, ids)[0]

  affine, wide = (scale, 0 * scale), x.astype(jnp.float32)
  label = 'modulation, gradient written out (here)'
  bench.gradient(label, written, x, *affine)
  label = 'modulation, plain moments, autodiff'
  bench.gradient(label, _plain_modulation, x, *affine)
  bench.gradient('the same in float32 (here)', written, wide, *affine)
  bench.gradient('pool by reshaping (here)', unet.max_pool, x)


def _assignment(bench: _Bench) -> None:
  """Sinkhorn-Knopp, which has no gradient."""
  shape = (bench.n * bench.side**2, _CLASSES)
  scores = jax.random.normal(jax.random.key(0), shape) / 3
  call = jax.jit(lambda scores: sinkhorn.sinkhorn(scores))
  _, piped = clock.seconds(lambda: call(scores), 10)
  bench.say('sinkhorn, one modality', piped)


def measure(context: plan.Context, name: str, found: plan.Found) -> None:
  """Times each form."""
  del name
  found.update(ms={}, lines=[])
  bench = _Bench(context, found)
  _convolutions(bench)
  _decoder(bench)
  _interpolations(bench)
  _modulations(bench)
  _assignment(bench)


_COMPILE = """
import sys
if sys.argv[1] == 'keep':
  from dbdc_jax.runtime import memory
  memory.keep()
from dbdc_jax.benchmarking import steps, workload
patch, batch, width = map(int, sys.argv[2:])
found = workload.Workload(
  method='supervised', patch=patch, batch=batch, width=width
)
print('seconds', steps.CompiledStep(workload.make(found)).seconds)
"""


def _compile_seconds(context: plan.Context, how: str) -> Any:
  """Seconds in a process of its own, or the end of what it said."""
  size = (16, 2, 4) if context.tiny else (96, 8, 32)
  done = workspace.run(
    [sys.executable, '-c', _COMPILE, how, *size],
    max(10, context.left() - 5),
    JAX_ENABLE_COMPILATION_CACHE='false',
  )
  said = re.search(r'seconds ([\d.]+)', done.stdout)
  return float(said.group(1)) if said else done.stderr[-500:]


def measure_arena(context: plan.Context, name: str, found: plan.Found) -> None:
  """Compile time with the one malloc arena of `main`, and without."""
  del name
  found['lines'] = []
  for how in ('plain', 'keep'):
    found[how] = _compile_seconds(context, how)
    found['lines'].append(f'compile seconds, {how}: {found[how]}')
    found.save()
