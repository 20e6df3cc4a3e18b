"The embedded sample: same bytes twice, one codec path, whole or not there, nothing that leaks"
import errno,shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures,StandardScaler

from deepfake_nb import gan
from deepfake_nb.core import InputError
from deepfake_nb.sample import cached_sample,make_sample,share
from deepfake_nb.portraits import draw_portrait,photograph
from deepfake_nb.gan import GENERATORS,MAX_N,generate,load_generator,weights_path


def read_all(d): return {o.relative_to(d).as_posix():o.read_bytes() for o in sorted(d.rglob('*')) if o.is_file()}

def one_line(e):
    s = str(e.value)
    return '\n' not in s and (':' in s or ';' in s) and len(s) < 400

@pytest.fixture(scope='module')
def sample(tmp_path_factory): return make_sample(tmp_path_factory.mktemp('sample')/'s', 300)

# --- portraits and camera

def test_portrait_is_its_seed():
    a,b = draw_portrait(5),draw_portrait(5)
    assert a.mode == 'RGB' and a.size == (64,64) and a.tobytes() == b.tobytes() != draw_portrait(6).tobytes()

@pytest.mark.parametrize('size', [16, 48, 64, 100, 224, 512])
def test_same_person_at_every_size(size):
    o = draw_portrait(11, size)
    assert o.size == (size,size)
    a,b = (np.asarray(i.resize((16,16), Image.BOX), float) for i in (o, draw_portrait(11, 256)))
    assert np.abs(a-b).mean() < 8

@pytest.mark.parametrize('seed,size', [(-1,64), (0,0), (0,-5), (0,10**6)])
def test_bad_portrait(seed, size):
    with pytest.raises(InputError) as e: draw_portrait(seed, size)
    assert one_line(e)

def test_no_two_alike():
    assert len({draw_portrait(i).tobytes() for i in range(150)}) == 150

def test_camera_is_its_seed():
    o = draw_portrait(1)
    a,b,c = photograph(o, 1),photograph(o, 1),photograph(o, 2)
    assert a.tobytes() == b.tobytes() != c.tobytes() and a.size == o.size

# --- generators

@pytest.mark.parametrize('name', GENERATORS)
def test_generator(name):
    a = generate(name, 40, 3)
    assert a.shape == (40,64,64,3) and a.dtype == np.uint8
    assert (a == generate(name, 40, 3)).all() and not (a == generate(name, 40, 4)).all()
    assert not any(p.requires_grad for p in load_generator(name).parameters())

@pytest.mark.parametrize('name', GENERATORS)
def test_generator_is_diverse(name):
    "Two fakes differ about as much as two portraits, and no two are twins"
    def spread(imgs):
        x = imgs.reshape(len(imgs), 16, 4, 16, 4, 3).mean((2,4)).reshape(len(imgs), -1)
        d = np.sqrt(((x[:,None] - x[None])**2).mean(-1))
        return d[np.triu_indices(len(x), 1)]
    fake,real = spread(generate(name, 60)),spread(np.stack([np.asarray(draw_portrait(i)) for i in range(60)]))
    assert np.median(fake) > .6*np.median(real) and fake.min() > .2*real.min()

def test_weights_are_small(): assert sum(weights_path(o).stat().st_size for o in GENERATORS) < 4e6

def test_unknown_generator():
    with pytest.raises(InputError) as e: generate('stylegan', 2)
    assert one_line(e)

def test_damaged_weights(tmp_path, monkeypatch):
    (tmp_path/'w').write_bytes(b'no weights')
    monkeypatch.setattr(gan, 'weights_path', lambda name: tmp_path/'w')
    with pytest.raises(InputError) as e: load_generator(GENERATORS[0])
    assert one_line(e)

# --- the sample

def test_same_seed_same_bytes(tmp_path):
    a,b,c = [read_all(make_sample(tmp_path/s, 12, i)) for s,i in (('a',5), ('b',5), ('c',6))]
    assert a == b and a.keys() == c.keys() and a != c

@pytest.mark.parametrize('n', [1, 2, 5])
def test_counts(tmp_path, n):
    d = make_sample(tmp_path/'s', n)
    assert len(list(d.glob('real/*.jpg'))) == n == len(list(d.glob('fake/*/*.jpg'))) == sum(share(n).values())
    assert {o.name for o in d.iterdir()} == {'real','fake'}

def test_one_codec_path(sample):
    def look(p):
        with Image.open(p) as o: return o.format,o.mode,o.size,sorted(o.info),tuple(l[1:3] for l in o.layer)
    def tables(p):
        with Image.open(p) as o: return str(o.quantization)
    real,fake = list(sample.glob('real/*')),list(sample.glob('fake/*/*'))
    assert len(real) == len(fake) == 300
    assert len({str(look(p)) for p in real+fake}) == 1
    assert {tables(p) for p in real} == {tables(p) for p in fake}
    assert {p.name for p in fake} <= {p.name for p in real}

