"What the benchmark compares computes the same thing; the pixel cache notices damage and shares well. No timings here."
import json,os,subprocess,sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from deepfake_nb.loaders import _release
from deepfake_nb.timing import QUICK,link_files,machine,make_files,row,turns_row
from deepfake_nb import training_speed as ts
from deepfake_nb.speed import torchvision_loader
from deepfake_nb.training_speed import cache_gap
from deepfake_nb import benchmark as bm
from deepfake_nb.core import InputError
from deepfake_nb.sources import make_table
from deepfake_nb.pixels import PixelCache,pixel_cache,read_file
from deepfake_nb.split import load_data
from deepfake_nb.images import open_image,reading_side,squish

@pytest.fixture(scope='module')
def files(tmp_path_factory): return make_files(tmp_path_factory.mktemp('bench')/'files', 40)

@pytest.fixture(scope='module')
def table(files): return make_table(data=files)

@pytest.fixture(scope='module')
def large(tmp_path_factory):
    "A photograph-like JPEG of 1280 x 1100, lying on its side"
    rng = np.random.default_rng(0)
    px = np.asarray(Image.fromarray(rng.integers(0, 256, (40,44,3), np.uint8)).resize((1100,1280), Image.Resampling.BICUBIC)).astype(int)+rng.normal(0, 6, (1280,1100,3))
    exif = Image.Exif(); exif[0x0112] = 6
    path = tmp_path_factory.mktemp('large')/'large.jpg'
    Image.fromarray(px.clip(0, 255).astype(np.uint8)).save(path, quality=92, exif=exif)
    return path

# images

@pytest.mark.parametrize('size', (64,128,224,256,299))
def test_reduced_decoding_stays_within_its_bound(large, size):
    whole,reduced = (squish(open_image(large, o), size).astype(int) for o in (None,reading_side(size)))
    d = abs(whole-reduced)
    assert d.mean() <= .5 and d.max() <= 12
    assert min(open_image(large, reading_side(size)).size) >= 2*size

def test_hashes_and_pixels_do_not_depend_on_what_else_is_asked(large):
    one,two = read_file(large, (64,)),read_file(large, (64,224,299,600))
    near = read_file(large, (64,), 'nearest')
    assert one[1:2] == two[1:2] == near[1:2]
    np.testing.assert_array_equal(one[2], two[2]); np.testing.assert_array_equal(one[2], near[2])
    np.testing.assert_array_equal(one[0][0], two[0][0])
    np.testing.assert_array_equal(near[0][0], squish(open_image(large), 64, 'nearest'))       # the paper's filter gets all pixels

# the cache

def flip(file, at):
    with open(file, 'r+b') as f:
        f.seek(at); b = f.read(1)[0]
        f.seek(at); f.write(bytes([b^1]))

