"Inputs from outside: layouts, labels, formats and places that people really have; each is understood, or refused in one line."
import json,os,shutil,signal,stat,subprocess,sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from conftest import SMALL
from test_cli import files,refused

from deepfake_nb.core import InputError,PLOT_MARK
from deepfake_nb.pixels import read_file
from deepfake_nb.split import load_data
from deepfake_nb.images import find_images,open_image
from deepfake_nb.sources import from_csv,from_splits,make_table

def pictures(faces, label): return sorted((faces/label).rglob('*.jpg'))

def put(paths, folder):
    "Copy `paths` into `folder` under new names"
    folder.mkdir(parents=True, exist_ok=True)
    for i,o in enumerate(paths): shutil.copy(o, folder/f'{i:03}.jpg')
    return folder

@pytest.fixture
def compare(cli, tmp_path):
    "A quick comparison into tmp_path/run: (exit code, stdout, stderr)"
    return lambda *a, out='run': cli('compare', '--models', 'cnn1', *SMALL, '--no-audit', *a, '--out', tmp_path/out)

# labels and splits

def csv_of(faces, path, **columns):
    "A CSV of ten real and ten fake pictures; columns are functions of the label"
    rows = [dict(path=str(o), **{k:f(l) for k,f in columns.items()}) for l in ('real','fake') for o in pictures(faces, l)[:10]]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path

def truth(df): return [int('/fake/' in o) for o in df.path]

@pytest.mark.parametrize('columns', [dict(label=lambda l: l), dict(label=lambda l: l.upper()), dict(label=lambda l: int(l=='fake')), dict(label_str=lambda l: l),
    dict(label=lambda l: int(l=='real'), label_str=lambda l: l.title())], ids=['words','capitals','ours','only words','turned numbers'])
def test_labels_in_words_and_numbers(faces, tmp_path, columns):
    df = from_csv(csv_of(faces, tmp_path/'t.csv', **columns))
    assert list(df.label) == truth(df)

@pytest.mark.parametrize('columns,words', [(dict(label=lambda l: int(l=='real')), 'folder'), (dict(label=lambda l: 1, label_str=lambda l: l), 'mend one'),
    (dict(label=lambda l: 'fake' if l=='real' else 'real'), 'folder'), (dict(label=lambda l: 'genuine'), 'not one of'), (dict(label=lambda l: 'real', label_str=lambda l: l), 'mend one')])
def test_labels_that_contradict_each_other(faces, tmp_path, columns, words):
    with pytest.raises(InputError, match=words) as e: from_csv(csv_of(faces, tmp_path/'t.csv', **columns))
    assert '\n' not in str(e.value) and 'line ' in str(e.value)

@pytest.mark.parametrize('names,labels', [(('train','val','test'),('real','fake')), (('Training','Validation','Testing'),('REAL','Fake')),
    (('TRAIN','VALID','TEST'),('0_real','1_fake')), (('train','valid','test'),('real_images','fakes'))])
def test_splits_by_any_name(faces, tmp_path, names, labels):
    root = tmp_path/'real_vs_fake'/'real-vs-fake'
    for s,name in enumerate(names):
        for l,folder in zip(('real','fake'), labels): put(pictures(faces, l)[10*s:10*s+10], root/name/folder)
    for o in (root,root.parent,tmp_path):
        df = from_splits(o)
        assert df.groupby(['split','label']).size().to_dict() == {(s,l):10 for s in ('train','valid','test') for l in (0,1)}
        assert list(df.label) == [int(f'/{labels[1]}/' in o) for o in df.path]

def test_the_report_says_how_it_was_divided(compare, faces, tmp_path):
    for s,part in dict(train=slice(0,20), val=slice(20,30)).items():
        for l in ('real','fake'): put(pictures(faces, l)[part], tmp_path/'d'/s/l)
    code,text,_ = compare('--data', tmp_path/'d')
    t = pd.read_csv(tmp_path/'run'/'table.csv')
    assert code == 0 and 'The train and valid splits came with the data.' in text
    assert set(t.split[t.path.str.contains('/val/')]) == {'valid'} and set(t.split[t.path.str.contains('/train/')]) == {'train'}
    shutil.rmtree(tmp_path/'d'/'val')
    assert 'a fifth of the training split is kept' in compare('--data', tmp_path/'d', out='b')[1]
    put(pictures(faces, 'real')[:3], tmp_path/'d'/'extra'/'real')
    refused(compare('--data', tmp_path/'d', out='c'), 'extra', 'train, valid or test')