def auc(X, y):
    m = make_pipeline(StandardScaler(), PolynomialFeatures(2), LogisticRegression(C=.3, max_iter=2000))
    return cross_val_score(m, X, y, cv=5, scoring='roc_auc').mean()

def test_no_leak_by_size_or_colour(sample):
    paths = sorted(sample.rglob('*.jpg'))
    y = np.array(['fake' in p.parts for p in paths])
    size = np.array([[p.stat().st_size] for p in paths], float)
    colour = np.array([np.asarray(Image.open(p)).mean((0,1)) for p in paths])
    assert auc(size, y) < .6
    assert auc(colour, y) < .6

# --- bad input

@pytest.mark.parametrize('n', [0, -3, MAX_N+1, 10**12, 2.5, True, None, 'ten'])
def test_bad_n(tmp_path, n):
    for f in (lambda: make_sample(tmp_path/'s', n), lambda: cached_sample(n, cache=tmp_path/'c'), lambda: generate(GENERATORS[0], n)):
        with pytest.raises(InputError) as e: f()
        assert one_line(e)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('seed', [-1, 1.5, None])
def test_bad_seed(tmp_path, seed):
    with pytest.raises(InputError) as e: make_sample(tmp_path/'s', 2, seed)
    assert one_line(e) and not list(tmp_path.iterdir())

def test_never_mixed_in(tmp_path):
    (tmp_path/'mine.txt').write_text('mine')
    with pytest.raises(InputError) as e: make_sample(tmp_path, 2)
    assert one_line(e) and read_all(tmp_path) == {'mine.txt':b'mine'}
    with pytest.raises(InputError): make_sample(tmp_path/'mine.txt', 2)
    assert read_all(tmp_path) == {'mine.txt':b'mine'}

def test_empty_folder_is_fine(tmp_path):
    (tmp_path/'s').mkdir()
    make_sample(tmp_path/'s', 2)
    assert len(read_all(tmp_path/'s')) == 4 and len(list((tmp_path/'s').iterdir())) == 2

def test_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_sample('.', 2)
    assert {o.name for o in tmp_path.iterdir()} == {'real','fake'}

def test_unwritable(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(InputError) as e: make_sample(tmp_path/'file'/'a'/'b', 2)
    assert one_line(e) and list(read_all(tmp_path)) == ['file']

def test_read_only(tmp_path, monkeypatch):
    def refuse(*args, **kw): raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(Path, 'mkdir', refuse)
    with pytest.raises(InputError) as e: make_sample(tmp_path/'s', 2)
    assert one_line(e) and 'Permission' in str(e.value) and not list(tmp_path.iterdir())

@pytest.mark.parametrize('dest', ['s', 'new/deep/s', ''])
def test_no_space_left(tmp_path, monkeypatch, dest):
    "The disk is full after the third file: nothing stays, not even the folders on the way"
    write,done = Path.write_bytes,[]
    def full(self, data):
        if len(done) == 3: raise OSError(errno.ENOSPC, 'No space left on device')
        done.append(write(self, data))
    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(InputError) as e: make_sample(tmp_path/dest, 6)
    assert one_line(e) and 'No space left' in str(e.value) and not list(tmp_path.iterdir())

# --- the cache

def test_cache(tmp_path):
    d = cached_sample(4, cache=tmp_path)
    before,stamp = read_all(d),(d/'manifest.json').stat().st_mtime_ns
    assert cached_sample(4, cache=tmp_path) == d and (d/'manifest.json').stat().st_mtime_ns == stamp
    assert cached_sample(5, cache=tmp_path) != d != cached_sample(4, 1, cache=tmp_path)
    assert {k:v for k,v in before.items() if k != 'manifest.json'} == read_all(make_sample(tmp_path/'x', 4))

def truncate(d): p = d/'real/00001.jpg'; p.write_bytes(p.read_bytes()[:100])
def lose(d): (d/'fake/resize/00000.jpg').unlink()
def stray(d): (d/'real/holiday.jpg').write_bytes(b'x')
def no_list(d): (d/'manifest.json').unlink()
def bad_list(d): (d/'manifest.json').write_text('{"real')
def a_file(d): shutil.rmtree(d); d.write_text('')

@pytest.mark.parametrize('damage', [truncate, lose, stray, no_list, bad_list, a_file])
def test_damaged_cache_is_rebuilt(tmp_path, damage):
    d = cached_sample(4, cache=tmp_path)
    before = read_all(d)
    damage(d)
    assert cached_sample(4, cache=tmp_path) == d and read_all(d) == before
    assert [o.name for o in tmp_path.iterdir()] == [d.name]

def test_cache_follows_xdg(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'xdg'))
    assert tmp_path/'xdg' in cached_sample(1).parents

def test_cache_cannot_be_written(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(InputError) as e: cached_sample(2, cache=tmp_path/'file')
    assert one_line(e)
