"The related work as rows of the comparison, and the map of changes"
import json,shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from deepfake_nb.backbones import MODEL_KINDS,create_model
from deepfake_nb.comparison import compare
from deepfake_nb.core import InputError
from deepfake_nb.portraits import draw_portrait
from deepfake_nb.results import comparison_table,read_predictions
from deepfake_nb.runs import load_model,stage_plan
from deepfake_nb.settings import Settings,check_settings
from deepfake_nb.sources import make_table
from deepfake_nb.split import load_data
from deepfake_nb.tampering import COPIES,blend,blended_data,draw_mask,jpeg,self_blend,soft_mask,swap
from deepfake_nb.unet import Seams,UNet,arrive
from deepfake_nb.where import MAP,export_map,gated,judge_maps,map_score,read_map,where

ROWS = ['resnet18','adaboost:resnet18','xgboost:resnet18','twostream:resnet18','sbi:resnet18']

@pytest.fixture(scope='module')
def related(faces, tmp_path_factory):
    "A finished comparison of one backbone and all that is made of it"
    out = tmp_path_factory.mktemp('related')/'run'
    settings = Settings(ROWS, size=32, batch_size=16, frozen_epochs=1, epochs=1, weights='none')
    compare(make_table([faces/'real'], [faces/'fake']), out, settings, log=lambda o: None, audit=False)
    return out

def test_rows_stand_in_one_table(related):
    "Each row has its own name, folder, predictions and plan"
    table = comparison_table(related).set_index('model')
    assert set(table.index) == {*ROWS,'spectrum'}
    plans = {m:json.loads((related/m/'config.json').read_text())['plan'] for m in ROWS}
    assert plans == {'resnet18':{'whole':1}, 'sbi:resnet18':{'whole':1}, **{m:{'fit':1} for m in ROWS[1:4]}}
    scores = [tuple(read_predictions(related/m).prob_fake) for m in ROWS]
    assert len(set(scores)) == len(ROWS), "two rows are the same network under two names"
    paths = {tuple(read_predictions(related/m).path) for m in ROWS}
    assert len(paths) == 1, "rows were not tested on the same pictures"

@pytest.mark.parametrize('name', ROWS[1:])
def test_a_loaded_row_says_the_same(related, name):
    "The folder holds all that was learnt: a fresh model filled from it gives the stored predictions"
    model,config = load_model(related/name)
    p = read_predictions(related/name, 'valid')
    px = np.stack([np.asarray(Image.open(o).convert('RGB').resize((32,32), Image.LANCZOS)) for o in p.path[:4]])
    from deepfake_nb.detector import Detector
    det = Detector.load(related/name)
    answers = [a.prob_fake for a in det.predict(list(p.path), faces=False)]
    assert np.allclose(answers, p.prob_fake, atol=2e-3) and config['model'] == name and len(px)==4

def test_rows_export_and_resume(related, tmp_path, cli):
    "A row becomes an ONNX file with the same answers, and a second compare changes nothing"
    p = read_predictions(related/'adaboost:resnet18', 'valid')
    code,_,err = cli('export', related/'adaboost:resnet18', '--out', tmp_path/'a.onnx')
    assert code == 0, err
    code,out,_ = cli('predict', *p.path[:5], '--model', tmp_path/'a.onnx', '--json')
    assert code == 0 and np.allclose([o['prob_fake'] for o in json.loads(out)], p.prob_fake[:5], atol=2e-3)
    before = {o:o.read_bytes() for o in related.glob('*/predictions.csv')}
    cfg = json.loads((related/'config.json').read_text())
    assert cfg['models'] == ROWS and all(o.read_bytes()==v for o,v in before.items())

@pytest.mark.parametrize('name,said', [
    ('adaboost:','names no backbone'), ('twostream:cnn1','names no backbone'), ('sbi:sbi:resnet18','names no backbone'),
    ('boost:resnet18','no kind of model'), (':resnet18','no kind of model'), ('sbi:resnet1','no model')])
def test_refused_names(name, said, cli, tmp_path):
    "A row that cannot be made is one line and exit code 2, before anything is written"
    with pytest.raises(InputError, match=said): check_settings(Settings([name], size=32, weights='none'))
    code,out,err = cli('compare', '--models', name, '--size', 32, '--weights', 'none', '--out', tmp_path/'run', '--n-per-class', 20)
    assert code == 2 and said in err and err.count('\n') == 1 and out == '' and not (tmp_path/'run').exists()

