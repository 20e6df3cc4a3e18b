"The contract of the command line: what it prints, what it writes, how it ends."
import json,os,shutil,subprocess,sys,time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conftest import SMALL

def files(folder): return {str(o.relative_to(folder)):o.stat().st_size for o in Path(folder).rglob('*')} if Path(folder).exists() else {}

def refused(res, *words):
    "One line on stderr, exit code 2, nothing on stdout; the line has `words`"
    code,out,err = res
    line, = [o for o in err.strip().splitlines() if 'warning:' not in o]
    assert (code,out) == (2,'') and line.startswith('deepfake-nb: ') and all(o in line for o in words), res

def test_help_is_quick():
    "It imports nothing heavy"
    src = "import sys, deepfake_nb.cli as c; sys.argv=['x','--help']\ntry: c.main()\nexcept SystemExit: pass\nprint(sorted({'torch','fastai','timm','pandas','matplotlib','sklearn','numpy'} & set(sys.modules)))"
    r = subprocess.run([sys.executable, '-c', src], capture_output=True, text=True)
    assert r.stdout.strip().endswith('[]') and all(o in r.stdout for o in ('compare','evaluate','predict','sample'))

def test_compare_writes_the_run_folder(cli, faces, tmp_path):
    out = tmp_path/'run'
    code,text,err = cli('compare', '--real', faces/'real', '--fake', faces/'fake', '--models', 'cnn1,resnet18', '--out', out, *SMALL)
    assert code == 0 and 'not tested' in text and 'RANDOM' in text
    assert set(files(out)) == {'table.csv','bad_files.csv','files.csv','audit.json','config.json','comparison.csv','comparison.md','comparison.png','loss_curves.png','report.html','receipt.json',
        *(m+n for m in ('cnn1','resnet18','spectrum') for n in ('','/config.json','/history.csv','/metrics.json','/model_card.md','/predictions.csv','/model.safetensors'))}
    df = pd.read_csv(out/'comparison.csv', keep_default_na=False)
    assert list(df.columns[:8]) == ['model','weights','params','valid_loss','valid_accuracy','valid_auc','valid_ap','valid_eer']
    assert {'seconds','seconds_per_epoch','images_per_second'} <= set(df) and set(df.weights) == {'none'}
    assert list(df.valid_loss) == sorted(df.valid_loss) and np.isfinite(df.select_dtypes('number')).all().all()
    table,preds = pd.read_csv(out/'table.csv'),pd.read_csv(out/'resnet18'/'predictions.csv')
    assert list(table) == ['path','label','source','group','split'] and table.groupby(['split','label']).size().to_dict() == {('train',0):32,('train',1):32,('valid',0):8,('valid',1):8}
    assert list(preds) == ['path','label','split','prob_fake'] and set(preds.path) == set(table.path[table.split=='valid'])
    m = json.loads((out/'resnet18'/'metrics.json').read_text())['valid']
    row = df.set_index('model').loc['resnet18']
    assert row.valid_loss == pytest.approx(m['loss']) and list(pd.read_csv(out/'resnet18'/'history.csv').stage) == ['whole','whole'], 'without pretrained weights there is nothing to freeze'
    page = (out/'report.html').read_text()
    assert 'src="data:image/png' in page and 'http://' not in page and 'https://' not in page
    refused(cli('compare', '--real', faces/'real', '--fake', faces/'fake', '--models', 'cnn1', '--out', out, *SMALL), 'not empty', '--resume')
    before = files(out)
    refused(cli('compare', '--real', faces/'real', '--fake', faces/'fake', '--models', 'cnn1', '--out', out, '--resume', *SMALL), 'another run')
    assert files(out) == before

def test_without_data_the_sample_is_compared(cli, tmp_path):
    code,text,_ = cli('compare', '--models', 'cnn1', '--n-per-class', 30, '--epochs', 1, '--out', tmp_path/'run')
    assert code == 0 and 'embedded sample' in text
    c = json.loads((tmp_path/'run'/'config.json').read_text())
    assert (c['size'],c['epochs'],c['n_per_class']) == (64,1,30)

