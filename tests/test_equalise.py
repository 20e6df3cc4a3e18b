"One crop, one size, one JPEG: in training, in the run's config, in the detector, and in the file that it exports."
import json

import numpy as np
import pandas as pd
from PIL import Image

from conftest import SMALL
from deepfake_nb.sources import make_table
from deepfake_nb.split import load_data
from deepfake_nb.detector import Detector
from deepfake_nb.onnx_export import export
from deepfake_nb.images import equalise_image,open_image,squish

def test_the_pixels_go_through_it(faces, tmp_path):
    table,eq = make_table([faces/'real'], [faces/'fake']),dict(side=48, quality=60)
    plain,through = (load_data(table, 32, cache=tmp_path, equalise=o) for o in (None,eq))
    row,path = through.table.index[0],through.table.path.iloc[0]
    assert (through.pixels[row] == squish(equalise_image(open_image(path), **eq), 32)).all()
    assert (plain.pixels[:] != through.pixels[:]).any() and list(plain.table.path) == list(through.table.path)

def test_from_the_command_line(cli, faces, tmp_path):
    for i,o in enumerate(sorted((faces/'fake').rglob('*.jpg'))):
        (tmp_path/'fake').mkdir(exist_ok=True); Image.open(o).resize((56,56)).save(tmp_path/'fake'/f'{i}.png')
    code,_,err = cli('compare', '--real', faces/'real', '--fake', tmp_path/'fake', '--models', 'cnn1', '--equalise', '--out', tmp_path/'run', *SMALL)
    audit = {o['name']:o['verdict'] for o in json.loads((tmp_path/'run'/'audit.json').read_text())['probes']}
    config = json.loads((tmp_path/'run'/'cnn1'/'config.json').read_text())
    assert code == 0 and 'shortcut audit' in err and audit['format'] == audit['dimensions'] == 'clean'
    assert config['equalise'] == dict(side=56, quality=75)
    saved = pd.read_csv(tmp_path/'run'/'cnn1'/'predictions.csv')
    export(tmp_path/'run'/'cnn1', tmp_path/'m.onnx')
    for d in (tmp_path/'run'/'cnn1',tmp_path/'m.onnx'):
        assert np.allclose([a.prob_fake for a in Detector.load(d).predict(list(saved.path))], saved.prob_fake, atol=1e-3)
