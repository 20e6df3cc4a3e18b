"A model goes to the hub and comes back; the hub is a small server on this machine that speaks as much of its language as is needed."
import base64,hashlib,json,os,re,shutil,socket
from http.server import BaseHTTPRequestHandler,ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from urllib.parse import unquote,urlsplit

import pandas as pd
import pytest
import yaml
from huggingface_hub import HfApi,constants,file_download,hf_api
from huggingface_hub import utils as hf_utils

from deepfake_nb import hub
from deepfake_nb.core import InputError,read_json,write_json
from deepfake_nb.detector import Detector
from deepfake_nb.images import find_images

NOBODY = 'http://127.0.0.1:9'       # nobody listens there
REPO = 'mary/faces'

class Server(BaseHTTPRequestHandler):
    "The hub: repositories with commits, large files by their checksum, and two tokens; `hub` is its memory"
    def log_message(self, *args): pass

    def body(self):
        if 'chunked' not in self.headers.get('Transfer-Encoding', ''): return self.rfile.read(int(self.headers.get('Content-Length') or 0))
        data = b''
        while n := int(self.rfile.readline(), 16): data += self.rfile.read(n); self.rfile.readline()
        self.rfile.readline()
        return data

    def reply(self, code, obj=None, data=b'', **headers):
        if obj is not None: data = json.dumps(obj).encode()
        self.send_response(code)
        for k,v in {'Content-Length':len(data), **{k.replace('_', '-'):v for k,v in headers.items()}}.items(): self.send_header(k, str(v))
        self.end_headers()
        if self.command!='HEAD': self.wfile.write(data)

    def refuse(self, code, error='', message=''): self.reply(code, dict(error=message), X_Error_Code=error, X_Error_Message=message)

    def token(self): return self.headers.get('Authorization', '').removeprefix('Bearer ')

    def repo(self, name):
        "The repository, if it is there and may be read; else the answer is given"
        found,token = self.hub.repos.get(name),self.token()
        if token and token not in ('hf_read','hf_write'): self.refuse(401, message='Invalid credentials in Authorization header')
        elif found is None or found.private and not token: self.refuse(404 if token else 401, 'RepoNotFound', 'Repository not found')
        elif found.gated: self.refuse(403, 'GatedRepo', 'Access to model is restricted')
        else: return found

    def files(self, repo, revision):
        "(commit, files) of a revision; else the answer is given"
        sha = repo.main if revision in (None,'main') else revision
        if sha in repo.commits: return sha,repo.commits[sha]
        self.refuse(404, 'RevisionNotFound', f'Invalid rev id: {revision}')

    def writes(self):
        if self.token()=='hf_write': return True
        if self.token()=='hf_read': self.refuse(403, message='you must use a write token')
        else: self.refuse(401, message='Invalid username or password.')

    def any(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command,path))
        if self.hub.down: return self.refuse(503, message='Service Unavailable')
        for (verb,pattern),f in ROUTES.items():
            if (self.command.replace('HEAD', 'GET'))==verb and (m := re.fullmatch(pattern, path)): return f(self, *m.groups())
        self.refuse(404, message='no such page')
    do_GET = do_HEAD = do_POST = do_PUT = any

    def validate(self): self.body(); self.reply(200, dict(errors=[], warnings=[]))

    def create(self):
        said = json.loads(self.body())
        if not self.writes(): return
        name = f"{said['organization']}/{said['name']}"
        url = f'{self.hub.url}/{name}'
        if name in self.hub.repos: return self.reply(409, dict(error='You already created this model repo', url=url))
        private = said.get('private') or said.get('visibility')=='private'
        self.hub.add(name, {'.gitattributes':b''}, private=private)
        self.reply(200, dict(url=url))

    def info(self, name, revision):
        if not (repo := self.repo(name)) or not (found := self.files(repo, revision)): return
        sizes = {k:len(v) for k,v in found[1].items()} | repo.lies
        self.reply(200, dict(id=name, sha=found[0], private=repo.private, siblings=[dict(rfilename=k, size=v) for k,v in sizes.items()]))
        if repo.next: self.hub.commit(name, repo.next)

    def preupload(self, name):
        files = json.loads(self.body())['files']
        if not self.writes(): return
        def mode(o): return 'lfs' if o['path'].endswith(('.onnx','.safetensors')) else 'regular'
        self.reply(200, dict(files=[dict(path=o['path'], uploadMode=mode(o), shouldIgnore=False) for o in files]))

    def batch(self, name):
        objects = json.loads(self.body())['objects']
        if not self.writes(): return
        self.reply(200, dict(transfer='basic', objects=[dict(oid=o['oid'], size=o['size'],
            actions=dict(upload=dict(href=f"{self.hub.url}/large/{o['oid']}"))) for o in objects]))

    def large(self, oid):
        data = self.body()
        if self.hub.store_fails or hashlib.sha256(data).hexdigest()!=oid: return self.refuse(403, message='Forbidden')
        self.hub.large[oid] = data
        self.reply(200)

    def commit(self, name):
        lines = [json.loads(o) for o in self.body().splitlines()]
        if not self.writes(): return
        repo = self.hub.repos[name]
        files = dict(repo.commits[repo.main])
        for o in lines:
            v = o['value']
            if o['key']=='file': files[v['path']] = base64.b64decode(v['content'])
            if o['key']=='lfsFile': files[v['path']] = self.hub.large[v['oid']]
            if o['key']=='deletedFile': del files[v['path']]
        sha = self.hub.commit(name, files)
        self.reply(200, dict(commitUrl=f'{self.hub.url}/{name}/commit/{sha}', commitOid=sha))

    def resolve(self, name, revision, file):
        if not (repo := self.repo(name)) or not (found := self.files(repo, revision)): return
        sha,files = found
        if file not in files: return self.refuse(404, 'EntryNotFound', 'Entry not found')
        self.reply(200, data=files[file], X_Repo_Commit=sha, ETag=f'"{hashlib.sha256(files[file]).hexdigest()}"')