def test_evaluate_and_predict(cli, faces, trained, tmp_path):
    code,out,err = cli('evaluate', trained, '--real', faces/'real', '--fake', faces/'fake', '--json')
    res = json.loads(out)
    assert code == 0 and set(res) == {'loss','accuracy','auc','ap','eer','tpr_at_fpr','brier','ece','n_real','n_fake','intervals'} and 'were trained on' in err
    assert set(res['tpr_at_fpr']) == {'0.005','0.05'} and (res['n_real'],res['n_fake']) == (40,40)
    saved = pd.read_csv(trained/'cnn2'/'predictions.csv')
    (bad := tmp_path/'ünï code.jpg').write_text('no picture')
    code,out,_ = cli('predict', *saved.path[:3], bad, '--model', trained/'cnn2', '--json')
    a = json.loads(out)
    assert code == 0 and [o['path'] for o in a] == [*saved.path[:3],str(bad)] and set(a[0]) == {'path','prob_fake','verdict'} and set(a[3]) == {'path','error'}
    assert np.allclose([o['prob_fake'] for o in a[:3]], saved.prob_fake[:3], atol=1e-3)
    code,out,_ = cli('predict', faces/'real', '--model', trained, '--csv', tmp_path/'a.csv')
    assert (code,out) == (0,'') and len(pd.read_csv(tmp_path/'a.csv')) == 40
    assert cli('evaluate', trained, '--real', faces/'real', '--fake', faces/'fake')[1].count('\n') == 11

def test_wrong_data(cli, faces, tmp_path):
    out,real,fake = tmp_path/'run',faces/'real',faces/'fake'
    compare = lambda *a: cli('compare', '--out', out, '--models', 'cnn1', *SMALL, *a)
    (empty := tmp_path/'empty').mkdir()
    (csv := tmp_path/'t.csv').write_text('file,kind\na.jpg,real\n')
    (odd := tmp_path/'odd.csv').write_text('path,label\na.jpg,genuine\n')
    refused(compare('--real', empty, '--fake', fake), 'no images', 'empty')
    refused(compare('--real', tmp_path/'nowhere', '--fake', fake), 'no folder', 'nowhere')
    refused(compare('--real', real), 'no fake images')
    refused(compare('--real', real, '--fake', real), 'both classes')
    refused(compare('--real', faces, '--fake', fake), 'twice')
    refused(compare('--real', csv, '--fake', fake), 'path or label')
    refused(compare('--real', odd, '--fake', fake), 'line 2', 'genuine')
    refused(compare('--data', empty), 'train/real')
    refused(compare('--real', real, '--fake', fake, '--n-per-class', 0), 'ask for 1 or more')
    refused(compare('--real', real, '--fake', fake, '--n-per-class', 3), 'too few')
    assert not out.exists()

def test_damaged_files_are_left_out_and_listed(cli, faces, tmp_path):
    shutil.copytree(faces, tmp_path/'d')
    first,*_ = paths = sorted((tmp_path/'d'/'real').iterdir())
    jpeg = first.read_bytes()
    for p,data in zip(paths, (b'', b'text', jpeg[:400])): p.write_bytes(data)
    code,_,err = cli('compare', '--real', tmp_path/'d'/'real', '--fake', tmp_path/'d'/'fake', '--models', 'cnn1', '--out', tmp_path/'run', *SMALL)
    bad = pd.read_csv(tmp_path/'run'/'bad_files.csv')
    assert code == 0 and set(bad.path) == set(map(str, paths[:3])) and bad.reason.str.len().min() > 5
    assert '37 real and 37 fake' in err and len(pd.read_csv(tmp_path/'run'/'table.csv')) == 74

def test_wrong_options(cli, faces, trained, tmp_path):
    out,ours = tmp_path/'run',('--real', faces/'real', '--fake', faces/'fake', '--weights', 'none')
    compare = lambda *a: cli('compare', '--out', out, *ours, *a)
    refused(compare('--models', 'resnet5'), 'resnet50')
    refused(compare('--models', ','), 'no models')
    refused(compare('--models', 'cnn1,cnn1'), 'twice')
    refused(compare('--models', 'xception', '--size', 24), '32 or more')
    refused(compare('--models', 'cnn1', '--size', 4), 'too small')
    refused(compare('--models', 'cnn1', '--recipe', 'secret'), 'tuned')
    refused(compare('--models', 'cnn1', '--batch-size', 1), 'batch')
    refused(compare('--models', 'cnn1', '--epochs', -1), 'epochs')
    refused(compare('--models', 'cnn1', '--size', 'big'), '--size', 'integer')
    refused(compare('--models', 'cnn1', '--seed', -1), 'seed')
    refused(compare('--nothing'), '--nothing')
    refused(compare('--models', 'resnet18', '--weights', tmp_path/'nowhere'), 'nowhere')
    refused(cli('predict', faces/'real', '--model', tmp_path), 'no trained model')
    refused(cli('predict', faces/'real', '--model', tmp_path/'nowhere'), 'no run')
    refused(cli('evaluate', trained, '--real', faces/'real', '--fake', faces/'real'), 'both classes')
    refused(cli('sample', faces, '--n', 5), 'sample')
    assert not out.exists()

