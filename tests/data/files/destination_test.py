import os

import pytest

from data.files import destination


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'scans' / 'ct').mkdir(parents=True)
  (tmp_path / 'link').symlink_to(tmp_path / 'scans')
  (tmp_path / 'file').write_text('mine')
  return tmp_path


@pytest.mark.parametrize(
  ('path', 'within'),
  [
    ('scans', True),
    ('scans/', True),
    ('scans/ct/../../scans', True),
    ('link', True),
    ('link/ct', True),
    ('scans/new/folder', True),
    ('.', False),
    ('scans2', False),
    ('link/..', False),
    ('file', False),
  ],
)
def test_a_place_is_in_a_folder_by_whatever_name(folder, path, within):
  assert destination.inside(f'{folder}/{path}', folder / 'scans') == within
  assert destination.inside(f'{folder}/{path}', f'{folder}/link/') == within


def test_another_mount_of_a_folder_is_the_folder(folder, monkeypatch):
  """As a disk that takes capitals for small letters answers."""
  known = os.stat(folder / 'scans')
  stat = os.stat

  def answers(path, *args, **kwargs):
    if os.fspath(path) == str(folder / 'SCANS'):
      return known
    return stat(path, *args, **kwargs)

  monkeypatch.setattr(os, 'stat', answers)
  assert destination.inside(folder / 'SCANS' / 'x', folder / 'scans')


def test_what_can_be_made_is_returned_without_links(folder):
  wanted = folder / 'scans' / 'a' / 'b'
  assert destination.check(folder / 'link' / 'a' / 'b') == wanted
  (folder / 'later').symlink_to(wanted)
  assert destination.check(folder / 'later') == wanted


def test_below_a_file_nothing_can_be_made(folder):
  for path in (folder / 'file' / 'a', folder / 'file' / 'a' / 'b'):
    with pytest.raises(ValueError, match='file is no folder'):
      destination.check(path)


@pytest.mark.parametrize(
  ('text', 'stays'),
  [
    ('{"cases": 3, "more": 1}', False),
    ('{"other": 3}', True),
    ('["cases"]', True),
    ('not JSON', True),
    ('[' * 100_000, True),
    ('', True),
  ],
)
def test_only_a_file_of_ours_is_replaced(tmp_path, text, stays):
  known = {'a.json': lambda text: destination.has_keys(text, ('cases',))}
  check = lambda: destination.check_ours(tmp_path, known, ' is not ours')
  check()  # Nothing is there.
  (tmp_path / 'a.json').write_text(text)
  if stays:
    with pytest.raises(ValueError, match=r'a\.json is not ours'):
      check()
  else:
    check()


def test_what_is_no_readable_file_is_not_ours(tmp_path):
  known = dict.fromkeys(('bytes', 'folder', 'link'), lambda text: True)
  (tmp_path / 'bytes').write_bytes(b'\xff\xfe')
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'link').symlink_to('nowhere')
  for name in known:
    with pytest.raises(ValueError, match=f'{name} is not ours'):
      destination.check_ours(tmp_path, {name: known[name]}, ' is not ours')