NAME = r'([^/]+/[^/]+)'
ROUTES = {('POST','/api/validate-yaml'):Server.validate, ('POST','/api/repos/create'):Server.create,
    ('GET',f'/api/models/{NAME}(?:/revision/(.+))?'):Server.info, ('POST',f'/api/models/{NAME}/preupload/main'):Server.preupload,
    ('POST',f'/{NAME}.git/info/lfs/objects/batch'):Server.batch, ('PUT','/large/(.+)'):Server.large,
    ('POST',f'/api/models/{NAME}/commit/main'):Server.commit, ('GET',f'/{NAME}/resolve/([^/]+)/(.+)'):Server.resolve}

class Memory:
    "What the server knows"
    def __init__(self): self.repos,self.large,self.asked,self.down,self.store_fails,self.url = {},{},[],False,False,''
    def commit(self, name, files):
        repo = self.repos[name]
        repo.main = hashlib.sha1(f'{name} {len(repo.commits)}'.encode()).hexdigest()
        repo.commits[repo.main] = files
        return repo.main
    def add(self, name, files, private=False, gated=False, lies=None, next=None):
        self.repos[name] = SimpleNamespace(private=bool(private), gated=gated, lies=lies or {}, next=next, commits={}, main=None)
        return self.commit(name, files)
    def now(self, name=REPO): return self.repos[name].commits[self.repos[name].main]
    def fetched(self): return {p.split('/')[-1] for m,p in self.asked if '/resolve/' in p}

def close_session(): getattr(hf_utils, 'close_session', getattr(hf_utils, 'reset_sessions', None))()

def ask(monkeypatch, url):
    "From now on, the hub is at `url`, as if HF_ENDPOINT had said so when huggingface_hub was imported"
    for module in (constants,file_download,hf_api):     # older versions copied the names
        for k,v in dict(ENDPOINT=url, HUGGINGFACE_CO_URL_TEMPLATE=url+'/{repo_id}/resolve/{revision}/{filename}').items():
            if hasattr(module, k): monkeypatch.setattr(module, k, v)
    monkeypatch.setattr(hub, '_api', lambda: HfApi(endpoint=url, library_name='deepfake_nb'))