# people

@pytest.mark.parametrize('images,ids,parts,ext', [('Img/img_align_celeba','Anno/identity_CelebA.txt','Eval/list_eval_partition.txt','.jpg'),
    ('img_align_celeba/img_align_celeba','identity_CelebA.csv','list_eval_partition.csv','.jpg'), ('img_align_celeba','identity_CelebA.txt','list_eval_partition.csv','.png')])
@pytest.mark.parametrize('inner', [False,True])
def test_celeba_and_a_plain_folder_of_fakes(compare, faces, tmp_path, images, ids, parts, ext, inner):
    root = tmp_path/'celeba'
    for o in (ids,parts): (root/o).parent.mkdir(parents=True, exist_ok=True)
    (root/images).mkdir(parents=True)
    names = [f'{i+1:06}' for i in range(40)]
    for n,o in zip(names, pictures(faces, 'real')): shutil.copy(o, root/images/f'{n}{ext}')
    head,sep = ('image_id,value\n',',') if parts.endswith('csv') else ('',' ')
    (root/ids).write_text(''.join(f'{n}.jpg{"," if ids.endswith("csv") else " "}{i//2}\n' for i,n in enumerate(names)))
    (root/parts).write_text(head+''.join(f'{n}.jpg{sep}{(i>=24)+(i>=32)}\n' for i,n in enumerate(names)))
    df = make_table([root/images if inner else root], [faces/'fake'], partition=True)
    assert df[df.label==0].split.value_counts().to_dict() == dict(train=24, valid=8, test=8) == df[df.label==1].split.value_counts().to_dict()
    assert df[df.label==0].group.nunique() == 20
    if inner: assert compare('--real', root/images, '--fake', faces/'fake', '--partition')[0] == 0

def test_a_partition_that_is_not_there(compare, faces, tmp_path):
    refused(compare('--real', faces/'real', '--fake', faces/'fake', '--partition'), '--partition', 'no source is CelebA')
    put(pictures(faces, 'real'), tmp_path/'c'/'img_align_celeba')
    refused(compare('--real', tmp_path/'c', '--fake', faces/'fake', '--partition'), 'list_eval_partition')
    (tmp_path/'c'/'identity_CelebA.txt').write_text('999999.jpg 7\n')
    refused(compare('--real', tmp_path/'c', '--fake', faces/'fake'), 'identity_CelebA', 'names none')

# files

def jpeg_with(faces, exif):
    import io
    buf = io.BytesIO(); Image.open(pictures(faces, 'real')[0]).save(buf, 'jpeg', exif=exif)
    return buf.getvalue()

@pytest.mark.parametrize('value,kind,n', [(b'\xff\xff\xff\xff\0\0\0\0', 5, 1), (b'\0\0\0\0\0\0\0\0', 10, 1), (b'\xff\xff\xff\x7f', 2, 2**31-1), (b'abc\0', 5, 9)])
def test_exif_that_cannot_be_read_costs_nothing(faces, value, kind, n):
    "An orientation stands before a field that is nonsense"
    tag = lambda t, k, count, v: t.to_bytes(2, 'big')+k.to_bytes(2, 'big')+count.to_bytes(4, 'big')+v[:4].ljust(4, b'\0')
    block = b'Exif\0\0MM\0*\0\0\0\x08'+(2).to_bytes(2, 'big')+tag(0x112, 3, 1, b'\0\x06')+tag(0x11a, kind, n, (38).to_bytes(4, 'big'))+bytes(4)+value
    img = open_image(jpeg_with(faces, block))
    want = open_image(jpeg_with(faces, b'')).transpose(Image.Transpose.ROTATE_270)
    assert img.size == want.size and np.abs(np.asarray(img).astype(int)-np.asarray(want)).mean() < 3

@pytest.mark.parametrize('error', [RuntimeError,NotImplementedError,TypeError,MemoryError,KeyError,ZeroDivisionError])
def test_whatever_a_decoder_raises_is_that_files_error(faces, tmp_path, compare, monkeypatch, error):
    shutil.copytree(faces, tmp_path/'d')
    first = pictures(tmp_path/'d', 'real')[0]
    Image.open(first).save(first.with_suffix('.gif'))
    from PIL import GifImagePlugin
    def fail(self): raise error('deep inside')
    monkeypatch.setattr(GifImagePlugin.GifImageFile, 'load', fail)
    assert isinstance(read_file(first.with_suffix('.gif')), str)
    assert compare('--real', tmp_path/'d'/'real', '--fake', tmp_path/'d'/'fake')[0] == 0
    assert list(pd.read_csv(tmp_path/'run'/'bad_files.csv').path) == [str(first.with_suffix('.gif'))]