def test_kinds_without_weights_are_fitted_once():
    "Boosting on a random backbone is not trained whole, and sbi is"
    assert stage_plan(create_model('adaboost:resnet18', 32)) == dict(fit=1)
    assert stage_plan(create_model('sbi:resnet18', 32)) == dict(whole=7)
    assert set(MODEL_KINDS) == {'adaboost','xgboost','twostream','sbi'}

def test_sbi_never_sees_a_fake(faces, tmp_path):
    "Its training pictures are made of the photographs alone, and the other splits are unchanged"
    data = load_data(make_table([faces/'real'], [faces/'fake']), 32)
    made = blended_data(data, cache=tmp_path)
    train = made.table[made.table.split=='train']
    assert all('/real/' in o for o in train.path) and train.label.mean() == .5
    n = int(((data.table.split=='train') & (data.table.label==0)).sum())
    assert len(train) == 2*COPIES*n
    assert (made.pixels[made.rows('valid')]==data.pixels[data.rows('valid')]).all()
    spoiled = data.pixels.copy()
    spoiled[data.table.index[data.table.label==1]] = 0      # other fakes: the same training set
    other = blended_data(type(data)(data.table, data.bad, spoiled, data.equalise, data.hashes), cache=tmp_path/'other')
    assert (np.array(made.pixels[made.rows('train')])==np.array(other.pixels[other.rows('train')])).all()

def test_blends_stay_inside_the_mask():
    "A swap changes nothing where its mask is zero; seeds repeat it"
    a,b = (np.array(draw_portrait(i, 96)) for i in (1,2))
    for seed in range(5):
        x,mask = swap(a, b, np.random.default_rng(seed))
        assert (x[mask==0]==a[mask==0]).all() and (x!=a).any() and 0<=mask.min() and mask.max()<=1
        assert (x==swap(a, b, np.random.default_rng(seed))[0]).all()
        y,m = self_blend(a, np.random.default_rng(seed))
        assert y.shape == a.shape and (y!=a).any() and m.dtype == np.float32
    assert (blend(a, b, np.full((96,96), .5, np.float32)).astype(int)-(a/2+b/2)).max() <= 1
    sizes = [draw_mask('face', 96, np.random.default_rng(i)).mean() for i in range(20)]
    assert .1 < min(sizes) and max(sizes) < .6 and soft_mask(64, np.random.default_rng(0)).shape == (64,64)

def test_untouched_examples_are_saved_too():
    "Nothing but the seam may tell: an untouched example went through a JPEG like a blended one"
    px = np.stack([np.array(draw_portrait(i, 96)) for i in range(30)])
    x,masks = Seams(px, 96, fixed=True).get_batch(list(range(30)))
    clean = [i for i in range(30) if masks[i].max()==0]
    assert 3 < len(clean) < 20
    assert all((np.asarray(x[i].permute(1,2,0))!=px[i]).any() and (np.asarray(x[i].permute(1,2,0))!=px[i][:,::-1]).any() for i in clean)
    assert (arrive(px[0], np.random.default_rng(1))==arrive(px[0], np.random.default_rng(1))).all()

def test_judging_is_beside_the_map_that_marks_all():
    "Known answers: a perfect map, its opposite, and everything"
    masks = np.zeros((4,20,20)); masks[:,5:10,5:10] = 1
    clean = np.zeros((6,20,20))
    got = judge_maps(masks, masks, clean, .5)
    assert got == dict(pixel_auc=1, iou=1, iou_all=.0625, picture_auc=1, marked_untouched=0, area_untouched=0, marked_tampered=1)
    assert judge_maps(1-masks, masks, clean, .5)['pixel_auc'] == 0
    every = judge_maps(np.ones_like(masks), masks, np.ones_like(clean), .5)
    assert every['iou'] == every['iou_all'] and every['marked_untouched'] == 1
    assert not gated(masks, 1.1).any() and map_score(masks).tolist() == [1]*4