@pytest.mark.parametrize('name', ('pixels_32.bin','files.csv','bad_files.csv','meta.json'))
def test_damage_is_noticed_and_mended(table, tmp_path, name):
    c = pixel_cache(table, (32,), cache=tmp_path)
    want,file = np.array(c.pixels[32]),c.folder/name
    for spoil in (lambda: flip(file, file.stat().st_size//2), lambda: file.write_bytes(file.read_bytes()[:-3]), file.unlink):
        spoil()
        again = pixel_cache(table, (32,), cache=tmp_path)
        np.testing.assert_array_equal(again.pixels[32], want)
        assert len(again.files)==40 and PixelCache(again.folder)
    assert [o.name for o in tmp_path.iterdir()] == [c.folder.name], 'nothing is left beside the cache'

def test_a_changed_file_makes_another_cache(files, tmp_path):
    import shutil
    shutil.copytree(files, tmp_path/'files')
    table = make_table(data=tmp_path/'files')
    a = pixel_cache(table, (32,), cache=tmp_path/'cache')
    Image.new('RGB', (64,64), 'red').save(table.path[0])
    b = pixel_cache(table, (32,), cache=tmp_path/'cache')
    assert a.folder != b.folder
    row = b.files.index[b.files.path==table.path[0]][0]
    assert abs(b.pixels[32][row].astype(int)-[255,0,0]).max() < 8

def test_rows_are_the_pixels_of_their_files_whatever_the_seed(table, tmp_path):
    stores = [pixel_cache(table, (32,), seed=s, cache=tmp_path) for s in (0,1,2)]
    assert len({o.folder for o in stores})==1 and stores[0].files.path.tolist()!=stores[1].files.path.tolist()
    labels = table.set_index('path').label
    for s in stores:
        for i in s.files.index[:5]: np.testing.assert_array_equal(s.pixels[32][i], squish(open_image(s.files.path[i]), 32))
        assert (labels[s.files.path].to_numpy()==s.files.label).all()

def build(args): return pixel_cache(*args[:2], cache=args[2]).folder.name

def test_two_builders_at_once(table, tmp_path):
    with ProcessPoolExecutor(2, get_context('spawn')) as pool: names = list(pool.map(build, [(table, (32,), tmp_path)]*4))
    assert len(set(names))==1 and [o.name for o in tmp_path.iterdir()] == names[:1]
    assert len(PixelCache(tmp_path/names[0]).files)==40

def test_what_a_killed_builder_left_is_swept(table, tmp_path):
    folder = pixel_cache(table, (32,), cache=tmp_path).folder
    old,new = (tmp_path/f'.{folder.name}-{o*32}' for o in 'ab')
    for o in (old,new): o.mkdir(); (o/'pixels_32.bin').write_bytes(b'x')
    for o in (old/'pixels_32.bin',old): os.utime(o, (0,0))
    (folder/'meta.json').unlink()
    pixel_cache(table, (32,), cache=tmp_path)
    assert not old.exists() and new.exists(), 'only what nobody writes to any more'

def test_pixels_held_elsewhere_are_the_same_batches(table, monkeypatch):
    from deepfake_nb import loaders as D
    data = load_data(table, 32)
    want = next(iter(data.loader('train', 8)))[0]
    monkeypatch.setattr(D, 'has_room', lambda nbytes, device: True)       # as if this memory were a GPU's
    held = data.on('cpu')
    data.__dict__.pop('_held')
    held = data.on('cpu')
    assert held is not data and isinstance(held.pixels, torch.Tensor) and held is data.on('cpu')
    assert torch.equal(next(iter(data.loader('train', 8)))[0], want)
    cut = [(torch.manual_seed(0), o.get_batch(data.rows('train')[:6], lambda x: x))[1] for o in (held,replace(data))]
    assert torch.equal(*cut)

def test_big_maps_give_their_pages_back(table, monkeypatch):
    from deepfake_nb import loaders as D
    data = load_data(table, 32)
    x = data.get_batch(data.rows('train'))
    _release(data.pixels, most=0)
    assert torch.equal(x, data.get_batch(data.rows('train')))

# ours and the peers

def test_the_readers_give_the_same_pictures(files, table):
    ours = load_data(table, 64, resample='bilinear')
    peer = torchvision_loader(files, 64, 64).dataset
    row = {p:i for i,p in ours.table.path.items()}
    for path,label in peer.samples[::7]:
        x = peer[[p for p,_ in peer.samples].index(path)][0]
        assert (x-ours.get_batch([row[path]])[0].float()/255).abs().mean() < 2/255
        assert peer.classes[label] == ('real','fake')[ours.table.label[row[path]]]

def test_detector_and_plain_loop_agree(files, tmp_path):
    run = bm.small_run(files, 'resnet18', 64, tmp_path)
    paths = sorted(files.rglob('*.jpg'))
    r = bm.detector_row(run, paths, [int(o.parent.name=='fake') for o in paths], 'float32', 1)
    assert r['gap'] < 1e-4

def test_features_equal_training_through_the_backbone(table): assert cache_gap(load_data(table, 64), 'resnet18', 8) < 1e-3

def test_rows_keep_the_contract():
    rows = [row('a', 1., 4., 's', 3.), row('b', 10., 4., 'images/s', 3.), row('c', 5., None, 'GiB', 4.), row('d')]
    assert [o['met'] for o in rows] == [True,False,False,None]
    for r in rows: assert {'name','ours','peer','unit','ratio','goal','met'} <= set(r)
    res = dict(machine=machine(), rows=rows, speeds=[], points=[])
    assert json.loads(json.dumps(res, allow_nan=False)) == res
    t = turns_row('turns', lambda: None, lambda: sum(range(10000)), 1., rounds=3)
    assert t['ratio'] > 1 and t['met'] is True

def test_the_command_prints_one_document(cli, monkeypatch, tmp_path):
    res = dict(machine=machine(), rows=[row('a', 1., 4., 's', 3.)], speeds=[dict(model='m', precision='p', images_per_second=1.)], points=[dict(n=1, size=2, read=1., epoch=1., before=1., peak=2.)])
    monkeypatch.setattr(bm, 'benchmark', lambda *a: res)
    code,out,_ = cli('benchmark', '--json', '--out', tmp_path/'b.json')
    assert code==0 and json.loads(out)==res==json.loads((tmp_path/'b.json').read_text()) and (tmp_path/'b.png').exists()
    code,out,_ = cli('benchmark')
    assert code==0 and '| a' in out

def test_what_is_measured_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(bm, 'reading_rows', lambda *a: [row('a', 1., 4., 's', 3.)])
    monkeypatch.setattr(bm, 'frozen_rows', lambda *a: 1/0)
    with pytest.raises(ZeroDivisionError): bm.benchmark(replace(QUICK, n=20, counts=(20,)), out=tmp_path/'b.json')
    assert [o['name'] for o in json.loads((tmp_path/'b.json').read_text())['rows']] == ['a']

def test_a_result_that_would_be_its_own_picture_is_refused(cli, tmp_path):
    code,out,err = cli('benchmark', '--quick', '--out', tmp_path/'b.png')
    assert code==2 and out=='' and 'must end in .json' in err and not list(tmp_path.iterdir())

def test_one_class_alone_is_refused(files):
    with pytest.raises(InputError, match='both'): link_files([files/'train'/'real'], [], files.parent/'no', 10)

def test_help_imports_nothing_heavy():
    code = "import sys; sys.argv=['deepfake-nb','benchmark','--help']\nfrom deepfake_nb.cli import main\ntry: main()\nexcept SystemExit: pass\nprint([o for o in ('torch','pandas','numpy','PIL','matplotlib') if o in sys.modules], file=sys.stderr)"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.stderr.strip().endswith('[]'), r.stderr

# the peers do the same work

@pytest.fixture
def peers(files, monkeypatch):
    "The learners of fastai that a function of the benchmark would time"
    def find(rows):
        seen = []
        with monkeypatch.context() as m:
            m.setattr(ts, '_quiet', lambda learn, *args, **kw: seen.append(learn))
            m.setattr(ts, 'turns_row', lambda name, ours, peer, *args: peer() or {})
            for o in ('cache_gap','maps_gap'): m.setattr(ts, o, lambda *args: 0.)
            rows(files, QUICK)
        return seen
    return find

def learning(body): return {k for k,p in body.named_parameters() if p.requires_grad}

def test_the_frozen_peer_is_frozen(peers):
    "As fastai freezes: all but batch norm"
    for learn in peers(ts.frozen_rows):
        kinds = {type(m).__name__ for m in learn.model[0].modules() for p in m.parameters(False) if p.requires_grad}
        assert kinds=={'BatchNorm2d'}

def test_the_peer_of_the_second_stage_learns_the_same_layers(peers, files):
    learn, = peers(ts.quarter_rows)
    ours = ts.quarter_learner(load_data(make_table(data=files), 64), 'resnet18', 8, maps=False)
    assert learning(learn.model[0].model)==learning(ours.model.backbone)!=set()

def test_seven_epochs_from_two(files, tmp_path, monkeypatch):
    "What is done once counts once, and an epoch seven times"
    def train(name, data, folder, settings):
        folder.mkdir()
        pd.DataFrame(dict(stage=['frozen','frozen','unfrozen','unfrozen'], seconds=[1,3,10,10])).to_csv(folder/'history.csv')
        return dict(seconds=24+5)
    monkeypatch.setattr(ts, 'train_model', train)
    seconds = ts.paper_seconds(files, ['resnet18'], 64, tmp_path)
    assert 5+7*(2+10) <= seconds < 5+7*(2+10)+30
    assert len(list((tmp_path/'weights').glob('*.safetensors')))==1