def test_our_own_mistakes_still_show(faces, monkeypatch):
    from deepfake_nb import images
    monkeypatch.setattr(images, '_eight_bits', lambda img: img.nothing)
    with pytest.raises(AttributeError): open_image(pictures(faces, 'real')[0])

def test_nothing_that_can_be_read(compare, faces, tmp_path):
    for i in range(30): (put([], tmp_path/'bad')/f'{i:02}.jpg').write_bytes(b'%!PS-Adobe-3.0\n{} loop\n')
    refused(compare('--real', tmp_path/'bad', '--fake', faces/'fake'), 'none of the 30 real images', 'not an image', '00.jpg')
    refused(compare('--real', faces/'real', '--fake', tmp_path/'bad'), 'none of the 30 fake images')

@pytest.mark.parametrize('fmt', ['eps','ico','pcx','tga','im','msp','sgi','spider','xbm','icns','dds','jpeg2000'])
def test_other_formats_stay_closed_whatever_they_are_called(fmt, tmp_path):
    file = tmp_path/f'a.{fmt}'
    Image.new('1' if fmt in ('msp','xbm') else 'F' if fmt=='spider' else 'RGB', (64,64)).save(file, fmt)
    file.rename(tmp_path/'a.jpg')
    with pytest.raises(ValueError, match='not an image'): open_image(tmp_path/'a.jpg')

def test_what_is_left_out_is_listed(compare, faces, tmp_path):
    "AVIF is read, HEIC is told; hidden folders, thumbnails, link loops and pipes do no harm"
    d = tmp_path/'d'
    shutil.copytree(faces, d)
    for o in pictures(d, 'real')[:20]: Image.open(o).save(o.with_suffix('.avif'), quality=95); o.unlink()
    (d/'real'/'x.heic').write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0')
    os.mkfifo(d/'real'/'pipe.jpg')
    for o in ('.hidden','@eaDir','thumbnails'): put(pictures(faces, 'fake')[:3], d/'real'/o)
    (d/'real'/'loop').symlink_to(d/'real')
    code,_,_ = compare('--real', d/'real', '--fake', d/'fake')
    t,bad = pd.read_csv(tmp_path/'run'/'table.csv'),pd.read_csv(tmp_path/'run'/'bad_files.csv')
    assert code == 0 and len(t) == 80 and t.path.str.endswith('.avif').sum() == 20 and not t.path.str.contains('loop|hidden|eaDir|thumb').any()
    assert {Path(o).name:r for o,r in zip(bad.path, bad.reason)} == {'x.heic':'HEIC, which is not read here: convert it to JPEG or PNG', 'pipe.jpg':'not a regular file'}

def test_plots_are_not_photographs(compare, faces, tmp_path):
    shutil.copytree(faces, tmp_path/'d')
    ours = '--real', tmp_path/'d'/'real', '--fake', tmp_path/'d'/'fake'
    refused(compare(*ours, out='d/real/run'), 'a folder of the images')
    assert not (tmp_path/'d'/'real'/'run').exists()
    compare(*ours)
    shutil.copytree(tmp_path/'run', tmp_path/'d'/'real'/'old')
    assert len(find_images(tmp_path/'d'/'real')) == 40
    shutil.copy(tmp_path/'run'/'comparison.png', tmp_path/'d'/'real'/'a.png')
    assert 'a plot of this package' in read_file(tmp_path/'d'/'real'/'a.png')

def test_files_are_for_others_too(compare, faces, tmp_path):
    before = os.umask(0o022)
    try: compare('--real', faces/'real', '--fake', faces/'fake')
    finally: os.umask(before)
    modes = {stat.S_IMODE(o.stat().st_mode) for o in (tmp_path/'run').rglob('*') if o.is_file()}
    assert modes == {0o644}

