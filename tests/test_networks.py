"What `compare` accepts, the other commands can use; weights come from where they were said to come from, and nothing else is made of their files."
import os,struct,subprocess,sys
from http.server import BaseHTTPRequestHandler,ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from safetensors.torch import save_file

from deepfake_nb.weights import find_weights,read_weights,timm_name
from deepfake_nb.backbones import create_model,make_backbone
from deepfake_nb.core import InputError

def line(f, *args, **kw):
    "The one line that is said of wrong input"
    with pytest.raises(InputError) as e: f(*args, **kw)
    assert '\n' not in str(e.value)
    return str(e.value)

@pytest.mark.parametrize('name,size', [('swin_tiny_patch4_window7_224',64),('swinv2_cr_tiny_224',64),('vit_tiny_patch16_224',32),('xcit_nano_12_p8_224',32),('edgenext_xx_small',64)])
def test_a_network_can_be_built_again_from_its_tensors(name, size):
    torch.manual_seed(0)
    model = create_model(name, size).eval()
    again = create_model(name, size, built=model.built, state=model.state_dict()).eval()
    x = torch.rand(2, 3, size, size).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(): assert torch.equal(model(x), again(x)) and model(x[:1]).shape == (1,1)

@pytest.mark.parametrize('name,size,said', [('halonet26t',64,'use size 256'), ('crossvit_tiny_240',224,'use size 240'), ('resnet18',16,'use 32 or more')])
def test_a_size_that_works_is_named(name, size, said): assert said in line(create_model, name, size)

@pytest.mark.parametrize('name', ('resnet18.a1_in1','resnet18.','.a1_in1k','','../victim','resnet18/../../x','resnet18.../x','hf-hub:timm/resnet18','local-dir:/tmp','densenet169.keras_in1k'))
def test_names_that_timm_does_not_know(name):
    said = line(timm_name, name)
    near = said.partition(', such as ')[2].split(', ')
    assert len(set(near)) == len(near)

def test_suggestions_stand_once_each():
    assert line(timm_name, 'resnet5').partition('such as ')[2].split(', ').count('resnet50') == 1
    assert 'resnet18.a1_in1k' in line(timm_name, 'resnet18.a1_in1')

# files of weights

@pytest.fixture(scope='module')
def net(): return make_backbone('resnet18', 32)[0]

@pytest.fixture
def weights(net, tmp_path):
    save_file(net.state_dict(), tmp_path/'resnet18.mine.safetensors')
    return tmp_path

def test_a_tag_of_ones_own(weights):
    model = create_model('resnet18.mine', 32, weights)
    assert model.weights_name == 'resnet18.mine' and model.built == dict(arch='resnet18', variant='')
    assert create_model('resnet18.mine', 32, built=model.built, state=model.state_dict()).n_stages == model.n_stages
    assert create_model('resnet18', 32, weights).weights_name == 'resnet18.mine'     # the only one of this network
    assert 'no model' in line(create_model, 'resnet18.yours', 32, weights)

def spoil(net, how):
    state = dict(net.state_dict())
    k = 'layer1.0.conv1.weight'
    if how=='a shape': state[k] = state[k][:1].clone()
    if how=='missing': del state[k]
    if how=='integers': state[k] = state[k].int()
    if how=='complex': state[k] = state[k].to(torch.complex64)
    if how=='no number': state[k] = state[k]*float('nan')
    if how=='infinite': state[k] = state[k]/0
    return state

@pytest.mark.parametrize('how,said', [*((o,'is not a weights file') for o in ('a shape','missing','integers','complex')), *((o,'damaged') for o in ('no number','infinite'))])
def test_tensors_that_do_not_fit(net, tmp_path, how, said):
    save_file(spoil(net, how), tmp_path/'resnet18.a1_in1k.safetensors')
    assert said in line(create_model, 'resnet18', 32, tmp_path)

def test_files_that_are_none(net, weights):
    file = weights/'resnet18.mine.safetensors'
    whole = file.read_bytes()
    huge = struct.pack('<Q', 2**63)+b'{}'
    for content in (b'', b'no', whole[:1000], whole[:-1], huge, struct.pack('<Q', 2**30)+b'{'*1000, b'\x80\x04N.', struct.pack('<Q', 2)+b'[]', whole.replace(b'"F32"', b'"Q99"', 1)):
        file.write_bytes(content)
        assert 'damaged' in line(read_weights, net, file, 'resnet18')
    file.unlink()
    assert 'no file' in line(read_weights, net, file, 'resnet18')

