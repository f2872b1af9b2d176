"""The paper's tables: their rows, with the numbers that it prints.

The rows are in `rows/`, in the form of a user's own (`variants.read`). VarDA's
mean is misprinted in the paper (33.47, 30.39): here it is the mean of its
columns.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import pathlib

from data.task import TASKS
from dbdc_jax.experiments import variants
from dbdc_jax.experiments.variants import Table, Variant

TABLES = ('1', '2', '3', '4', 'fig8')

_MODALITIES = ('ct', 't2', 't1in', 't1out')
# Tables of the abdomen: title and notes.
_ABDOMEN = {
  '2': ('Table II: abdomen, four modalities, 20 % of the labels',),
  '3': (
    'Table III: the terms of the loss, abdomen',
    'L_pseg, the modulation bank and MAW stay on in all rows.',
  ),
  '4': (
    'Table IV: where the modulation bank is, abdomen',
    'No MLMB: one batch normalisation that all modalities share.',
  ),
}
# The rows that train on the labels of one modality and test on another.
_TRANSFERS = ('varda', 'varda_full', 'ram_dsir', 'ram_dsir_full')


def _rows(table: str) -> tuple[Variant, ...]:
  """A table's rows, each held against labelled scans alone, if it has them."""
  path = pathlib.Path(__file__).parent / 'rows' / f'table{table}.json'
  rows = variants.read(
    str(path), 'heart' if table == '1' else 'abdomen'
  ).variants
  bound = tuple(row.name for row in rows if row.name == 'unet_lb')
  return tuple(
    row if row.name in bound else dataclasses.replace(row, against=bound)
    for row in rows
  )


def _directed(row: Variant, modalities: Sequence[str]) -> tuple[Variant, ...]:
  """A transfer in every direction; any other row as it is.

  Of two modalities both directions are one row, as in the paper: each modality
  is the target once. Of more, each pair is a row.
  """
  if row.name not in _TRANSFERS:
    return (row,)
  parts = {
    f'{source}_to_{target}': {
      'modalities': f'{source},{target}',
      'source': source,
      'target': target,
    }
    for source, target in itertools.permutations(modalities, 2)
  }
  if len(modalities) == 2:
    return (dataclasses.replace(row, parts=parts),)
  return tuple(
    dataclasses.replace(
      row,
      name=f'{row.name}_{name}',
      label=f'{row.label}, {fields["source"]} to {fields["target"]}',
      fields={**row.fields, **fields},
    )
    for name, fields in parts.items()
  )


def _table1(task: str, modalities: Sequence[str]) -> Table:
  rows = _rows('1')
  title = 'Table I: heart, two modalities, 20 % of the labels'
  if task != 'heart':
    # Of other organs the paper has no such numbers.
    rows = tuple(dataclasses.replace(row, paper={}) for row in rows)
    title = f"Table I's rows: {task}, 20 % of the labels"
  return Table(
    title,
    task,
    tuple(one for row in rows for one in _directed(row, modalities)),
    (
      'VarDA and RAM-DSIR: a run for each direction, from the labels of one'
      ' modality to another, which is tested and whose labels are not seen; the'
      ' source has 20 % of its labels, with * all of them.',
      "The paper's mean of VarDA is misprinted there (33.47, 30.39); here it is"
      ' the mean of its columns.',
    ),
  )


def _fig8(modalities: Sequence[str]) -> Table:
  combined = tuple(
    Variant(
      'dbdc_' + '+'.join(chosen),
      ', '.join(chosen),
      fields={'modalities': ','.join(chosen)},
    )
    for count in range(2, len(modalities))
    for chosen in itertools.combinations(modalities, count)
  )
  paper = _rows('2')[-1].paper if {*modalities} == {*_MODALITIES} else {}
  whole = Variant('dbdc', ', '.join(modalities), paper=paper)
  return Table(
    'Figure 8: combinations of modalities, abdomen',
    'abdomen',
    (*combined, whole),
    (
      'The paper plots the combinations without printing numbers. Means are'
      ' over the modalities of a row; differences over those that both rows'
      ' have.',
    ),
  )


def table(name: str, modalities: Sequence[str] = (), task: str = '') -> Table:
  """One of the paper's tables.

  Args:
    name: one of `TABLES`.
    modalities: those that Figure 8 combines and that Table I's transfers go
      between; none means all of the task.
    task: for the rows of Table I on another task than the paper's; '' is the
      table's own.

  Raises:
    ValueError: a task for a table that is of the abdomen alone, or modalities
      that the task does not have.
  """
  if name == '1':
    task = task or 'heart'
    chosen = TASKS[task].select(','.join(modalities))
    return _table1(task, tuple(modality.name for modality in chosen))
  if task not in ('', 'abdomen'):
    raise ValueError(
      f'--task {task}: --table {name} is of the abdomen; --table 1 has rows for'
      ' any task'
    )
  if name == 'fig8':
    return _fig8(tuple(modalities) or _MODALITIES)
  title, *notes = _ABDOMEN[name]
  return Table(title, 'abdomen', _rows(name), tuple(notes))