def here_alone(look_up):
    def found(host, *args, **kw):
        assert host in ('127.0.0.1','localhost',None), f'a test asks for {host}'
        return look_up(host, *args, **kw)
    return found

@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    "No test asks the real hub, uses the user's token or touches the user's cache of the hub"
    monkeypatch.setattr(socket, 'getaddrinfo', here_alone(socket.getaddrinfo))
    for k,v in dict(HF_HUB_OFFLINE=False, HF_HUB_DISABLE_XET=True, HF_HUB_CACHE=str(tmp_path/'cache'), HF_TOKEN_PATH=str(tmp_path/'token')).items():
        monkeypatch.setattr(constants, k, v, raising=k!='HF_HUB_DISABLE_XET')
    monkeypatch.setenv('NO_PROXY', '*')
    monkeypatch.setenv('HF_TOKEN', 'hf_write')
    close_session()                 # a session keeps the proxies that it was made with
    ask(monkeypatch, NOBODY)
    yield
    close_session()

@pytest.fixture
def server(monkeypatch):
    memory = Memory()
    http = ThreadingHTTPServer(('127.0.0.1',0), type('Here', (Server,), dict(hub=memory)))
    Thread(target=http.serve_forever, args=(.02,), daemon=True).start()
    memory.url = f'http://127.0.0.1:{http.server_port}'
    ask(monkeypatch, memory.url)
    yield memory
    http.shutdown()
    http.server_close()

def line(f, *args, **kw):
    "The one line that is said of wrong input"
    with pytest.raises(InputError) as e: f(*args, **kw)
    assert '\n' not in str(e.value)
    return str(e.value)

def quiet(line): pass

@pytest.fixture(scope='module')
def model(trained): return trained/'cnn2'

@pytest.fixture(scope='module')
def photos(faces): return find_images(faces)[::8]

@pytest.fixture(scope='module')
def packed(model, tmp_path_factory):
    "The files of an upload, by name"
    pytest.importorskip('onnx')
    return {o.name:o.read_bytes() for o in hub.files_to_push(model, tmp_path_factory.mktemp('packed'), REPO)}

def without_onnx(packed): return {k:v for k,v in packed.items() if k!='model.onnx'}

def no_onnx(*args): raise InputError("export needs ONNX: pip install 'deepfake_nb[onnx]'")

def probs(det, photos): return [a.prob_fake for a in det.predict(photos)]

# there and back

def test_there_and_back(server, model, photos):
    pytest.importorskip('onnx')
    said = []
    assert hub.push(model, REPO, log=said.append) == f'{server.url}/{REPO}'
    assert set(server.now()) == {'.gitattributes','README.md','config.json','metrics.json','model.onnx','model.safetensors'}
    assert len(server.repos[REPO].commits) == 2 and not server.repos[REPO].private       # one commit after the first, empty one
    assert 'model.onnx' in said[-1] and server.now()['model.safetensors'] == (model/'model.safetensors').read_bytes()
    det = Detector.from_hub(REPO)
    assert isinstance(det, Detector) and server.fetched() == {'model.onnx'}
    assert probs(det, photos) == pytest.approx(probs(Detector.load(model), photos), abs=1e-3)

def test_there_and_back_without_onnx(server, model, photos, monkeypatch, tmp_path):
    run = tmp_path/'run'/'cnn2'
    shutil.copytree(model.parent, run.parent)
    write_json(run/'delivery.json', dict(blind=dict(detail=[[0,.3]], noise=[])))
    monkeypatch.setattr(hub, 'export', no_onnx)
    said = []
    hub.push(run, REPO, private=True, log=said.append)
    assert 'without an ONNX file: export needs ONNX' in said[0]
    assert server.repos[REPO].private and 'model.onnx' not in server.now()
    det,ours = Detector.from_hub(REPO),Detector.load(run)
    assert server.fetched() == {'config.json','delivery.json','model.safetensors'}
    assert probs(det, photos) == probs(ours, photos) and det.config == ours.config and det.config['blind']['detail'] == [[0,.3]]