def test_places_that_cannot_be_written(cli, faces, tmp_path):
    (tmp_path/'file').write_text('')
    ours = '--real', faces/'real', '--fake', faces/'fake', '--models', 'cnn1', *SMALL
    refused(cli('compare', *ours, '--out', tmp_path/'file'), 'is a file')
    refused(cli('compare', *ours, '--out', tmp_path/'file'/'run'), 'cannot write')
    (photos := tmp_path/'photos').mkdir(); (photos/'a.jpg').write_text('mine')
    refused(cli('compare', *ours, '--out', photos, '--resume'), 'no run')
    assert files(photos) == {'a.jpg':4}

@pytest.mark.skipif(not os.path.isdir('/proc/sys/kernel'), reason='needs a file system that nobody can write')
def test_read_only_output(cli, faces):
    refused(cli('compare', '--real', faces/'real', '--fake', faces/'fake', '--models', 'cnn1', *SMALL, '--out', '/proc/sys/kernel/run'), 'cannot write')

def test_weights_files(cli, faces, tmp_path):
    from safetensors.torch import save_file
    from deepfake_nb.backbones import make_backbone
    net,_ = make_backbone('resnet18', 32)
    (w := tmp_path/'w').mkdir()
    file = w/'resnet18.a1_in1k.safetensors'
    compare = lambda out, weights=w: cli('compare', '--real', faces/'real', '--fake', faces/'fake', '--models', 'resnet18', '--out', tmp_path/out, *SMALL[:-2], '--weights', weights)
    code,text,err = compare('missing')
    assert code == 0 and 'RANDOM' in err and 'RANDOM' in text
    save_file(net.state_dict(), file)
    code,text,_ = compare('found')
    assert list(pd.read_csv(tmp_path/'found'/'resnet18'/'history.csv').stage) == ['frozen','unfrozen','unfrozen']
    assert code == 0 and pd.read_csv(tmp_path/'found'/'comparison.csv').set_index('model').weights['resnet18'] == 'resnet18.a1_in1k' and 'RANDOM' not in text
    file.write_bytes(file.read_bytes()[:10_000])
    refused(compare('torn'), 'damaged')
    save_file(make_backbone('resnet34', 32)[0].state_dict() | {'conv1.weight': net.conv1.weight[:8].contiguous()}, file)
    refused(compare('other'), 'not a weights file of resnet18')
    refused(compare('hub', 'imagenet'), 'resnet18.a1_in1k', '--weights none')
    assert not (tmp_path/'torn').exists() and not (tmp_path/'other').exists()

def test_a_model_that_is_a_pickle_is_refused(cli, faces, trained, tmp_path):
    shutil.copytree(trained/'cnn2', tmp_path/'m')
    (tmp_path/'m'/'model.safetensors').write_bytes(b'\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.')
    refused(cli('predict', faces/'real', '--model', tmp_path/'m'), 'damaged')

