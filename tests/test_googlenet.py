"GoogLeNet is torchvision's network with timm's interface; its weights are the tensors of one known file, or there are none and that is said."
import hashlib,os,re,time
from http.server import BaseHTTPRequestHandler,ThreadingHTTPServer
from threading import Event,Thread

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file,save_file
from torchvision import models as tv

from deepfake_nb import googlenet as g
from deepfake_nb.backbones import count_params,create_model,make_backbone,stages
from deepfake_nb.core import InputError
from deepfake_nb.weights import FETCH,_full_tag,find_weights,hub_file,timm_name

def theirs(**kw): return tv.GoogLeNet(init_weights=False, **kw).eval()

def shake(net):
    "Batch norms that have seen something"
    gen = torch.Generator().manual_seed(0)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, .1, generator=gen); m.running_var.uniform_(.5, 2, generator=gen)
            with torch.no_grad(): m.weight.uniform_(.5, 1.5, generator=gen); m.bias.normal_(0, .1, generator=gen)
    return net

@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    return shake(timm.create_model('googlenet').eval())

# The network

@pytest.mark.parametrize('size', (32,64,75,224))
def test_the_answer_is_torchvisions(net, size):
    other,x = theirs(aux_logits=False),torch.rand(2, 3, size, size)*2-1
    assert list(other.state_dict())==list(net.state_dict())
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(net(x), other(x))
        last,maps = net.forward_intermediates(x)
        assert torch.equal(net.forward_head(last), net(x)) and torch.equal(maps[-1], last)
    assert [m.shape[1] for m in maps]==[o['num_chs'] for o in net.feature_info]
    assert size%32 or [m.shape[-1] for m in maps]==[size//o['reduction'] for o in net.feature_info]

def test_in_training_too(net):
    ours,other,x = timm.create_model('googlenet', drop_rate=0.),theirs(aux_logits=False, dropout=0.),torch.rand(4, 3, 64, 64)
    other.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours.train()(x), other.train()(x))
    torch.testing.assert_close(ours.state_dict(), other.state_dict())

def test_the_maps_are_what_the_named_modules_give(net):
    outs,named,x = {},dict(net.named_modules()),torch.rand(1, 3, 64, 64)
    hooks = [named[o['module']].register_forward_hook(lambda m, _, out, k=o['module']: outs.update({k:out})) for o in net.feature_info]
    with torch.no_grad(): maps = net.forward_intermediates(x)[1]
    for h in hooks: h.remove()
    assert all(torch.equal(m, outs[o['module']]) for m,o in zip(maps, net.feature_info))

@pytest.mark.parametrize('indices,want', [(None,[0,1,2,3,4]), (1,[4]), (5,[0,1,2,3,4]), ([0,-1],[0,4]), ([3],[3])])
def test_some_of_the_maps(net, indices, want):
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        every = net.forward_intermediates(x)[1]
        some,early = net.forward_intermediates(x, indices)[1],net.forward_intermediates(x, indices, stop_early=True, intermediates_only=True)
    assert len(some)==len(early)==len(want) and all(torch.equal(a, every[i]) and torch.equal(b, every[i]) for a,b,i in zip(some, early, want))

def test_each_parameter_is_in_one_stage(net):
    bare = make_backbone('googlenet', 64)[0]
    groups,names = stages(bare),{id(p):n for n,p in bare.named_parameters()}
    assert sorted(names[id(p)] for o in groups for p in o)==sorted(names.values())
    first = [re.match(r'[a-z]+\d', names[id(o[0])])[0] for o in groups]
    assert first==['conv1','conv2','inception3','inception4','inception5']
    assert len(timm.models.group_parameters(bare, bare.group_matcher()))==2+9

def test_other_shapes():
    with torch.no_grad():
        assert timm.create_model('googlenet', in_chans=1, num_classes=7).eval()(torch.rand(1, 1, 64, 64)).shape==(1,7)
        assert timm.create_model('googlenet', num_classes=0, global_pool='').eval()(torch.rand(1, 3, 64, 64)).shape==(1,1024,2,2)
    net = timm.create_model('googlenet', num_classes=0)
    net.reset_classifier(2)
    assert net.get_classifier().out_features==net.num_classes==2

