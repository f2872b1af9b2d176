"""What every method says about labels and pseudo-labels, once for all.

The labelled loss terms, the pseudo-label, and the gate that keeps unlabelled
losses out while they must not act.
"""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dbdc_jax.methods.common.networks import Step
from dbdc_jax.ops import losses, partial_labels
from dbdc_jax.ops.partial_labels import Drawn
from dbdc_jax.ops.shapes import Labels, Logits, PerModality, Present

Possible = Bool[Array, 'K b H W C'] | None


def drawn(step: Step) -> Drawn | None:
  """What the labelled slices were drawn for; None: all of them for all."""
  return step.batch['labeled'].get('drawn')


def judged(step: Step, labels: Labels) -> Bool[Array, 'K b H W C'] | None:
  """See `partial_labels.judged`; None: every pixel, for all classes."""
  there = drawn(step)
  return None if there is None else partial_labels.judged(labels, there)


def labeled_terms(
  step: Step,
  logits: Logits,
  labels: Labels,
  *,
  name: str = 'sup',
  share: float = 1.0,
  linear_dice: bool = False,
) -> dict[str, PerModality]:
  """Cross entropy and Dice of labelled slices (the paper's eq 21).

  Args:
    step: what the method was given.
    logits: of each pixel.
    labels: class indices, or `UNKNOWN`.
    name: what the terms' names begin with; 'sup' with what may follow it, so
      that a loss that is no number is looked for here first.
    share: what each term is multiplied by.
    linear_dice: see `losses.dice`.

  Returns:
    `NAME_ce` and `NAME_dice`.
  """
  there, present = drawn(step), step.signals.present
  told = judged(step, labels)
  if there is None or told is None:
    ce = losses.cross_entropy(logits, labels)
  else:
    logits = partial_labels.asked(logits, there, present)
    ce = partial_labels.cross_entropy(logits, labels, there)
    present = partial_labels.seen(present, told)
  dice = losses.dice(logits, labels, present, linear=linear_dice, counted=told)
  return {f'{name}_ce': share * ce, f'{name}_dice': share * dice}


def pseudo_labels(
  logits: Logits, present: Present, possible: Possible = None
) -> Labels:
  """The likeliest class of each pixel, hard and so without a gradient.

  Args:
    logits: of each pixel.
    present: classes that each modality's labels contain: the others are never
      chosen.
    possible: those that each pixel may be, see `passes.Views`.
  """
  return jnp.argmax(_allowed(logits, present, possible), -1)


def probabilities(
  logits: Logits, present: Present, possible: Possible = None
) -> Float[Array, 'K b H W']:
  """How probable `pseudo_labels` are, without a gradient."""
  logits = _allowed(lax.stop_gradient(logits), present, possible)
  return jnp.max(jax.nn.softmax(logits), -1)


def _allowed(logits: Logits, present: Present, possible: Possible) -> Logits:
  chosen = present[:, None, None, None]
  if possible is not None:
    chosen &= possible
  return jnp.where(chosen, logits, losses.NEGATIVE)


@jax.custom_vjp
def gate(values: Any, active: Bool[Array, '...']) -> Any:
  """Passes `values` on; their gradient is selected, so no NaN gets through.

  While `active` is False the unlabelled losses must not act, not even as
  0 * NaN in a gradient.

  Args:
    values: arrays.
    active: broadcastable to each of them.
  """
  del active
  return values


gate.defvjp(
  lambda values, active: (values, active),
  lambda active, g: (
    jax.tree.map(lambda x: jnp.where(active, x, jnp.zeros_like(x)), g),
    None,
  ),
)
