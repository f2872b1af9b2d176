"""Names of scans: told apart as people do, and safe to write and to print.

A name is compared in Unicode's composed form (NFC), since one system writes an
umlaut as one character and another as two. What a file system or a terminal
could misunderstand is written as %XX, one for each byte, and comes back by
`original`.
"""

from collections.abc import Iterable, Sequence
import hashlib
import re
import unicodedata

# A file name has at most 255 bytes; nine are left to the mark that a file
# bears while it is written (`atomic.write`).
_MOST_BYTES = 255 - len('.partial-')
_HASH = 16
# What `on_disk` marks a shortened name with.
_MARKED = re.compile(rf'~[0-9a-f]{{{_HASH}}}$')


def normal(name: str) -> str:
  """The form in which names are compared."""
  return unicodedata.normalize('NFC', name)


def _hostile(char: str) -> bool:
  """Control and format characters, line ends, bytes that are no UTF-8."""
  kind = unicodedata.category(char)
  return char in '/\\%' or kind[0] == 'C' or kind in ('Zl', 'Zp')


def _escaped(char: str) -> str:
  data = char.encode('utf-8', 'surrogateescape')
  return ''.join(f'%{byte:02X}' for byte in data)


def case_name(name: str) -> str:
  """A scan's name as it is shown and written.

  Letters, digits and spaces of any language stay. Equal names (in NFC) give
  equal ones, different names different ones.

  Args:
    name: of a file or folder, without its ending.
  """
  out = []
  escaped = False
  for place, char in enumerate(normal(name)):
    # An accent behind an escape would join its last letter.
    escaped = (
      _hostile(char)
      or (place == 0 and char == '.')
      or (escaped and unicodedata.combining(char) > 0)
    )
    out.append(_escaped(char) if escaped else char)
  return ''.join(out)


def original(shown: str) -> str:
  """The name that `case_name` wrote so, in NFC."""
  return re.sub(
    '(?:%[0-9A-F]{2})+',
    lambda found: bytes.fromhex(found[0].replace('%', '')).decode(
      'utf-8', 'surrogateescape'
    ),
    shown,
  )


def printable(text: str) -> str:
  """A line that holds names, for a terminal: what it could obey is escaped."""
  return ''.join(
    _escaped(c) if _hostile(c) and c not in '/\\%' else c for c in text
  )


def listed(words: Sequence[str], shown: int = 8) -> str:
  """The first of many words, and how many more there are."""
  more = len(words) - shown
  return ', '.join(words[:shown]) + (f' and {more} more' if more > 0 else '')


def on_disk(stem: str, suffix: str) -> str:
  """The name of a file that is written for a scan.

  A name that a disk would refuse as too long is cut, and ends with a hash of
  the whole; so is one that only looks like that. So different stems always
  give different names.

  Args:
    stem: a case's name.
    suffix: the ending, e.g. '.nii.gz'.
  """
  whole = stem + suffix
  if len(whole.encode()) <= _MOST_BYTES and not _MARKED.search(stem):
    return whole
  mark = f'~{hashlib.sha256(stem.encode()).hexdigest()[:_HASH]}{suffix}'
  room = _MOST_BYTES - len(mark)
  return stem.encode()[:room].decode(errors='ignore') + mark


def same_on_disk(names: Iterable[str]) -> list[tuple[str, str]]:
  """Pairs of names that some disk would take for one file.

  Disks of macOS and Windows do not tell capitals apart, nor NFC from NFD.
  """
  seen: dict[str, str] = {}
  out = []
  for name in names:
    key = unicodedata.normalize('NFD', name).casefold()
    other = seen.setdefault(unicodedata.normalize('NFC', key), name)
    if other != name:
      out.append((other, name))
  return out
