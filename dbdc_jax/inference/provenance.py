"""What each result in an output folder was made from: `predictions.json`.

A result counts as done where it was made from the same scan, by the same runs,
with the same options. The file names scans and results by their names and
hashes, and no folder of the machine.
"""

from collections.abc import Mapping, Sequence
import contextlib
import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

from data.files import atomic
from data.formats import scan_walk
from data.formats.scan_error import ScanError

FILE = scan_walk.RESULTS
_FORMAT = 'dbdc_jax predictions'
# Raised with every change that an older reader would misunderstand.
_VERSION = 1
_CHUNK = 1 << 22


class Result(NamedTuple):
  """A scan's entry.

  Attributes:
    scan: SHA-256 of the scan's files.
    made_with: the runs' identities and the options that a result depends on.
    files: result's file name -> SHA-256, all that were written.
    said: what else is worth knowing: the modality it was taken for, notes,
      versions.
  """

  scan: str
  made_with: Mapping[str, Any]
  files: Mapping[str, str]
  said: Mapping[str, Any]


def digest(files: Sequence[pathlib.Path]) -> str:
  """SHA-256 of a scan's files, one after another.

  Raises:
    ScanError: one cannot be read.
  """
  sha = hashlib.sha256()
  for file in files:
    try:
      with file.open('rb') as stream:
        while chunk := stream.read(_CHUNK):
          sha.update(chunk)
    except OSError as error:
      raise ScanError(
        file, f'cannot be read ({error.strerror})', 'check name and permissions'
      ) from error
  return sha.hexdigest()


def read(folder: pathlib.Path) -> dict[str, Result]:
  """The entries of an output folder, by the scans' names.

  Raises:
    ValueError: the file is damaged, or something else.
  """
  path = folder / FILE
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
    if found['format'] != _FORMAT or found['version'] != _VERSION:
      raise ValueError(f'format {found["format"]}, version {found["version"]}')
    return {
      name: Result(**{key: entry[key] for key in Result._fields})
      for name, entry in found['scans'].items()
    }
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f'{path}: not what this command writes ({error!r}): it says what each'
      ' result was made from; move it away (the results then count as not made'
      ' by this command), or give another --output'
    ) from error


def add(folder: pathlib.Path, name: str, result: Result) -> None:
  """Adds or replaces a scan's entry; others may be writing, too.

  Raises:
    OSError: the disk took no more.
    ValueError: see `read`.
  """
  with atomic.locked(folder):
    entries = read(folder) | {name: result}
    content = {
      'format': _FORMAT,
      'version': _VERSION,
      'scans': {name: entry._asdict() for name, entry in entries.items()},
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + '\n'
    atomic.write(folder / FILE, text.encode('utf-8'))


def state(
  folder: pathlib.Path,
  before: Result | None,
  scan: str,
  made_with: Mapping[str, Any],
  wanted: Sequence[str],
) -> str:
  """What becomes of a scan whose results may be there.

  Args:
    folder: the output folder.
    before: the scan's entry, if there is one.
    scan: the scan's hash now.
    made_with: runs and options now.
    wanted: names of the files that shall be there, relative to the folder.

  Returns:
    'missing' (nothing is in the way), 'done', 'edited' (done, and changed by
    somebody since), 'stale' (ours, from another scan or made otherwise) or
    'foreign' (nobody knows from what: it must stay).
  """
  there = [name for name in wanted if os.path.lexists(folder / name)]
  known = before.files if before else {}
  same = (
    before is not None
    and before.scan == scan
    # As JSON reads it back: it has no tuples.
    and dict(before.made_with) == json.loads(json.dumps(made_with))
  )
  ours = [
    name
    for name in there
    if name in known and digest([folder / name]) == known[name]
  ]
  if same and set(there) == set(wanted) <= set(known):
    return 'done' if ours == there else 'edited'
  if ours != there:
    return 'foreign'
  return 'stale' if there else 'missing'


def check_output(
  output: pathlib.Path, place: pathlib.Path, files: Sequence[pathlib.Path]
) -> None:
  """Refuses an output folder in which results would lie among the scans.

  Whatever name a folder goes by (a link, `..`), it is compared as what it is.

  Args:
    output: where results shall go; need not exist.
    place: the input, a file or folder.
    files: of all scans.

  Raises:
    ValueError: results could be written over a scan, or over its folder.
  """
  if output.exists() and not output.is_dir():
    raise ValueError(f'{output} is a file: give a folder as --output')
  inputs = {place.parent if place.is_file() else place}
  inputs |= {file.parent for file in files if file.parent.is_dir()}
  for folder in inputs:
    if output.exists() and folder.exists() and output.samefile(folder):
      raise ValueError(
        f'{output} is the folder of the scans themselves ({folder}): a result'
        ' would be written over the scan itself; give another --output (a'
        ' folder inside of it will do)'
      )


def check_targets(
  output: pathlib.Path,
  targets: Sequence[str],
  files: Sequence[pathlib.Path],
) -> None:
  """Refuses results that are, by a link, one of the scans' own files.

  Raises:
    ValueError: naming both.
  """
  known = {}
  for file in files:
    with contextlib.suppress(OSError):
      known[_identity(file)] = file
  for name in targets:
    with contextlib.suppress(OSError):
      scan = known.get(_identity(output / name))
      if scan is not None:
        raise ValueError(
          f'{output / name} is the scan {scan} itself, by a link: it would be'
          ' written over; give another --output'
        )


def _identity(path: pathlib.Path) -> tuple[int, int]:
  stat = os.stat(path)
  return stat.st_dev, stat.st_ino
