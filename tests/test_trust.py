"The audit names a planted leak and no other; the mend mends it; nothing that means nothing is told."
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image,ImageFilter

from deepfake_nb.images import open_image
from deepfake_nb.audit import KIND_WORDS,auc_interval,audit,common_side,file_facts,worst
from deepfake_nb.robustness import TRANSFORMS,_share,robustness
from deepfake_nb import robustness as changed
from deepfake_nb.core import InputError
from deepfake_nb.sources import make_table
from deepfake_nb.sample import make_sample
from deepfake_nb.images import find_images

@pytest.fixture(scope='module')
def portraits(tmp_path_factory):
    "Real pictures alone"
    return find_images(make_sample(tmp_path_factory.mktemp('p')/'s', 120, seed=7)/'real')

def plant(portraits, out, change):
    "Half of `portraits` as they are, half called fake and saved by `change(img, stem) -> path`"
    for k in ('real','fake'): (out/k).mkdir(parents=True)
    for i,(o,fake) in enumerate(zip(portraits, np.random.default_rng(3).permutation(len(portraits))%2)):
        img,stem = Image.open(o),out/('fake' if fake else 'real')/f'{i:05}'
        if fake: change(img, stem)
        else: img.save(f'{stem}.jpg', quality=90)
    return out

def saved(ext='jpg', change=lambda o: o, **kw): return lambda img, stem: change(img).save(f'{stem}.{ext}', **{**(dict(quality=90) if ext=='jpg' else {}), **kw})

def padded(img, stem):
    img.save(f'{stem}.jpg', quality=90)
    with open(f'{stem}.jpg', 'ab') as f: f.write(bytes(800))

def camera(): exif = Image.Exif(); exif[0x010F] = 'Camera'; return exif

def framed(o): o = o.copy(); o.paste((255,255,255), (0,0,2,o.height)); return o

PLANTS = {'file size':padded, 'dimensions':saved(change=lambda o: o.resize((48,48), Image.Resampling.LANCZOS)), 'format':saved('png'), 'JPEG quality':saved(quality=75), 'JPEG subsampling':saved(subsampling='4:4:4'), 'EXIF':saved(exif=camera()),
    'colour profile':saved(icc_profile=bytes(300)), 'file name':lambda img, stem: img.save(stem.with_name(f'seed{stem.name}.jpg'), quality=90), 'mean colour':saved(change=lambda o: o.point([min(255, v+c) for c in (0,50,0) for v in range(256)])),
    'sharpness':saved(change=lambda o: o.filter(ImageFilter.GaussianBlur(1.5))), 'border':saved(change=framed)}

@pytest.mark.parametrize('kind', PLANTS)
def test_names_the_planted_leak_and_no_other(kind, portraits, tmp_path):
    d = plant(portraits, tmp_path/'d', PLANTS[kind])
    res = audit(make_table([d/'real'], [d/'fake']))
    assert {o['name'] for o in res['probes'] if o['verdict']=='leaks'} == {kind}, [o for o in res['probes'] if o['verdict']!='clean']
    assert res['verdict'] == ('clean' if kind=='file name' else 'leaks'), 'no network sees a name; all others are strong enough to count'

def tinted(strength): return saved(change=lambda o: o.point([min(255, v+c) for c in (0,strength,0) for v in range(256)]))

def test_a_trace_is_named_and_does_not_count_until_it_carries_everything(portraits, tmp_path):
    "A faint tint may be the generator's; one that ranks nine of ten pairs right is no generator's"
    for strength,kind,verdict in ((14,'trace','clean'),(90,'shortcut','leaks')):
        d = plant(portraits, tmp_path/str(strength), tinted(strength))
        res = audit(make_table([d/'real'], [d/'fake']))
        tint = next(o for o in res['probes'] if o['name']=='mean colour')
        assert tint['verdict']!='clean' and (tint['kind'],res['verdict']) == (kind,verdict), (strength,tint)

def test_nothing_planted_is_clean(portraits, tmp_path):
    d = plant(portraits, tmp_path/'d', saved())
    res = audit(make_table([d/'real'], [d/'fake']))
    assert not [o for o in res['probes'] if o['verdict']=='leaks']
    assert res == audit(make_table([d/'real'], [d/'fake'])), 'the same pictures, the same audit'

