"""What a table compares: its rows, with the paper's numbers beside them.

A variant is one row: a method and the config fields that make it. `paper.py`
has the paper's tables; others are read from a JSON file.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import pathlib
import re
from typing import Any

from dbdc_jax import methods

# The row that the others are compared with.
REFERENCE = 'dbdc'
# Rows of these names, or that end in them behind '_' (unet_lb), are the bounds
# of the gap that others close.
BOUNDS = ('lb', 'ub')
# Own scans: their config, in the place of a task's name.
OWN = 'folder'
# What the seeds of an experiment are of: the fields that seed n sets.
VARY: Mapping[str, Callable[[int], Mapping[str, int]]] = {
  'weights': lambda n: {'seed': n},
  'split': lambda n: {'data.split_seed': n},
  'both': lambda n: {'seed': n, 'data.split_seed': n},
  'folds': lambda n: {'seed': n // 5, 'data.fold': n % 5},
}
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.+-]*')
_NUMBERS = {int, float}
_KEYS = (
  *('name', 'label', 'method', 'recipe', 'fields', 'against', 'paper'),
  'results',
)
# Stands for the seed in a row's `results`.
SEED = '{seed}'

Paper = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Variant:
  """One row of a table.

  Attributes:
    name: of its folder; letters, digits, '_', '.', '+' and '-'.
    label: for readers.
    method: a name of `dbdc_jax.methods`.
    recipe: of `configs/presets.py`; the paper's, whatever a preset's is.
    fields: config fields to their values, as they are typed.
    paper: what the paper prints: modality (or 'mean') to (DSC in percent,
      HD95), 'size' to (million parameters, giga multiply-accumulates).
    parts: a run for each, which together are the row; names of folders to
      further fields. A transfer has one for each direction.
    against: names of rows that it is compared with beside `REFERENCE`.
    results: of another program, on the same scans: a folder with `SEED` in its
      name, which holds a results.json of a run's form. Nothing is run then; ''
      is a row that is.
  """

  name: str
  label: str
  method: str = 'dbdc'
  recipe: str = 'dbdc'
  fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
  paper: Paper = dataclasses.field(default_factory=dict)
  parts: Mapping[str, Mapping[str, str]] = dataclasses.field(
    default_factory=lambda: {'': {}}
  )
  against: Sequence[str] = ()
  results: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows that belong together.

  Attributes:
    title: for readers.
    task: a name of `data.task.TASKS`, or `OWN`.
    variants: the rows, in order.
    notes: sentences that belong under the table.
  """

  title: str
  task: str
  variants: tuple[Variant, ...]
  notes: tuple[str, ...] = ()


def _text(value: Any) -> str:
  """A JSON value as it is typed on the command line."""
  return str(value).lower() if isinstance(value, bool) else str(value)


def _read_row(entry: Any, where: str) -> Variant:
  if not isinstance(entry, dict) or not isinstance(entry.get('name'), str):
    raise ValueError(f'{where}: each row is an object with a "name"')
  name = entry['name']
  unknown = sorted(entry.keys() - set(_KEYS))
  if unknown:
    raise ValueError(
      f'{where}: {name}: unknown {", ".join(unknown)}; there are:'
      f' {", ".join(_KEYS)}'
    )
  if not _NAME.fullmatch(name):
    raise ValueError(
      f'{where}: name {name!r}: a folder is named after it, use letters,'
      " digits, '_', '.', '+' and '-'"
    )
  fields, paper = entry.get('fields', {}), entry.get('paper', {})
  if not isinstance(fields, dict) or any(
    isinstance(v, dict | list) for v in fields.values()
  ):
    raise ValueError(
      f'{where}: {name}: "fields" maps config fields to values, for example'
      ' {"mpcl.enabled": false}'
    )
  pairs = isinstance(paper, dict) and all(
    isinstance(pair, list) and len(pair) == 2 and {*map(type, pair)} <= _NUMBERS
    for pair in paper.values()
  )
  if not pairs:
    raise ValueError(
      f'{where}: {name}: "paper" maps modalities or "mean" to two numbers,'
      ' for example {"mean": [87.61, 4.62]}'
    )
  results = entry.get('results')
  if results is not None:
    alone = not entry.keys() & {'method', 'recipe', 'fields'}
    if not alone or not isinstance(results, str) or SEED not in results:
      raise ValueError(
        f'{where}: {name}: "results" is a folder of another program\'s results,'
        f' with {SEED} in its name, and excludes "method", "recipe" and'
        ' "fields"'
      )
    results = str(pathlib.Path(where).absolute().parent / results)
  return Variant(
    name,
    str(entry.get('label', name)),
    str(entry.get('method', 'dbdc')),
    str(entry.get('recipe', 'dbdc')),
    {field: _text(value) for field, value in fields.items()},
    {name: tuple(pair) for name, pair in paper.items()},
    against=tuple(entry.get('against', ())),
    results=results or '',
  )


def read(path: str, task: str) -> Table:
  """A table from a JSON file: a list of rows.

  Each row has a `name`, and may have `label`, `method`, `recipe`, `fields`,
  `against`, `paper` and `results` (from the file's folder on), see `Variant`.

  Args:
    path: of the file.
    task: see `Table`.

  Raises:
    ValueError: names the file, the row and what it should hold.
  """
  try:
    rows = json.loads(pathlib.Path(path).read_text())
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path}: not a readable list of rows ({error})'
    ) from error
  if not isinstance(rows, list) or not rows:
    raise ValueError(f'{path}: expected a list of rows, [{{"name": ...}}, ...]')
  variants = tuple(_read_row(entry, path) for entry in rows)
  names = [variant.name for variant in variants]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise ValueError(f'{path}: {", ".join(twice)} is there twice')
  for variant in variants:
    strange = sorted({*variant.against} - {*names})
    if strange:
      raise ValueError(
        f'{path}: {variant.name}: "against" names {", ".join(strange)}, and'
        f' there are: {", ".join(names)}'
      )
  return Table(pathlib.Path(path).stem, task, variants)


def of_methods(names: Sequence[str], task: str, title: str) -> Table:
  """A table with a row for each method.

  Args:
    names: of methods.
    task: see `Table`.
    title: of the table.

  Raises:
    ValueError: an unknown name, or one that is there twice.
  """
  strange = sorted({*names} - {*methods.names()})
  if strange or len({*names}) < len(names) or not names:
    raise ValueError(
      f'--methods {",".join(names)}: give some of {", ".join(methods.names())},'
      ' each once'
    )
  return Table(title, task, tuple(Variant(n, n, method=n) for n in names))