def test_not_permitted_is_not_damaged(net, weights, monkeypatch):
    file = weights/'resnet18.mine.safetensors'
    file.chmod(0)
    if os.access(file, os.R_OK):        # the superuser may read anything
        def denied(*a, **kw): raise PermissionError(13, 'Permission denied')
        monkeypatch.setitem(read_weights.__globals__, 'open', denied)
    said = line(read_weights, net, file, 'resnet18')
    assert 'not permitted' in said and 'remove' not in said and 'damaged' not in said

def test_the_first_stages_alone(tmp_path):
    whole = make_backbone('resnet50', 32)[0]
    state = {k:v.half() for k,v in whole.state_dict().items() if not k.startswith('layer4')}
    save_file(state, tmp_path/'resnet50_to_layer3.keras_caffe_in1k.safetensors')
    for name in ('resnet50','resnet50.keras_caffe_in1k'):
        model = create_model(name, 32, tmp_path)
        assert model.weights_name == 'resnet50_to_layer3.keras_caffe_in1k, layer4 random' and model.built == dict(arch='resnet50', variant='caffe')
        assert torch.equal(model.backbone.layer3[0].conv1.weight, state['layer3.0.conv1.weight'].float())
        again = create_model(name, 32, built=model.built, state=model.state_dict()).eval()
        with torch.no_grad(): assert torch.equal(again(torch.ones(1,3,32,32)), model.eval()(torch.ones(1,3,32,32)))
        assert [o[0].conv1.stride for o in (again.backbone.layer2,again.backbone.layer4)] == [(2,2)]*2
    assert create_model('resnet50', 32).backbone.layer2[0].conv1.stride == (1,1)
    save_file(whole.state_dict(), tmp_path/'resnet50.tv_in1k.safetensors')
    assert find_weights('resnet50', tmp_path).name == 'resnet50.tv_in1k.safetensors'         # better than a part
    save_file(whole.state_dict(), tmp_path/'resnet50.a1_in1k.safetensors')
    assert [find_weights('resnet50', tmp_path, keras=o).name for o in (False,True)] == ['resnet50.a1_in1k.safetensors','resnet50.tv_in1k.safetensors']
    del state['layer1.0.conv1.weight']
    save_file(state, tmp_path/'resnet50.tv_in1k.safetensors')
    assert 'is not a weights file' in line(create_model, 'resnet50', 32, tmp_path, keras=True)

# the hub

class Mirror(BaseHTTPRequestHandler):
    "Serves one file the way the hub does, and nothing else, not even its own front page"
    file,served = b'','/timm/resnet18.a1_in1k/resolve/main/model.safetensors'
    def log_message(self, *args): pass
    def do_GET(self, body=True):
        if self.path != self.served: self.send_error(404); return
        self.send_response(200)
        for k,v in {'X-Repo-Commit':'a'*40, 'ETag':'"0123456789abcdef"', 'Content-Length':str(len(self.file))}.items(): self.send_header(k, v)
        self.end_headers()
        if body: self.wfile.write(self.file)
    def do_HEAD(self): self.do_GET(False)

@pytest.fixture
def mirror(weights):
    handler = type('Here', (Mirror,), dict(file=(weights/'resnet18.mine.safetensors').read_bytes()))
    server = ThreadingHTTPServer(('127.0.0.1',0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()

def ask(endpoint, home, name):
    "What a new process starts `name` from, with `endpoint` for the hub"
    env = {k:v for k,v in os.environ.items() if k!='HF_HUB_OFFLINE' and 'proxy' not in k.lower()} | dict(HF_ENDPOINT=endpoint, HF_HOME=str(home), NO_PROXY='*')
    code = f"from deepfake_nb.backbones import create_model; print(create_model({name!r}, 32, 'auto').weights_name)"
    r = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stderr
    return r.stdout.strip().splitlines()[-1],r.stderr

def test_a_mirror_that_serves_files_alone(mirror, tmp_path):
    assert ask(mirror, tmp_path/'hub', 'resnet18')[0] == 'resnet18.a1_in1k'
    said,err = ask(mirror, tmp_path/'hub', 'resnet34')          # not there
    assert said == 'none' and 'RANDOM' in err
    said,err = ask('http://127.0.0.1:9', tmp_path/'empty', 'resnet18')      # nobody answers
    assert said == 'none' and 'RANDOM' in err and 'Retry' not in err, 'asked once, not for half a minute'