def test_equalise_takes_the_codec_away(portraits, tmp_path, cli):
    d = plant(portraits, tmp_path/'d', saved('png', lambda o: o.resize((56,56))))
    ours = '--real',d/'real','--fake',d/'fake','--json'
    before,after = (json.loads(cli('audit', *ours, *more)[1]) for more in ((),('--equalise',)))
    assert before['verdict']=='leaks'
    assert {o['verdict'] for o in after['probes'] if o['name'] in ('file size','dimensions','format','JPEG quality','JPEG subsampling','EXIF','colour profile','file name')} == {'clean'}

def test_command_line(faces, cli, tmp_path):
    code,out,_ = cli('audit', '--real', faces/'real', '--fake', faces/'fake', '--json')
    res = json.loads(out)
    assert code==0 and set(res)=={'verdict','probes'} and res['verdict'] in ('leaks','weak','clean')
    assert {frozenset(o) for o in res['probes']} == {frozenset(('name','kind','auc','low','high','verdict','mend'))}
    assert {o['kind'] for o in res['probes']} <= set(KIND_WORDS) and res['verdict']==worst(res['probes'])
    code,out,_ = cli('audit', '--real', faces/'real', '--fake', faces/'fake')
    assert code==0 and out.startswith('verdict: ') and all(f"{o['name']:17} AUC" in out for o in res['probes'])
    few = pd.DataFrame(dict(path=[*map(str, find_images(faces/'real')[:5]),*map(str, find_images(faces/'fake')[:5])], label=['real']*5+['fake']*5))
    few.to_csv(tmp_path/'few.csv', index=False)
    code,out,err = cli('audit', '--real', tmp_path/'few.csv', '--fake', tmp_path/'few.csv')
    assert (code,out)==(2,'') and 'fewer tell nothing' in err and err.count('\n')==1

SHORT = b'Exif\0\0II*\0'    # cut off after the header: Pillow raises struct.error for it

def odd_tables(data):
    "A JPEG whose quantisation table is numbered 3, and used by its first component"
    at = data.index(b'\xff\xdb')
    frame = data.index(b'\xff\xc0')
    return data[:at+4]+bytes([data[at+4]&0xf0|3])+data[at+5:frame+12]+b'\3'+data[frame+13:]

def test_what_a_file_says_wrongly_costs_that_fact_alone(portraits, tmp_path):
    img = Image.open(portraits[0])
    img.save(tmp_path/'exif.png', exif=SHORT)
    img.save(tmp_path/'profile.png', icc_profile=b'no profile')
    img.save(tmp_path/'huge.png', icc_profile=bytes(10**6))       # larger, once unpacked, than the whole file
    (tmp_path/'tables.jpg').write_bytes(odd_tables(portraits[0].read_bytes()))
    img.convert('CMYK').save(tmp_path/'cmyk.jpg')
    img.convert('L').save(tmp_path/'grey.jpg')
    facts = {o.name:file_facts(o) for o in sorted(tmp_path.iterdir())}
    assert all(isinstance(o, dict) for o in facts.values()), facts
    assert all(np.isfinite(v).all() for o in facts.values() for k,v in o.items() if isinstance(v, list))
    assert facts['exif.png']['EXIF']==[-1] and facts['profile.png']['colour profile']==[10]