def test_first_weights_keep_the_signal():
    torch.manual_seed(0)
    net,x = make_backbone('googlenet', 64)[0],torch.rand(8, 3, 64, 64)*2-1
    with torch.no_grad(): maps,features = net.forward_intermediates(x)[1],net(x)
    assert all(.1<m.std()<10 for m in maps) and features.std(0).mean()>1e-3

# The input

def test_normalised_once(net):
    "What torchvision's network with its own normalisation makes of a picture, ours makes of it too"
    model,other = create_model('googlenet', 64).eval(),theirs(aux_logits=False, transform_input=True)
    other.load_state_dict(net.state_dict())
    model.backbone.load_state_dict({k:v for k,v in net.state_dict().items() if not k.startswith('fc.')})
    imagenet = [torch.tensor(o).view(1,3,1,1) for o in ((.485,.456,.406),(.229,.224,.225))]
    x = torch.rand(2, 3, 64, 64)
    z = (x-imagenet[0])/imagenet[1]
    torch.testing.assert_close(other._transform_input(z), (x-.5)/.5)
    torch.testing.assert_close(model.normalize(x), (x-.5)/.5)
    with torch.no_grad():
        pooled = model.backbone(model.normalize(x))
        torch.testing.assert_close(net.fc(pooled), other(z), rtol=1e-3, atol=1e-3)
        assert (net(z)-other(z)).abs().max()>.01, 'normalised by ImageNet alone, the answer is another'

# The registry

def test_timm_knows_the_name():
    cfg = timm.get_pretrained_cfg('googlenet')
    assert timm.is_model('googlenet') and 'googlenet' in timm.list_models() and timm_name('googlenet')=='googlenet'
    assert timm_name('googlenet.tv_in1k')==_full_tag('googlenet')=='googlenet.tv_in1k'
    assert (cfg.input_size,cfg.mean,cfg.std,cfg.license)==((3,224,224),(.5,)*3,(.5,)*3,'bsd-3-clause')
    for o in ('googlenet.in1k','googlenet.','googlene'):
        with pytest.raises(InputError, match='such as googlenet'): timm_name(o)

def test_timm_itself_fetches_nothing():
    assert 'googlenet' not in timm.list_models(pretrained=True) and not timm.get_pretrained_cfg('googlenet').has_weights
    with pytest.raises(RuntimeError): timm.create_model('googlenet', pretrained=True)

def test_a_model_like_any_other():
    model,x = create_model('googlenet', 64).eval(),torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    again = create_model('googlenet', 64, built=model.built, state=model.state_dict()).eval()
    with torch.no_grad(): assert torch.equal(model(x), again(x)) and model(x[:1]).shape==(1,1)
    assert model.n_stages==5 and model.head[0].num_features==1024+2*(64+192+480+832+1024)
    assert model.built==dict(arch='googlenet', variant='') and model.weights_name=='none'
    assert count_params(model.backbone)[1]==5_599_904
    model.freeze()
    assert count_params(model.backbone)[1]==0
    with pytest.raises(InputError, match='use 32 or more'): create_model('googlenet', 31)
    assert create_model('googlenet+resnet18', 64).eval()(x).shape==(2,1)

def test_it_is_explained_and_folded():
    from deepfake_nb.explain import gradcam
    from deepfake_nb.scorers import fold_batchnorm
    model,x = create_model('googlenet', 64),torch.rand(2, 3, 64, 64)
    shake(model.eval())
    cam = gradcam(model, x)
    assert cam.shape==(2,64,64) and torch.isfinite(cam).all() and (cam.flatten(1).std(1)>0).all()
    net = fold_batchnorm(model, 64)
    with torch.no_grad(): torch.testing.assert_close(net(x), model(x), rtol=1e-3, atol=1e-3)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())

@pytest.mark.filterwarnings('ignore')
def test_it_is_exported(net, tmp_path):
    "In ONNX too, pooling rounds up where a map has an odd side"
    onnxruntime = pytest.importorskip('onnxruntime'); pytest.importorskip('onnx')
    model,x = shake(create_model('googlenet', 80).eval()),torch.rand(2, 3, 80, 80)
    torch.onnx.export(model, (x,), str(tmp_path/'g.onnx'), dynamo=False, opset_version=17, input_names=['x'], dynamic_axes={'x':{0:'n'}})
    session = onnxruntime.InferenceSession(tmp_path/'g.onnx', providers=['CPUExecutionProvider'])
    for n in (1,2):
        got = torch.from_numpy(session.run(None, {'x':x[:n].numpy()})[0])
        with torch.no_grad(): torch.testing.assert_close(got, model(x[:n]), rtol=1e-3, atol=1e-3)
    assert [m.shape[-1] for m in net.forward_intermediates(x)[1]]==[40,20,10,5,3]

