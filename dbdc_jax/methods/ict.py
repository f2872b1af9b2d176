"""Interpolation consistency training (row "ICT" of the paper's Table II).

Verma, Kawaguchi, Lamb, Kannala, Solin, Bengio, Lopez-Paz, "Interpolation
consistency training for semi-supervised learning" (2022). Unlabelled slices are
mixed in pairs, and the student's answer to the mixture should be the mixture of
the mean teacher's answers:

  u = (1 - s) u_0 + s u_1,   s ~ Beta(0.2, 0.2) for each pair
  J = mean |softmax_student(u) - (1 - s) softmax_teacher(u_0)
                               - s softmax_teacher(u_1)|^2

over pixels and classes, added to (CE + Dice) / 2 with the weight w(t). The
student sees labelled slices and mixtures, the teacher (`teacher.py`) slices
without noise. The student is validated and tested.

The common code pairs the first half of the unlabelled slices with the second;
here a slice is mixed with its neighbour in the batch (2 i with 2 i + 1), which
is as random and stays within a device, whose number of slices has to be even.
There, the teacher sees u_0 and u_1 in two passes with statistics of their own;
here in one.
"""

import functools

import jax
from jaxtyping import Array, Float, Key

from dbdc_jax.methods.common import passes, plain
from dbdc_jax.methods.mean_teacher import student


def shares(keys: Key[Array, 'K b'], parameter: float) -> Float[Array, 'K b//2']:
  """The share s of each pair's second slice.

  Args:
    keys: the samples'; a pair draws with its first one's.
    parameter: both of the Beta distribution's.

  Returns:
    In [0, 1].

  Raises:
    ValueError: b is odd.
  """
  passes.check_pairs('ict', keys)
  draw = lambda key: jax.random.beta(key, parameter, parameter)
  return jax.vmap(jax.vmap(draw))(keys[:, ::2])


def mix(
  x: Float[Array, 'K b *rest'], share: Float[Array, 'K b//2']
) -> Float[Array, 'K b//2 *rest']:
  """Mixes neighbours."""
  share = share.reshape(*share.shape, *(1,) * (x.ndim - 2))
  return (1 - share) * x[:, ::2] + share * x[:, 1::2]


def _loss(step, params, memory):
  views = passes.views(step)
  share = shares(views.keys, step.config.ssl.mix)
  p = passes.probabilities(
    step, memory['teacher'], memory['modulation'], views.weak, views.possible
  )
  mixed = views._replace(weak=mix(views.weak, share))
  return student(step, params, memory, mixed, mix(p, share))


build = functools.partial(plain.build, loss=_loss, taught=True, multiple=2)
