import unicodedata

import hypothesis
from hypothesis import strategies as st
import pytest

from data.files import names

# What a file system may give as a name, bytes that are no UTF-8 among them.
ANY = st.text(
  st.characters(exclude_characters='\0', exclude_categories=['Cs', 'Cn'])
  | st.integers(0xDC80, 0xDCFF).map(chr),
  min_size=1,
  max_size=40,
)


@hypothesis.given(ANY)
def test_the_name_comes_back_and_is_written_and_printed_safely(name):
  try:  # Bytes that are UTF-8 after all are no names that Python gives.
    name = name.encode('utf-8', 'surrogateescape').decode(
      'utf-8', 'surrogateescape'
    )
  except UnicodeDecodeError:
    hypothesis.reject()
  shown = names.case_name(name)
  assert names.original(shown) == names.normal(name)
  assert names.normal(shown) == shown
  assert not shown.startswith('.')
  assert not any(c in '/\\' or unicodedata.category(c)[0] == 'C' for c in shown)
  shown.encode()


@pytest.mark.parametrize(
  'name', ['Bär 1', 'пациент', '患者 7', 'a.b (2)', "O'Neil", 'CT-1_2', 'x?']
)
def test_words_of_any_language_stay_what_they_are(name):
  assert names.case_name(name) == name
  assert names.case_name(unicodedata.normalize('NFD', name)) == name


@pytest.mark.parametrize(
  ('name', 'shown'),
  [
    ('../etc', '%2E.%2Fetc'),
    ('50%', '50%25'),
    ('a\x1b[31m', 'a%1B[31m'),
    ('a\nb', 'a%0Ab'),
    ('B\udcfcr', 'B%FCr'),
    ('left\u202eright', 'left%E2%80%AEright'),
    ('x\x1a\u0301', 'x%1A%CC%81'),
  ],
)
def test_what_a_disk_or_terminal_would_misunderstand_is_escaped(name, shown):
  assert names.case_name(name) == shown
  assert names.original(shown) == names.normal(name)


def test_text_for_a_terminal_keeps_its_words_and_loses_its_commands():
  assert names.printable('100 % of /a/Bär') == '100 % of /a/Bär'
  assert names.printable('/a/\x1b[2Jx\udcff\n') == '/a/%1B[2Jx%FF%0A'


@hypothesis.given(
  st.text('aä患~0', min_size=1, max_size=4),
  st.integers(1, 300),
  st.sampled_from(['.nii.gz', '_entropy.nii.gz', '.png']),
)
def test_a_written_name_is_never_too_long(part, times, suffix):
  stem = part * times
  found = names.on_disk(stem, suffix)
  assert len(found.encode()) <= 255 - len('.partial-')
  assert found.endswith(suffix)
  assert (found == stem + suffix) == (len((stem + suffix).encode()) <= 246)
  assert names.on_disk(stem, suffix) == found


def test_long_names_that_differ_anywhere_stay_different():
  stem = 'ä' * 200
  # The last is what the first is written as: it must not meet it.
  cut = names.on_disk(stem, '')
  stems = [stem, stem + 'b', 'b' + stem, stem[:-1], cut]
  written = {names.on_disk(s, '.nii.gz') for s in stems}
  assert len(written) == len(stems)
  assert names.on_disk(cut, '') != cut


def test_names_that_a_disk_cannot_tell_apart_are_paired():
  nfd = unicodedata.normalize('NFD', 'Bär')
  assert names.same_on_disk(['Bär', 'Bör', nfd, 'x']) == [('Bär', nfd)]
  assert names.same_on_disk(['A1', 'b', 'a1']) == [('A1', 'a1')]
  assert names.same_on_disk(['STRASSE', 'straße']) == [('STRASSE', 'straße')]
  assert not names.same_on_disk(['a', 'b', 'ä', 'Ö'])