def test_a_map_as_a_file(tmp_path, cli):
    "A map is read back equal, a damaged one and a detector's file are refused, and predict refuses a map"
    torch.manual_seed(0)
    gap = export_map(UNet('mobilenetv3_small_050'), 96, .4, tmp_path/'map.onnx')
    assert gap < .05
    answer,config = read_map(tmp_path/'map.onnx')
    assert config['threshold'] == .4 and answer(np.zeros((2,96,96,3), np.uint8)).shape == (2,96,96)
    data = bytearray((tmp_path/'map.onnx').read_bytes()); data[len(data)//2] ^= 1
    (tmp_path/'bad.onnx').write_bytes(data)
    for o in ('bad.onnx','none.onnx'):
        with pytest.raises(InputError): read_map(tmp_path/o)
    from deepfake_nb.scorers import READY
    with pytest.raises(InputError): read_map(READY)
    code,out,err = cli('predict', tmp_path/'map.onnx', '--model', tmp_path/'map.onnx')
    assert code == 2 and err.count('\n') == 1 and out == '' and 'map.onnx' in err and 'draws maps of changes' in err and 'where --model' in err
    code,out,err = cli('where', tmp_path/'map.onnx', '--model', READY)
    assert code == 2 and err.count('\n') == 1 and out == '' and 'ready.onnx' in err and 'is a detector' in err and 'predict --model' in err
    data = bytearray(READY.read_bytes()); data[len(data)//2] ^= 1; (tmp_path/'changed.onnx').write_bytes(data)
    for o in ('where','predict'): assert 'damaged' in cli(o, tmp_path/'map.onnx', '--model', tmp_path/'changed.onnx')[2]

@pytest.fixture
def picture(tmp_path):
    "A drawn face as a file; the finder is told to take it whole"
    Image.fromarray(np.array(draw_portrait(3, 128))).save(tmp_path/'face.png')
    with mock.patch('deepfake_nb.where.crop_faces', lambda img: [(None,img)]): yield tmp_path/'face.png'

def test_where_answers(picture, tmp_path, cli):
    "One picture, its mask and a map as PNG"
    Image.fromarray(np.pad(np.full((64,64), 255, np.uint8), 32)).save(tmp_path/'mask.png')
    code,out,err = cli('where', picture, '--mask', tmp_path/'mask.png', '--out', tmp_path/'map.png', '--json')
    res = json.loads(out)
    assert code == 0 and 0<=res['pixel_auc']<=1 and 0<=res['iou']<=1 and res['path'] == str(picture), err
    assert res['changed'] == (res['box'] is not None) and res['changed'] <= (res['score']>=res['threshold'])
    img = Image.open(tmp_path/'map.png')
    assert img.size[0] == 2*img.size[1]
    code,out,_ = cli('where', picture)
    assert code == 0 and str(picture) in out and out.count('\n') == 1

def test_where_refuses(picture, tmp_path, cli):
    "A mask of another size, a picture without a face, no picture: one line each, nothing written"
    Image.new('L', (64,64)).save(tmp_path/'small.png')
    Image.new('RGB', (128,128), 'gray').save(tmp_path/'grey.png')
    (tmp_path/'text.jpg').write_text('no picture')
    bad = [((picture,'--mask',tmp_path/'small.png'),'as large as'), ((tmp_path/'text.jpg',),'text.jpg'), ((tmp_path/'gone.jpg',),'gone.jpg'),
        ((picture,'--model',tmp_path/'gone.onnx'),'no map'), ((picture,'--out',tmp_path/'a.jpg'),'.png')]
    for args,said in bad:
        code,out,err = cli('where', *args)
        assert code == 2 and said in err and err.count('\n') == 1 and out == '', err
    with mock.patch('deepfake_nb.where.crop_faces', lambda img: []):
        code,out,err = cli('where', tmp_path/'grey.png', '--out', tmp_path/'map.png')
    assert code == 2 and 'no face found' in err and not (tmp_path/'map.png').exists()

def test_the_map_of_the_package_is_what_its_card_says():
    "The gate in the file is the one that was measured, and untouched faces are marked at most 10 % at quality 75"
    figures = json.loads(MAP.with_suffix('.json').read_text())
    assert read_map()[1]['threshold'] == figures['threshold']
    row = next(r for r in figures['table'] if r['pictures']=='self, JPEG 75')
    assert row['pixel_auc'] >= .8 and row['marked_untouched'] <= .1
    assert f"{row['pixel_auc']:.3f}" in MAP.with_suffix('.md').read_text()