# Weights in a folder

def test_weights_from_a_folder(net, tmp_path):
    state = {k:v.half() if v.is_floating_point() else v for k,v in net.state_dict().items() if not k.startswith('fc.')}
    save_file(state, tmp_path/'googlenet.tv_in1k.safetensors')
    model = create_model('googlenet', 32, tmp_path)
    assert model.weights_name=='googlenet.tv_in1k' and torch.equal(model.backbone.conv3.conv.weight, state['conv3.conv.weight'].float())
    save_file({k:v for k,v in state.items() if 'inception5b' not in k}, tmp_path/'googlenet.tv_in1k.safetensors')
    with pytest.raises(InputError, match='is not a weights file'): create_model('googlenet', 32, tmp_path)

# Weights from the net

@pytest.fixture(scope='module')
def pth(tmp_path_factory):
    "What torchvision's file looks like, in both forms of PyTorch's files, and the state in it"
    torch.manual_seed(1)
    state,folder = theirs().state_dict(),tmp_path_factory.mktemp('pth')
    torch.save(state, folder/'new.pth')
    torch.save(state, folder/'old.pth', _use_new_zipfile_serialization=False)
    return state,folder

class Files(BaseHTTPRequestHandler):
    "Serves `content`, or the first `part` bytes of it, and counts how often it was asked"
    content,part,asked,wait = b'',None,0,None
    def log_message(self, *args): pass
    def do_GET(self):
        type(self).asked += 1
        if self.wait: self.wait.wait(20)
        self.send_response(200)
        self.send_header('Content-Length', str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[:self.part])