def test_names_that_are_no_utf8_and_names_that_do_harm(compare, faces, tmp_path):
    shutil.copytree(faces, tmp_path/'d')
    names = [b'caf\xe9.jpg', b'=1+1.jpg', b'a\nb.jpg', b'\x1b[2J.jpg', b'<b>.jpg']
    for o,n in zip(pictures(tmp_path/'d', 'real'), names): os.rename(o, os.fsencode(tmp_path/'d'/'real')+b'/'+n)
    evil = tmp_path/'=<img src=x>|y'
    (tmp_path/'d'/'fake').rename(evil)
    code,text,err = compare('--real', tmp_path/'d'/'real', '--fake', evil)
    assert code == 0 and '\x1b' not in text+err and '<img' not in text
    t = pd.read_csv(tmp_path/'run'/'table.csv', encoding_errors='surrogateescape')
    assert len(t) == 80 and set(map(os.fsencode, t.path)) >= {os.fsencode(tmp_path/'d'/'real')+b'/'+n for n in names}
    assert all(o[0]!='=' for o in t.source)
    for name in ('comparison.md','cnn1/model_card.md','report.html'): assert '<img src=x' not in (tmp_path/'run'/name).read_text()

# words

@pytest.mark.parametrize('path,words', [('https://example.org/faces', 'nothing is fetched'), ('-', 'standard input'), ('~/nowhere', 'whole path'), ('', 'an empty path')])
def test_paths_that_cannot_be(compare, faces, path, words): refused(compare('--real', path, '--fake', faces/'fake'), words)

def test_files_that_are_no_table(compare, faces, tmp_path):
    refused(compare('--real', pictures(faces, 'real')[0], '--fake', faces/'fake'), 'is one picture')
    shutil.make_archive(tmp_path/'a', 'zip', faces/'real')
    refused(compare('--real', tmp_path/'a.zip', '--fake', faces/'fake'), 'unpack it first')
    for name,data,word in (('semi','path;label\na;real\n','commas'), ('latin','path,label\ncaf\xe9,real\n','UTF-8')):
        (tmp_path/f'{name}.csv').write_bytes(data.encode('latin-1'))
        refused(compare('--real', tmp_path/f'{name}.csv', '--fake', faces/'fake'), word)

def test_the_same_folder_written_otherwise_is_the_same_run(compare, faces, tmp_path, monkeypatch):
    assert compare('--real', faces/'real', '--fake', faces/'fake')[0] == 0
    assert compare('--real', f"{faces/'real'}/", '--fake', faces/'..'/faces.name/'fake', '--resume')[0] == 0

def test_resume_touches_nothing_that_is_no_run(compare, faces, tmp_path):
    mine = put(pictures(faces, 'real')[:1], tmp_path/'mine')
    for o in (f'.x-{"0"*32}','.tmpabc123'): (mine/o).mkdir(); (mine/o/'letter').write_text('mine')
    before = files(mine)
    refused(compare('--real', faces/'real', '--fake', faces/'fake', '--resume', out='mine'), 'no run')
    assert files(mine) == before

def test_evaluate_takes_one_csv_of_both_classes(cli, faces, trained, tmp_path):
    csv = csv_of(faces, tmp_path/'both.csv', label=lambda l: l)
    code,out,_ = cli('evaluate', trained, '--data', csv, '--json')
    assert code == 0 and json.loads(out)['n_real'] == 10

# other users

RUN = "from deepfake_nb.cli import main; main()"

def elsewhere(*args, **env):
    "Run the command in a new process with another environment"
    keep = {k:v for k,v in os.environ.items() if k not in ('HOME','XDG_CACHE_HOME') and not k.startswith('LC_')}
    return subprocess.run([sys.executable, '-c', RUN, *map(str, args)], env=keep|env, capture_output=True, timeout=300)

def test_no_home_and_another_locale(faces, tmp_path):
    shutil.copytree(faces/'real', tmp_path/'d')
    os.rename(pictures(tmp_path, 'd')[0], os.fsencode(tmp_path/'d')+b'/caf\xe9.jpg')
    r = elsewhere('compare', '--real', tmp_path/'d', '--fake', faces/'fake', '--models', 'cnn1', *SMALL, '--no-audit', '--out', tmp_path/'run', LC_ALL='C', PYTHONUTF8='0', TMPDIR=str(tmp_path), MPLBACKEND='Agg')
    assert r.returncode == 0 and b'Traceback' not in r.stderr, r.stderr[-2000:]

def test_ctrl_c_says_how_to_go_on(faces, tmp_path):
    p = subprocess.Popen([sys.executable, '-c', RUN, 'compare', '--real', faces/'real', '--fake', faces/'fake', '--models', 'cnn1', *SMALL, '--epochs', '100000', '--no-audit', '--out', tmp_path/'run'],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    for line in p.stderr:
        if 'epoch 2/' in line: break
    p.send_signal(signal.SIGINT)
    _,err = p.communicate(timeout=60)
    assert p.returncode == 1 and 'interrupted' in err.splitlines()[-1] and '--resume' in err.splitlines()[-1]