def test_a_file_that_cannot_be_read_says_why(portraits, tmp_path):
    import os
    data = portraits[0].read_bytes()
    for name,content in dict(empty=b'', text=b'no picture', cut=data[:600], bomb=b'P5 30000 30000 255 ', postscript=b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n{} loop\n').items(): (tmp_path/f'{name}.jpg').write_bytes(content)
    os.mkfifo(tmp_path/'pipe.jpg')
    for o in [*tmp_path.iterdir(),tmp_path/'none.jpg',tmp_path]: assert isinstance(file_facts(o), str), o

def test_a_class_that_cannot_be_read_says_how_many_and_why(faces, tmp_path, cli):
    (tmp_path/'bad').mkdir()
    for i in range(20): (tmp_path/'bad'/f'{i:02}.jpg').write_bytes(b'this was renamed')
    for more in ((),('--equalise',)):
        code,out,err = cli('audit', '--real', faces/'real', '--fake', tmp_path/'bad', *more)
        assert (code,out)==(2,'') and err.count('\n')==1 and '20 failed' in err and '.jpg' in err and 'not an image' in err, err
    for o in list((faces/'real').iterdir())[:8]: (tmp_path/'bad'/o.name).write_bytes(o.read_bytes())
    code,out,err = cli('audit', '--real', faces/'real', '--fake', tmp_path/'bad')
    assert code==2 and 'and 8 fake images that can be read (20 cannot, the first:' in err and err.count('\n')==1, err

def test_pictures_too_small_to_be_read_set_no_common_side(faces, tmp_path):
    (tmp_path/'d').mkdir()
    for i,o in enumerate(sorted((faces/'fake').rglob('*.jpg'))[:20]): Image.open(o).resize((8,8) if i<6 else (40,40)).save(tmp_path/'d'/o.name)
    assert common_side(make_table([faces/'real'], [tmp_path/'d']))['side']==40

def test_groups_that_cannot_be_divided(faces):
    t = make_table([faces/'real'], [faces/'fake'])
    with pytest.raises(InputError, match='fewer than 5 groups'): audit(t.assign(group=t.label.map({0:'a', 1:'b'})))

def test_robustness_of_scores_that_mean_nothing(faces):
    t = make_table([faces/'real'], [faces/'fake'])
    with pytest.raises(InputError, match='same score'): robustness(lambda o: [.5]*len(o), t)
    with pytest.raises(InputError, match='nan'): robustness(lambda o: [float('nan')]*len(o), t)

def test_robustness_holds_few_pictures_at_once(faces, monkeypatch):
    "Four hundred photographs of 24 megapixels do not fit into memory"
    import weakref
    opened_so_far,most = [],[0]
    def opened(path):
        img = trust_open(path)
        opened_so_far.append(weakref.ref(img))
        most[0] = max(most[0], sum(o() is not None for o in opened_so_far))
        return img
    trust_open = open_image
    monkeypatch.setattr(changed, 'open_image', opened)
    t = make_table([faces/'real'], [faces/'fake'])
    scores = lambda imgs: [np.asarray(o).mean()/255 for o in imgs]
    df = robustness(scores, t, transforms={k:TRANSFORMS[k] for k in ('blur','crop')})
    assert len(df)==1+5+4 and len(opened_so_far)==len(t) and most[0]<=16, most
    want = [np.asarray(trust_open(o)).mean()/255 for o in t.path]
    from sklearn.metrics import roc_auc_score
    assert df.auc[0]==pytest.approx(roc_auc_score(t.label, want))

def test_robustness_names_a_picture_that_cannot_be_read(faces, tmp_path):
    t = make_table([faces/'real'], [faces/'fake'])
    (tmp_path/'gone.jpg').write_bytes(b'')
    t.loc[3,'path'] = str(tmp_path/'gone.jpg')
    with pytest.raises(InputError, match='gone.jpg.*empty'): robustness(lambda o: [.5]*len(o), t)

def test_share_is_wilsons():
    assert _share(0, 30)==pytest.approx((0, 0, .1135), abs=1e-4) and _share(15, 30)==pytest.approx((.5, .3315, .6685), abs=1e-4)

def test_evaluate_under_changes(trained, faces, cli):
    code,out,_ = cli('evaluate', trained, '--real', faces/'real', '--fake', faces/'fake', '--robustness', '--json')
    res = json.loads(out)
    rows = pd.DataFrame(res['robustness'])
    assert code==0 and rows['transform'][0]=='clean' and set(rows['transform'][1:])==set(TRANSFORMS)
    assert rows.auc[0]==pytest.approx(res['auc']) and rows.fpr.between(0, 1).all()

def test_auc_interval_holds_the_auc():
    y,s = np.repeat([0,1], 50),np.random.default_rng(0).normal(np.repeat([0,1.], 50))
    from sklearn.metrics import roc_auc_score
    a,low,high = auc_interval(y, s)
    assert a==pytest.approx(roc_auc_score(y, s)) and low<a<high
    assert auc_interval(np.array([0,1,1]), np.array([.1,.2,.3])) == (1,0,1), 'one picture of a class tells nothing'
    wide = auc_interval(y, s, .999)
    assert wide[1]<low and high<wide[2]