def test_a_new_upload_leaves_nothing_of_the_one_before(server, model, packed, monkeypatch):
    server.add(REPO, packed | {'delivery.json':b'{}', 'notes.txt':b'mine'})
    monkeypatch.setattr(hub, 'export', no_onnx)
    hub.push(model, REPO, log=quiet)
    assert not {'model.onnx','delivery.json'} & set(server.now()) and server.now()['notes.txt'] == b'mine'

def test_versions(server, packed):
    first = server.add(REPO, packed)
    assert Detector.from_hub(REPO).source[0].parent.name == first
    second = server.commit(REPO, without_onnx(packed))
    assert Detector.from_hub(REPO).source[0].parent.name == second
    assert Detector.from_hub(REPO, revision=first).source[0].name == 'model.onnx'

def test_the_cache_answers_without_a_hub(server, packed, photos, monkeypatch):
    sha = server.add(REPO, packed)
    want = probs(Detector.from_hub(REPO), photos)
    n = len(server.asked)
    assert probs(Detector.from_hub(REPO, local_files_only=True), photos) == want and len(server.asked) == n
    server.down = True
    assert probs(Detector.from_hub(REPO), photos) == want
    ask(monkeypatch, NOBODY)
    for o in (None,sha): assert probs(Detector.from_hub(REPO, revision=o), photos) == want
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert probs(Detector.from_hub(REPO), photos) == want
    assert "not in the hub's cache" in line(Detector.from_hub, REPO, revision='v2')

def test_half_a_download_is_none(server, packed, monkeypatch):
    server.add(REPO, without_onnx(packed))
    path = hub.hub_model(REPO)
    assert hub.hub_model(REPO, local_files_only=True) == path and path.is_dir()
    (path/'model.safetensors').unlink()
    assert "not in the hub's cache" in line(hub.hub_model, REPO, local_files_only=True)

# what is told about the pictures

def test_no_picture_and_no_path_of_one(server, model, faces, tmp_path):
    from deepfake_nb.settings import describe_data
    run = tmp_path/'run'/'cnn2'
    shutil.copytree(model.parent, run.parent)
    table = pd.read_csv(run.parent/'table.csv')
    said = describe_data(table.assign(split=''), [faces/'real'], [faces/'fake'])
    write_json(run.parent/'config.json', read_json(run.parent/'config.json') | dict(data=said))
    hub.push(run, REPO, log=quiet)
    sent = b'\n'.join([*server.now().values(), *(o.encode() for o in server.now())])
    for o in {str(faces), *map(os.path.dirname, table.path), *table.path}: assert o.encode() not in sent
    for o in table.path: assert Path(o).name.encode() not in sent and Path(o).read_bytes()[:200] not in sent
    card = server.now()['README.md'].decode()
    assert 'A fifth is kept for validation. Real: real' in card and 'Real images from' not in card
    assert said.split('. ')[0] in (run/'model_card.md').read_text().replace('\\', '')      # the card at home is as it was

@pytest.mark.parametrize('folder', ('/data/of_mary/[new]','C:\\Users\\mary\\faces','/données/marie'))
def test_a_path_is_found_however_it_is_written(model, tmp_path, folder):
    run = tmp_path/'run'/'cnn2'
    run.mkdir(parents=True)
    pd.DataFrame(dict(path=[os.path.join(folder, '1.jpg')])).to_csv(run.parent/'table.csv', index=False)
    for name,text in {'a.md':f'from {folder}.', 'b.md':hub.markdown_cell(folder), 'c.json':json.dumps(dict(o=folder))}.items():
        (tmp_path/name).write_text(text, encoding='utf-8')
        assert f'{name} of' in line(hub._check_private, [tmp_path/name], run)
    (tmp_path/'d.md').write_text(f'at {Path.home()}')
    if str(Path.home())!='/': assert 'd.md of' in line(hub._check_private, [tmp_path/'d.md'], run)