def test_layouts(cli, faces, tmp_path):
    "CelebA with identities, a divided data set, and a CSV"
    real,fake = (sorted(o for o in (faces/l).rglob('*.jpg')) for l in ('real','fake'))
    (celeba := tmp_path/'celeba'/'img_align_celeba').mkdir(parents=True)
    for o in real: shutil.copy(o, celeba)
    (tmp_path/'celeba'/'identity_CelebA.txt').write_text(''.join(f'{o.name} {i//4}\n' for i,o in enumerate(real)))
    compare = lambda out, *a: cli('compare', '--models', 'cnn1', '--out', tmp_path/out, *SMALL, *a)[0] or pd.read_csv(tmp_path/out/'table.csv', keep_default_na=False)
    df = compare('a', '--real', tmp_path/'celeba', '--fake', faces/'fake')
    people = df[df.label==0].groupby(df.path.map(lambda o: [p.name for p in real].index(Path(o).name)//4 if 'celeba' in o else -1)).split.nunique()
    assert set(people) == {1} and set(df.source) == {'celeba','fake'}
    for s,part in dict(train=slice(0,20), valid=slice(20,30), test=slice(30,40)).items():
        for l,paths in dict(real=real, fake=fake).items():
            (d := tmp_path/'140k'/s/l).mkdir(parents=True)
            for o in paths[part]: shutil.copy(o, d/f'{o.parent.name}-{o.name}')
    df = compare('b', '--data', tmp_path/'140k')
    assert df.groupby('split').size().to_dict() == dict(train=40, valid=20, test=20)
    assert 'test_auc' in pd.read_csv(tmp_path/'b'/'comparison.csv')
    (tmp_path/'t.csv').write_text('path,label,source\n'+''.join(f'{os.path.relpath(o, tmp_path)},{l},s{i%2}\n' for l,ps in (('real',real),('fake',fake)) for i,o in enumerate(ps)))
    df = compare('c', '--real', tmp_path/'t.csv', '--fake', tmp_path/'t.csv')
    assert len(df) == 80 and set(df.source) == {'s0','s1'}

def test_why_and_report(cli, faces, trained, tmp_path):
    "Each answer with its signals, as text, JSON and a page; a picture without an answer stays without"
    one,bad = sorted((faces/'fake').rglob('*.jpg'))[0],tmp_path/'bad.jpg'
    bad.write_text('no picture')
    code,out,_ = cli('predict', one, bad, '--model', trained, '--why')
    assert code == 0 and [o in out for o in ('network','file','provenance','bad.jpg')] == [True]*4
    code,out,_ = cli('predict', one, bad, '--model', trained, '--why', '--json')
    a,b = json.loads(out)
    assert code == 0 and [o['name'] for o in a['signals']] == ['network','file','provenance'] and set(b) == {'path','error'}
    assert all(set(o)>={'name','word','reliability','says'} for o in a['signals'])
    code,out,_ = cli('predict', one, '--json', '--why')                # the ready detector has two more
    assert [o['name'] for o in json.loads(out)[0]['signals']] == ['network','spectrum','noise','file','provenance']
    code,_,_ = cli('predict', one, bad, '--model', trained, '--report', tmp_path/'r.html')
    page = (tmp_path/'r.html').read_text(encoding='utf-8')
    assert code == 0 and 'provenance' in page and 'bad.jpg' in page and '<script' not in page
    refused(cli('predict', one, '--model', trained, '--report', tmp_path/'r.txt'), '.html')
    refused(cli('predict', one, '--model', trained, '--why', '--csv', tmp_path/'a.csv'), '--why')

def test_names_in_a_report_are_text(cli, faces, trained, tmp_path):
    shutil.copy(sorted((faces/'fake').rglob('*.jpg'))[0], tmp_path/'<img src=x onerror=alert(1)>.jpg')
    cli('predict', tmp_path, '--model', trained, '--report', tmp_path/'r.html')
    assert '<img' not in (tmp_path/'r.html').read_text(encoding='utf-8')

def test_wildcards_are_expanded_on_windows_alone(cli, trained, faces, tmp_path, monkeypatch):
    "cmd.exe leaves patterns to the command; a bracket there is a letter, and what matches nothing stays as it is"
    jpeg = sorted((faces/'fake').rglob('*.jpg'))[0]
    for o in ('b.jpg','a [1].jpg','c.png'): shutil.copy(jpeg, tmp_path/o)
    ask = lambda *a: [Path(o['path']).name for o in json.loads(cli('predict', *a, '--model', trained/'cnn2', '--json')[1])]
    monkeypatch.setattr(sys, 'platform', 'linux')
    assert ask(tmp_path/'b.jpg', tmp_path/'*.jpg') == ['b.jpg','*.jpg']          # on Linux the shell has done that
    monkeypatch.setattr(sys, 'platform', 'win32')
    assert ask(tmp_path/'*.jpg') == ['a [1].jpg','b.jpg']
    assert ask(tmp_path/'a [1].jpg', tmp_path/'?.png', tmp_path/'*.gif') == ['a [1].jpg','c.png','*.gif']
    shutil.copy(jpeg, tmp_path/'a 1.jpg')
    assert ask(tmp_path/'a [1].jpg') == ['a [1].jpg']
