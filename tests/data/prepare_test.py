from data import prepare


def test_command_ends_with_the_table_and_code_1(tmp_path, capsys):
  flags = f'--task abdomen --modalities ct --cache {tmp_path}'
  code = prepare.main([*flags.split(), '--root', f'btcv={tmp_path}'])
  assert code == 1
  assert 'no BTCV scans found' in capsys.readouterr().err
  assert prepare.main(['--task', 'heart', '--root', 'btcv=x']) == 1
