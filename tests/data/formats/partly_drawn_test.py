"""What a dataset.json says was drawn, and its tables."""

import pytest

from data.formats import partly_drawn

CLASSES = ['background', 'liver', 'spleen', 'kidney']


@pytest.mark.parametrize(
  'text',
  [
    'case,liver,spleen\na,1,0\nb b,0,1\n',
    '\ufeffCase;liver;spleen\r\na;x;\r\n\r\nb b;no;Yes\r\n',
  ],
)
def test_a_table_says_what_was_drawn(text, tmp_path):
  path = tmp_path / 'drawn.csv'
  path.write_bytes(text.encode())
  found = partly_drawn.table(path)
  assert found == {'a': ['liver'], 'b b': ['spleen']}
  assert partly_drawn.drawn(found, CLASSES) == {'a': (1,), 'b b': (2,)}


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('', 'the first line'),
    ('name,liver\na,1', 'the first line'),
    ('case,liver\na,2', 'line 2'),
    ('case,liver\na,1,1', 'line 2'),
    ('case,liver\na,1\na,1', 'line 3'),
    ('case,liver\n,1', 'line 2'),
  ],
)
def test_a_table_of_another_form_is_refused(text, said, tmp_path):
  path = tmp_path / 'drawn.csv'
  path.write_text(text)
  with pytest.raises(ValueError, match=said) as caught:
    partly_drawn.table(path)
  assert str(path) in str(caught.value)