@pytest.fixture
def serve(monkeypatch, tmp_path):
    "A server whose file is torchvision's, an empty cache, and permission to ask"
    handler = type('Here', (Files,), {})
    server = ThreadingHTTPServer(('127.0.0.1',0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    for k in [o for o in os.environ if 'proxy' in o.lower()]: monkeypatch.delenv(k)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    def put(content, **changes):
        handler.content = content
        for k,v in changes.items(): setattr(handler, k, v)
        monkeypatch.setattr(g, 'PTH_URL', f'http://127.0.0.1:{server.server_port}/googlenet.pth')
        monkeypatch.setattr(g, 'PTH_SHA256', hashlib.sha256(content).hexdigest())
        return handler
    yield put
    server.shutdown()
    server.server_close()

def none_left(tmp_path): return not [o for o in (tmp_path/'cache').rglob('*') if o.is_file()]

def random_weights(name='googlenet'):
    "Nothing is found, and that is said aloud"
    with pytest.warns(UserWarning, match='googlenet.tv_in1k .*RANDOM'): assert find_weights(name, 'auto') is None
    return True

def test_the_checksum_is_that_of_the_name():
    digits = re.search(r'/googlenet-([0-9a-f]{8})\.pth$', g.PTH_URL)[1]
    assert re.fullmatch(rf'{digits}[0-9a-f]{{56}}', g.PTH_SHA256) and g.PTH_URL==tv.GoogLeNet_Weights.IMAGENET1K_V1.url

@pytest.mark.parametrize('form', ('new','old'))
def test_a_pth_becomes_safetensors(serve, pth, form):
    state,folder = pth
    handler = serve((folder/f'{form}.pth').read_bytes())
    file = find_weights('googlenet', 'imagenet')
    kept = load_file(file)
    assert file.name=='googlenet.tv_in1k.safetensors' and file.parent.name=='weights'
    assert {k for k in state if k not in kept}=={k for k in state if k.startswith(('fc.','aux1.','aux2.'))}
    assert all(torch.equal(v, state[k]) for k,v in kept.items())
    model = create_model('googlenet', 32, 'imagenet')
    assert model.weights_name=='googlenet.tv_in1k' and torch.equal(model.backbone.conv1.conv.weight, state['conv1.conv.weight'])
    assert handler.asked==1, 'the second time it comes from the cache'
    constants.HF_HUB_OFFLINE = True     # undone by `serve`
    assert find_weights('googlenet', 'auto')==file and handler.asked==1

def test_offline_nobody_is_asked(serve, pth, monkeypatch, tmp_path):
    handler = serve((pth[1]/'new.pth').read_bytes())
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert hub_file('googlenet.tv_in1k') is None and random_weights() and handler.asked==0 and none_left(tmp_path)

def test_another_checksum(serve, pth, monkeypatch, tmp_path):
    handler = serve((pth[1]/'new.pth').read_bytes())
    real = g.PTH_SHA256
    monkeypatch.setattr(g, 'PTH_SHA256', real[:-1]+('0' if real[-1]!='0' else '1'))
    opened = []
    monkeypatch.setattr(torch, 'load', lambda *a, **k: opened.append(a))
    assert random_weights() and not opened and none_left(tmp_path)
    assert hub_file('googlenet.tv_in1k') is None and handler.asked==1, 'asked once per process'

@pytest.mark.parametrize('part', (0,1000,-1))
def test_half_a_download(serve, pth, part, tmp_path):
    serve((pth[1]/'new.pth').read_bytes(), part=part)
    assert random_weights() and none_left(tmp_path)

class Bomb:
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return os.mkdir,(self.path,)

@pytest.mark.parametrize('old', (False,True))
@pytest.mark.parametrize('kind', ('code','a module','a number','a list','a tensor','no names','nothing'))
def test_a_pickle_of_other_things(serve, kind, old, tmp_path):
    one = torch.ones(2)
    obj = {'code':{'a':one,'b':Bomb(tmp_path/'executed')}, 'a module':torch.nn.Linear(2, 2), 'a number':{'a':one,'b':1}, 'a list':[one], 'a tensor':one, 'no names':{1:one}, 'nothing':None}[kind]
    torch.save(obj, tmp_path/'x.pth', _use_new_zipfile_serialization=not old)
    handler = serve((tmp_path/'x.pth').read_bytes())
    assert random_weights() and none_left(tmp_path) and handler.asked==1 and not (tmp_path/'executed').exists()

def test_the_bomb_itself(tmp_path):
    "Opened without care, it goes off"
    torch.save({'b':Bomb(tmp_path/'executed')}, tmp_path/'x.pth')
    torch.load(tmp_path/'x.pth', weights_only=False)
    assert (tmp_path/'executed').exists()

@pytest.mark.parametrize('content', (b'', b'no pickle', b'\x80\x04N.', b'PK\x03\x04'+bytes(100)))
def test_not_a_pth(serve, content, tmp_path):
    serve(content)
    assert random_weights() and none_left(tmp_path)

def test_too_long(serve, pth, monkeypatch, tmp_path):
    serve((pth[1]/'new.pth').read_bytes())
    monkeypatch.setattr(g, 'PTH_BYTES', 1000)
    assert random_weights() and none_left(tmp_path)

def test_a_server_that_does_not_answer(serve, monkeypatch, tmp_path):
    done = Event()
    serve(b'late', wait=done)
    monkeypatch.setattr(g, 'HUB_SECONDS', .3)
    start = time.monotonic()
    assert random_weights() and none_left(tmp_path) and time.monotonic()-start < 10
    done.set()
    monkeypatch.setattr(g, 'PTH_URL', 'http://127.0.0.1:9/x.pth')
    assert random_weights()

def test_imagenet_or_nothing(serve):
    serve(b'no pickle')
    with pytest.raises(InputError, match='googlenet.tv_in1k .*--weights none'): find_weights('googlenet', 'imagenet')

def test_a_cache_that_cannot_be_written(serve, pth, monkeypatch, tmp_path):
    serve((pth[1]/'new.pth').read_bytes())
    (tmp_path/'cache'/'deepfake_nb').mkdir(parents=True)
    (tmp_path/'cache'/'deepfake_nb'/'weights').write_text('a file where the folder should be')
    assert random_weights()

def test_only_its_own_network_is_fetched(monkeypatch):
    asked = []
    monkeypatch.setitem(FETCH, 'googlenet', lambda: asked.append(1))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    hub_file('inception_v3.tv_in1k'); hub_file('googlenetx.tv_in1k')
    assert not asked
    assert hub_file('googlenet.tv_in1k') is None and asked==[1]
