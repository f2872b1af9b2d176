"""The prototype bank in a DBDC step: MPCL of all passes, and the bank's update.

The paper's equations 4 to 12 on a step's passes; what they are of arrays is in
`ops/prototypes.py`.
"""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from dbdc_jax.methods.common import base, supervision
from dbdc_jax.methods.common.four_passes import Passes
from dbdc_jax.methods.common.networks import Step
from dbdc_jax.ops import losses, prototypes
from dbdc_jax.ops.prototypes import Prototypes
from dbdc_jax.ops.shapes import Present
from dbdc_jax.runtime import over_devices


def _strided(
  step: Step, labels: Shaped[Array, '*passes K b H W']
) -> Shaped[Array, '*passes K n']:
  """Labels, or what else pixels have, at the embeddings' pixels."""
  stride = step.config.mpcl.stride
  labels = labels[..., ::stride, ::stride]
  return labels.reshape(*labels.shape[:-3], -1)


def _there(
  step: Step, labels: Shaped[Array, '*passes K n']
) -> tuple[Present, Bool[Array, '*passes K n'] | bool]:
  """Classes that have prototypes, and pixels whose label is one of them."""
  present = step.signals.prototyped
  if present is None:
    return step.signals.present, True
  chosen = losses.one_hot(labels, present.shape[-1])
  return present, jnp.any(chosen & present[:, None], -1)


def terms(
  step: Step, params: Any, memory: Any, passes: Passes
) -> dict[str, Float[Array, 'P K']]:
  """The MPCL terms of all passes, each with its weight (eq 12).

  They are of the bank from before this step.

  Returns:
    By term, 0 for one that is off; empty without MPCL.
  """
  settings, signals = step.config.mpcl, step.signals
  if not settings.enabled:
    return {}
  count = len(passes.names)
  # The norm's gradient from what must not act yet is selected away, too.
  acts = jnp.array([True] + [False] * (count - 1)) | signals.active
  norm = supervision.gate(
    {
      name: jnp.broadcast_to(value, (count, *value.shape))
      for name, value in params['prototype_norm'].items()
    },
    acts[:, None],
  )

  bank = memory['prototypes']
  bank = bank._replace(ready=bank.ready & signals.reading.bank)

  def of_pass(embeddings, labels, sure, norm):
    return prototypes.mpcl_terms(
      bank,
      embeddings,
      labels,
      present,
      **norm,
      temperature=settings.temperature,
      across=signals.reading.across,
      sure=sure,
    )

  labels = _strided(step, jnp.stack(passes.targets))
  present, there = _there(step, labels)
  sure = _strided(step, jnp.stack(passes.sure)) & there
  found = jax.vmap(of_pass)(passes.seen.embeddings, labels, sure, norm)
  # Of the labelled pass, then of each unlabelled one.
  rows = signals.reading.mpcl[jnp.minimum(jnp.arange(count), 1)]
  weights = dict(zip(base.TERMS, rows.T[..., None], strict=True))
  on = {k: weight > 0 for k, weight in weights.items()}
  return {
    k: jnp.where(on[k], weights[k] * supervision.gate(value, on[k]), 0.0)
    for k, value in found.items()
  }


def update(
  step: Step, bank: Prototypes, passes: Passes
) -> tuple[Prototypes, dict[str, jax.Array]]:
  """Start, assignment and update of the prototypes (eq 4 to 7).

  Args:
    step: what the method was given.
    bank: the bank from before this step.
    passes: of which the labelled and the strong one take part.

  Returns:
    The new bank, and metrics.
  """
  mpcl, signals = step.config.mpcl, step.signals
  views: Any = lax.stop_gradient(passes.seen.embeddings)
  targets = _strided(step, jnp.stack(passes.targets))
  present, there = _there(step, targets)
  sure = _strided(step, jnp.stack(passes.sure)) & there
  started = prototypes.start(bank, views[0], targets[0], sure[0], present)
  used = [i for i, name in enumerate(passes.names) if name != 'fpc']
  joined = lambda values: jnp.concatenate([values[i] for i in used], 1)
  joins = signals.active & signals.consistent[:, None]
  acts = [jnp.ones_like(joins)] + [joins] * (len(targets) - 1)
  labels = joined(targets)
  takes_part = joined(jnp.stack(acts) & sure)
  kept = takes_part
  if mpcl.assignment == 'sinkhorn':
    # Of all views: the product that the loss has, too, is computed once.
    similarities = jax.vmap(prototypes.similarity, (0, None))(views, bank.bank)
    assigned = prototypes.assign(
      joined(jax.vmap(prototypes.own)(similarities)),
      takes_part,
      present,
      epsilon=mpcl.epsilon,
      iterations=mpcl.iterations,
    )
    kept &= assigned == labels
  # A bank that was not ready before this step keeps its start.
  moved, counts = prototypes.update(
    started._replace(ready=bank.ready),
    joined(views),
    labels,
    kept,
    momentum=signals.reading.momentum,
  )
  chosen = losses.one_hot(labels, counts.shape[-1]) & takes_part[..., None]
  offered = over_devices.total(jnp.sum(chosen, 1).astype(jnp.float32))
  moved = moved._replace(ready=started.ready)
  on = signals.reading.bank
  moved = jax.tree.map(lambda x, y: jnp.where(on, x, y), moved, bank)
  metrics = {
    'kept_pixels': jnp.where(bank.ready[:, None], counts, 0.0),
    'offered_pixels': jnp.where(bank.ready[:, None], offered, 0.0),
    'prototype_cosine': prototypes.cross_modality_cosine(moved.bank),
  }
  return moved, metrics