@pytest.mark.parametrize('data,said', [('Real images from a. A fifth is kept for validation.','A fifth is kept for validation.'),
    ('Fakes from /x. The y; images from z. The train split came with the data.','The train split came with the data.'),
    ('Real images from /a\nb. A fifth is kept for validation.','A fifth is kept for validation.'), ('','')])
def test_the_folders_are_left_out(data, said): assert hub._without_folders(data)==said

def test_the_head_of_the_card(model, packed):
    head = yaml.safe_load(packed['README.md'].decode().split('---\n')[1])
    assert head['license']=='other' and head['pipeline_tag']=='image-classification' and head['library_name']=='deepfake_nb'
    result, = head['model-index'][0]['results']
    split = 'test' if result['dataset']['split']=='test' else 'valid'
    assert {o['type']:o['value'] for o in result['metrics']}['accuracy'] == pytest.approx(read_json(model/'metrics.json')[split]['accuracy'], abs=1e-4)
    assert f"from_hub('{REPO}')" in packed['README.md'].decode() and yaml.safe_load(hub.hub_card(model, REPO, 'mit').split('---\n')[1])['license']=='mit'

# one line each

@pytest.mark.parametrize('repo', ('faces','a/b/c','https://huggingface.co/mary/faces','../faces','','a b/c','mary/faces.git','/mary/faces'))
def test_names_that_are_none(repo, model):
    for f in (lambda o: hub.push(model, o), Detector.from_hub): assert 'use owner/name' in line(f, repo)

def test_what_is_not_there(server, packed, monkeypatch):
    server.add(REPO, packed)
    assert 'no model \'mary/other\' on the hub, or it is private' in line(Detector.from_hub, 'mary/other')
    assert "no revision 'v2' of 'mary/faces'" in line(Detector.from_hub, REPO, revision='v2')
    server.repos[REPO].gated = True
    assert 'is given to those who ask' in line(Detector.from_hub, REPO)
    server.add(REPO, packed, private=True)
    Detector.from_hub(REPO)
    monkeypatch.delenv('HF_TOKEN')
    assert 'or it is private' in line(Detector.from_hub, REPO, revision='main')
    monkeypatch.setenv('HF_TOKEN', 'hf_of_yesterday')
    assert 'does not accept your token' in line(Detector.from_hub, REPO)

def test_no_network(server, model, monkeypatch):
    server.down = True
    assert 'cannot be reached' in line(Detector.from_hub, REPO)
    assert 'cannot be reached' in line(hub.push, model, REPO, log=quiet)
    ask(monkeypatch, NOBODY)
    assert 'cannot be reached' in line(Detector.from_hub, REPO)
    assert 'cannot be reached' in line(hub.push, model, REPO, log=quiet)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert 'HF_HUB_OFFLINE' in line(Detector.from_hub, REPO)
    assert 'HF_HUB_OFFLINE' in line(hub.push, model, REPO, log=quiet)

def test_what_is_no_model_of_ours(server, packed):
    server.add('a/transformers', {'config.json':b'{"architectures":["ViT"]}', 'model.safetensors':packed['model.safetensors'], 'pytorch_model.bin':b'\x80\x04N.'})
    assert 'not a run of this package' in line(Detector.from_hub, 'a/transformers')
    assert 'pytorch_model.bin' not in server.fetched()
    server.add('a/pickles', {'model.pkl':b'\x80\x04N.', 'pytorch_model.bin':b'\x80\x04N.'})
    assert 'holds no model of this package' in line(Detector.from_hub, 'a/pickles')
    assert not {'model.pkl','pytorch_model.bin'} & server.fetched()

