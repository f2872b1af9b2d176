"""What the steps of an epoch say: checked, averaged, warned about."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from data.files import errors


class NonFiniteLossError(errors.Refusal):
  """The loss stopped being a number."""


def check_finite(
  metrics: dict[str, Any],
  step: int,
  modalities: Sequence[str],
  checkpoints: str,
) -> None:
  """Checks a step's metrics.

  Args:
    metrics: of one step, on the host.
    step: its number, from 1.
    modalities: names, in bank order.
    checkpoints: the folder that keeps the last good state.

  Raises:
    NonFiniteLossError: naming the first bad term, its modality and the step.
  """
  if np.isfinite(metrics['loss']) and np.isfinite(metrics['gradient_norm']):
    return
  # Supervision comes first in a step: its terms are the likelier cause.
  order = sorted(metrics, key=lambda name: (not name.startswith('sup'), name))
  for name in order:
    value = np.asarray(metrics[name])
    if value.ndim == 1 and not np.isfinite(value).all():
      bad = modalities[int(np.argmin(np.isfinite(value)))]
      raise NonFiniteLossError(
        f'step {step}: {name} of modality {bad} is not finite. The last good'
        f' checkpoint in {checkpoints} is kept. A smaller'
        ' --config.optimizer.learning_rate, or --config.dtype=float32, may'
        ' help, in another --workdir.'
      )
  raise NonFiniteLossError(
    f'step {step}: the gradient is not finite although every loss term is. The'
    f' last good checkpoint in {checkpoints} is kept.'
  )


def named(names: Sequence[str], values: Iterable[float]) -> dict[str, float]:
  """A number of each modality (or class), by its name."""
  return dict(zip(names, map(float, values), strict=True))


def epoch_row(
  collected: Sequence[dict[str, Any]],
  modalities: Sequence[str],
  classes: Sequence[str],
  present: np.ndarray,
) -> dict[str, Any]:
  """Means over an epoch's steps, by name and modality (and class).

  Args:
    collected: metrics of each step, on the host.
    modalities: names, in bank order.
    classes: names, background first.
    present: `[K, C]` bool, classes that take part in each modality.

  Returns:
    Nested names to numbers; `kept/MODALITY` holds the share of each class's
    pixels whose assignment equalled their label.
  """
  means = {
    name: np.mean([m[name] for m in collected], 0) for name in collected[0]
  }
  row: dict[str, Any] = {}
  if 'offered_pixels' in means:
    offered = means.pop('offered_pixels')
    kept = means.pop('kept_pixels')
    share = kept / np.maximum(offered, 1e-9)
    for k, modality in enumerate(modalities):
      row[f'kept/{modality}'] = {
        c: float(share[k, i])
        for i, c in enumerate(classes)
        if present[k, i] and offered[k, i]
      }
    cosine = means.pop('prototype_cosine')
    row['prototype_cosine'] = named(classes, cosine)
  for name, value in means.items():
    row[name] = named(modalities, value) if value.ndim else float(value)
  return row


def starved(row: dict[str, Any]) -> list[str]:
  """Warnings on classes whose prototype got no pixel for an epoch."""
  return [
    f'no pixel of {name} was kept for its prototype in {key.split("/")[1]}'
    ' this epoch'
    for key, shares in row.items()
    if key.startswith('kept/')
    for name, share in shares.items()
    if share == 0
  ]
