"""What `data.prepare --init` and `--check` do and say."""

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

from data import first_task, integrity, task_file
from data.files import command, names, progress
from data.first_task import BadFirst, First
from data.formats import nnunet
from data.formats.scan_error import ScanError, headed
from data.readers import folder
from data.readers.folder import Findings
from data.task import Task


def _tell(found: Sequence[ScanError], head: str) -> None:
  """A table on standard error, if there is anything in it."""
  if found:
    command.tell(headed(found, head))


def left_out(found: Sequence[ScanError]) -> None:
  """Says what is no scan."""
  _tell(found, f'{len(found)} left out')


def print_json(
  facts: Sequence[Mapping[str, Any]],
  bad: Sequence[ScanError],
  others: Sequence[ScanError] = (),
) -> None:
  """Prints everything as JSON.

  Args:
    facts: of each scan.
    bad: what cannot be used.
    others: what is no scan.
  """
  found = {
    'scans': facts,
    'bad': [vars(error) for error in bad],
    'left_out': [vars(error) for error in others],
  }
  print(json.dumps(found, indent=2))


def guess(root: pathlib.Path, series: str = '', quiet: bool = False) -> First:
  """A first dataset.json from the scans below a folder, see `first_task`.

  Args:
    root: holds a subfolder per modality.
    series: which one of DICOM folders that hold several.
    quiet: no progress bar.

  Raises:
    ScanError: there is nothing to read.
    BadFirst: nothing can be guessed.
  """
  held = first_task.listing(root, series)
  with progress.bar(quiet) as bar:
    total = sum(len(here.images) for here in held.values())
    job = bar.add_task('reading scans', total=total)
    return first_task.guess(root, held, lambda: bar.advance(job), series)


def init(root: pathlib.Path, series: str = '') -> int:
  """Writes a first dataset.json, and says what to look at.

  Args:
    root: holds a subfolder per modality.
    series: which one of DICOM folders that hold several.

  Returns:
    The exit code: 1 if there are scans that cannot be used.

  Raises:
    ValueError: a dataset.json is there.
    ScanError: there is nothing to read.
  """
  path = root / folder.TASK_FILE
  if path.exists():
    if not nnunet.is_one(task_file.content(path)):
      raise ValueError(f'{path} is there already: edit it, or move it away')
    task = task_file.find(str(path))
    print(
      f"{path} is nnU-Net's own, and is read as it is: nothing is written.\n"
      + json.dumps(task_file.to_dict(task), indent=2, ensure_ascii=False)
    )
    return 0
  try:
    found = guess(root, series)
  except BadFirst as error:
    left_out(error.left_out)
    _tell(error.errors, f'no {path} is written')
    return 1
  task_file.write(found.content, path)
  print(
    f'{path}:\n{json.dumps(found.content, indent=2, ensure_ascii=False)}\n'
    + '\n'.join(map(names.printable, found.notes))
  )
  print(
    'Look it over: class names (equal names are one class in all modalities),'
    ' intensity window, slice_size.',
    flush=True,
  )
  left_out(found.left_out)
  _tell(found.errors, 'cannot be used')
  return int(bool(found.errors))


def check(
  task: Task, found: Findings, *, where: str, as_json: bool = False
) -> int:
  """Reads every scan, and says what it is or what is wrong.

  Args:
    task: what they are scans of.
    found: the scans, and what else lies beside them.
    where: the data set's folder.
    as_json: everything as JSON on standard output.

  Returns:
    The exit code: 1 if training would refuse or misunderstand anything.
  """
  cases = found.cases
  with progress.bar(as_json) as bar:
    job = bar.add_task('reading scans', total=len(cases))
    facts, errors = integrity.check(
      task, cases, lambda: bar.advance(job), where
    )
  bad = [*found.problems, *errors]
  wrong = {error.file for error in errors}
  sound = sum(row['file'] not in wrong for row in facts)
  if as_json:
    print_json(facts, bad, found.left_out)
    return int(bool(bad))
  print(integrity.text(facts, task))
  print(f'{sound} of {len(cases)} scans are sound', flush=True)
  left_out(found.left_out)
  _tell(bad, f'{len(bad)} cannot be used as they are')
  return int(bool(bad))