@pytest.mark.parametrize('name', ('model.onnx','model.safetensors','config.json'))
def test_damaged_files(server, packed, name):
    files = packed if name=='model.onnx' else without_onnx(packed)
    whole = files[name]
    for bad in (whole[:len(whole)//2], b'', b'\x80\x04N.', whole[:-9]+bytes([whole[-9]^4])+whole[-8:] if name=='model.onnx' else b'no'):
        server.add(REPO, files | {name:bad})
        said = line(Detector.from_hub, REPO)
        assert said.startswith("'mary/faces': ") and 'damaged' in said and "models--mary--faces' and fetch it anew" in said
        shutil.rmtree(constants.HF_HUB_CACHE)

def test_files_that_are_too_large(server, packed):
    for name,files in (('model.onnx',packed),('model.safetensors',without_onnx(packed)),('config.json',without_onnx(packed))):
        for size in (2**40,None):
            server.add(REPO, files, lies={name:size})
            assert f"{name} of 'mary/faces' has" in line(Detector.from_hub, REPO)
    assert not server.fetched()

def test_a_repository_that_changes_meanwhile(server, packed):
    server.add(REPO, packed, next=without_onnx(packed) | {'model.onnx':packed['model.onnx']+b'x'})
    assert 'was changed while it was fetched' in line(Detector.from_hub, REPO)

def test_who_may_not_upload(server, model, packed, monkeypatch):
    def push(**kw): return line(hub.push, model, REPO, log=quiet, **kw)
    monkeypatch.setattr(hub, 'export', no_onnx)     # seconds saved
    monkeypatch.setenv('HF_TOKEN', 'hf_of_yesterday')
    assert 'does not accept your token' in push()
    monkeypatch.setenv('HF_TOKEN', 'hf_read')
    assert 'may not write' in push()
    server.add(REPO, packed)
    assert 'may not write' in push()                # it is there, and may be read
    monkeypatch.setenv('HF_TOKEN', 'hf_write')
    assert 'is public' in push(private=True)
    server.store_fails = True
    assert 'may not write' in push()                # the large files go elsewhere
    assert server.now() == packed and len(server.repos[REPO].commits) == 1
    monkeypatch.delenv('HF_TOKEN')
    n = len(server.asked)
    assert 'no token for the hub' in push() and len(server.asked) == n

def test_a_damaged_run_is_not_uploaded(server, model, tmp_path):
    run = tmp_path/'run'/'cnn2'
    shutil.copytree(model.parent, run.parent)
    whole = (run/'model.safetensors').read_bytes()
    (run/'model.safetensors').write_bytes(whole[:-9]+bytes([whole[-9]^4])+whole[-8:])
    assert 'damaged' in line(hub.push, run, REPO, log=quiet)
    (run/'metrics.json').unlink()
    (run/'model.safetensors').write_bytes(whole)
    assert 'metrics.json' in line(hub.push, run, REPO, log=quiet)
    assert 'no run' in line(hub.push, tmp_path/'none', REPO, log=quiet)
    assert 'is not empty' in line(hub.files_to_push, model, run)
    assert not server.asked

# on the command line

def test_the_command_line(server, model, photos, cli, tmp_path):
    pytest.importorskip('onnx')
    code,out,err = cli('push', model, REPO, '--license', 'apache-2.0')
    assert (code,out.strip()) == (0,f'{server.url}/{REPO}') and b'license: apache-2.0' in server.now()['README.md']
    sha = server.repos[REPO].main
    want = pytest.approx(Detector.load(model).predict(photos[:1])[0].prob_fake, abs=1e-3)
    for o in (f'hf:{REPO}',f'hf:{REPO}@{sha}'):
        code,out,err = cli('predict', photos[0], '--model', o, '--json')
        assert code==0 and json.loads(out)[0]['prob_fake'] == want
    for args in (('predict', photos[0], '--model', 'hf:mary/none'), ('predict', photos[0], '--model', f'hf:{REPO}@v9'), ('push', model, 'faces')):
        code,out,err = cli(*args)
        assert (code,out) == (2,'') and len(err.strip().splitlines()) == 1
