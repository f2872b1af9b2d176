"""What a run's results say of its scans in other ways than its own.

Rows are compared like with like: all without the largest components that the
validation scans chose, all with them, all by their last checkpoint.
"""

from collections.abc import Mapping
from typing import Any

from dbdc_jax.evaluation import components

# The best checkpoint without and with components, the last one without.
PLAIN, CHOSEN, LAST = 'without', 'with', 'last'
VIEWS = (PLAIN, CHOSEN, LAST)
# `evaluation.components` of a run whose own results are the view.
OWN = {components.NONE: PLAIN, components.VALIDATION: CHOSEN}


def _other(
  results: Mapping[str, Any] | None, key: str
) -> dict[str, Any] | None:
  """`results[key]` in the form of results; None if there is nothing."""
  if not results or not results.get(key):
    return None
  cases = [{**case, **case.get(key, {})} for case in results['cases']]
  return {**results, **results[key], 'cases': cases}


def of(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """The results by view, each in the form of results; those that there are.

  Args:
    results: of a run. Runs of before have but one view.
  """
  own = OWN[results['run'].get('components', components.NONE)]
  last = _other(results, 'last')
  out = {
    own: dict(results),
    CHOSEN if own == PLAIN else PLAIN: _other(results, 'beside'),
    LAST: last if own == PLAIN else _other(last, 'beside'),
  }
  return {view: found for view in VIEWS if (found := out[view])}
