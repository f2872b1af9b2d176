"""What is wrong with a scan, and what to do about it."""

from collections.abc import Sequence
import os

from data.files import names


class ScanError(Exception):
  """A scan that cannot be used.

  Attributes:
    file: the file or folder.
    reason: what is wrong with it.
    remedy: what to do about it.
  """

  def __init__(self, file: str | os.PathLike, reason: str, remedy: str):
    self.file, self.reason, self.remedy = str(file), reason, remedy
    super().__init__(f'{self.file}: {reason}; {remedy}')


def table(errors: Sequence[ScanError]) -> str:
  """Bad scans as lines 'file | reason | remedy' under a heading."""
  rows = [('file', 'reason', 'remedy')]
  rows += [(e.file, e.reason, e.remedy) for e in errors]
  # A file's name may hold what a terminal would obey.
  return '\n'.join('  ' + ' | '.join(map(names.printable, row)) for row in rows)
