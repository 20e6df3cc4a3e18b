"The web page, in a real browser from upload to verdict, and what programs get from it."
import csv,importlib.util,io,json,os,shutil,signal,socket,sys,threading,time
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('gradio', reason="needs Gradio: pip install 'deepfake_nb[app]'")
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deepfake_nb import answers,app,uploads
from deepfake_nb.detector import Prediction,Detector
from deepfake_nb.onnx_export import export
from deepfake_nb.portraits import draw_portrait
from deepfake_nb.scorers import READY

spec = importlib.util.spec_from_file_location('load', Path(__file__).parents[1]/'tools'/'load.py')
load = importlib.util.module_from_spec(spec)
spec.loader.exec_module(load)

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1',0)); return s.getsockname()[1]

def serve(run):
    "Serve a page, and yield its address and the folder that uploads lie in"
    port,said,before = free_port(),[],dict(app.os.environ)
    page = app.serve(run, port, wait=False, log=said.append)
    assert said==[f'the page is at http://127.0.0.1:{port}']
    yield f'http://127.0.0.1:{port}',page.home.folder
    page.close()
    assert not page.home.folder.exists()
    app.os.environ.clear(); app.os.environ.update(before)

@pytest.fixture(scope='module')
def served(trained): yield from serve(trained)

@pytest.fixture(scope='module')
def ready(): yield from serve(READY)

@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    "Pictures for the ready detector: one.png (with a generator's text), group.png, wall.png, bad.jpg"
    folder,info,group = tmp_path_factory.mktemp('drawn'),PngInfo(),Image.new('RGB', (760,320), '#86a5a0')
    info.add_text('parameters', 'a portrait\nSteps: 20, Sampler: Euler a, Seed: 1')
    draw_portrait(1, 320).save(folder/'one.png', pnginfo=info)
    for seed,side,at in [(1,220,(20,60)),(2,160,(290,100)),(3,220,(500,50))]: group.paste(draw_portrait(seed, side), at)
    group.save(folder/'group.png'); Image.new('RGB', (300,300)).save(folder/'wall.png')
    (folder/'bad.jpg').write_bytes((folder/'one.png').read_bytes()[:9999])
    return folder

@pytest.fixture
def fake(faces): return sorted((faces/'fake').rglob('*.jpg'))[-1]

def open_page(browser, url, **kw):
    "A page, every address that it asked for, and what it complained of"
    tab = browser.new_context(**kw).new_page()
    asked,errors = [],[]
    tab.on('request', lambda r: asked.append(r.url))
    tab.on('console', lambda m: m.type=='error' and errors.append(m.text))
    tab.on('pageerror', lambda e: errors.append(str(e)))
    tab.goto(url)
    tab.wait_for_selector('#drop input[type=file]', state='attached')
    return tab,asked,errors

def upload(tab, *files):
    "What the page says of `files`"
    tab.set_input_files('#drop input[type=file]', [str(o) for o in files])
    tab.wait_for_selector('#verdict .verdict', timeout=30000)
    return tab.inner_text('#verdict').lower()

def files_in(kept): return [o for o in kept.rglob('*') if o.is_file()]

@pytest.mark.parametrize('width,scheme', [(1280,'light'),(390,'dark')])
def test_from_upload_to_verdict(browser, served, trained, fake, width, scheme):
    url,kept = served
    tab,asked,errors = open_page(browser, url, viewport=dict(width=width, height=844), color_scheme=scheme)
    before = files_in(kept)
    said = upload(tab, fake)
    a = Detector.load(trained).predict(fake)[0]
    assert a.verdict in said and f'{a.prob_fake:.1%} fake' in said
    tab.wait_for_selector('#why img')
    assert tab.locator('#why .signals tbody tr').count()==3 and 'no camera' in tab.inner_text('#why .signals')
    assert tab.locator('#why img').count()==3 and tab.evaluate("[...document.querySelectorAll('#why img')].every(o => o.naturalWidth>300 && o.alt)")
    assert tab.evaluate('document.documentElement.scrollWidth')<=width
    assert 'no proof' in tab.inner_text('body')
    assert not errors and not [o for o in asked if not o.startswith((url,'data:','blob:'))]
    assert sorted(files_in(kept))==sorted(before)        # nothing kept
    tab.context.close()

def test_an_example_and_then_a_bad_file(browser, served, tmp_path):
    tab,_,errors = open_page(browser, served[0])
    tab.locator('#examples button').first.click()
    tab.wait_for_selector('#why img', timeout=30000)
    (tmp_path/'b.png').write_bytes(b'no <b>picture</b>')
    tab.set_input_files('#drop input[type=file]', str(tmp_path/'b.png'))
    tab.wait_for_selector('#verdict .error', timeout=30000)
    assert 'not an image' in tab.inner_text('#verdict') and tab.locator('#why img').count()==0 and not errors
    tab.context.close()

def test_an_answer_for_each_face(browser, ready, drawn):
    tab,_,errors = open_page(browser, ready[0], viewport=dict(width=1280, height=844))
    said = upload(tab, drawn/'group.png')
    tab.wait_for_selector('#why .faces')
    words = [o.verdict for o in Detector.default().predict(drawn/'group.png')]
    assert '3 faces' in said and tab.locator('#why .faces > li > div > p .word').all_inner_texts()==words
    assert [o.get_attribute('alt') for o in tab.locator('#why img').all()][0]=='The picture, with a numbered box around each of 3 faces'
    first = tab.locator('#why .faces details').first
    first.locator('summary').press('Enter')
    assert {'network','spectrum','noise','file','provenance'} == set(first.locator('tbody th').all_inner_texts())
    tab.set_input_files('#drop input[type=file]', str(drawn/'wall.png'))
    tab.wait_for_selector('#verdict .error', timeout=30000)
    assert 'no face found' in tab.inner_text('#verdict') and tab.locator('#why img').count()==0 and not errors
    tab.context.close()

def test_a_conflict_is_named(browser, ready, drawn):
    tab = open_page(browser, ready[0])[0]
    said = upload(tab, drawn/'one.png')
    (a,),_ = answers.ask(drawn/'one.png', Detector.default())
    assert a.verdict in said and a.reason=='the network says real, the file says fake' and a.reason in said
    tab.wait_for_selector('#why .pair')
    assert 'Stable Diffusion' in tab.inner_text('#why .signals') and 'Covering' in tab.inner_text('#why')
    tab.context.close()

def test_a_batch_and_its_csv(browser, ready, drawn):
    tab,_,errors = open_page(browser, ready[0])
    said = upload(tab, drawn/'one.png', drawn/'bad.jpg', drawn/'group.png')
    assert '3 files' in said and '1 without an answer' in said and '5 answers' in said
    tab.wait_for_selector('#why .rows')
    with tab.expect_download() as download: tab.click('#why a[download]')
    assert download.value.suggested_filename=='answers.csv'
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [o['path'] for o in rows]==['one.png','bad.jpg']+['group.png']*3==tab.locator('#why tbody th').all_inner_texts()
    assert list(rows[0])==['path','prob_fake','verdict','error','box','reason'] and 'damaged' in rows[1]['error'] and rows[2]['box']
    assert not errors and not files_in(ready[1]/'uploads')
    tab.context.close()

def test_the_keyboard_alone(browser, ready, drawn):
    tab,_,errors = open_page(browser, ready[0])
    def focused(): return tab.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText")
    def tab_to(name):
        for _ in range(30):
            tab.keyboard.press('Tab')
            if name in focused(): return
        raise AssertionError(name)
    tab.wait_for_selector('#examples button[aria-label="Drawing: 3 faces"]')
    tab_to('Choose pictures or videos')
    tab.evaluate("document.addEventListener('click', e => { if (e.target.type==='file') { window.asked = e.target.multiple; e.preventDefault() } }, true)")
    tab.keyboard.press('Enter')                 # which would open the system's own dialog
    tab.wait_for_function('window.asked')
    tab_to('Drawing: 3 faces')
    tab.keyboard.press('Enter')
    tab.wait_for_selector('#why .faces', timeout=30000)
    assert '3 faces' in tab.inner_text('#verdict') and tab.get_attribute('#verdict', 'aria-live')=='polite'
    tab_to('Signals for face 1')
    tab_to('What this detector is bad at')
    tab.keyboard.press('Enter')
    tab.wait_for_selector('#weak table')
    assert 'swapped faces' in tab.inner_text('#weak') and tab.get_attribute('#weak .label-wrap', 'aria-expanded')=='true' and not errors
    tab.context.close()

CONTRAST = """() => {
  const rgba = s => { const o = s.match(/[\\d.]+/g).map(Number); return o.length<4 ? [...o,1] : o }
  const light = c => { const [r,g,b] = c.slice(0,3).map(v => (v/=255)<=.03928 ? v/12.92 : ((v+.055)/1.055)**2.4); return .2126*r+.7152*g+.0722*b }
  const behind = o => { for (; o; o = o.parentElement) { const c = rgba(getComputedStyle(o).backgroundColor); if (c[3]===1) return c } return [255,255,255,1] }
  const texts = [...document.querySelectorAll('#verdict *, #why *, #weak *, #programs *')].filter(o =>
    o.getClientRects().length && !o.closest('pre') && [...o.childNodes].some(n => n.nodeType===3 && n.textContent.trim()))
  return texts.map(o => { const a = light(rgba(getComputedStyle(o).color)), b = light(behind(o)); return [(Math.max(a,b)+.05)/(Math.min(a,b)+.05), o.outerHTML.slice(0,80)] })
}"""

@pytest.mark.parametrize('scheme', ['light','dark'])
def test_a_telephone_by_day_and_night(browser, ready, drawn, scheme):
    tab = open_page(browser, ready[0], viewport=dict(width=390, height=844), color_scheme=scheme)[0]
    for o in ('#weak','#programs'): tab.click(f'{o} .label-wrap')
    for files,there in (([drawn/'one.png'],'.signals'), ([drawn/'group.png'],'.faces'), ([drawn/'one.png',drawn/'bad.jpg'],'.rows')):
        tab.set_input_files('#drop input[type=file]', [str(o) for o in files])
        tab.wait_for_selector(f'#why {there}', timeout=30000)
        assert tab.evaluate('document.documentElement.scrollWidth')<=390
        seen = tab.evaluate(CONTRAST)
        assert len(seen)>20 and min(seen)[0]>=4.5, min(seen)
    tab.context.close()

def test_only_this_machine_is_served(served):
    port = int(served[0].rsplit(':', 1)[1])
    socket.create_connection(('127.0.0.1',port), timeout=2).close()
    with pytest.raises(OSError): socket.create_connection(('127.0.0.2',port), timeout=2)

def test_large_files_are_refused(trained, fake, monkeypatch):
    from gradio_client import Client,handle_file
    monkeypatch.setattr(app, 'MAX_UPLOAD', '1kb')
    port = free_port()
    page = app.serve(trained, port, wait=False, log=lambda o: None)
    try:
        client = Client(f'http://127.0.0.1:{port}', verbose=False, analytics_enabled=False)
        with pytest.raises(Exception, match='413|size|exceed'): client.predict([handle_file(str(fake))], api_name='/answer')
        assert post((f'http://127.0.0.1:{port}',), ('a.jpg',fake.read_bytes()))[0]==413
    finally: page.close()

def test_a_timeline_for_a_video(trained, faces, tmp_path):
    av = pytest.importorskip('av')
    from PIL import Image
    with av.open(str(tmp_path/'clip.mp4'), 'w') as f:
        s = f.add_stream('mpeg4', rate=4); s.width = s.height = 64
        for o in sorted((faces/'real').iterdir())[:8]: f.mux(s.encode(av.VideoFrame.from_image(Image.open(o).resize((64,64)))))
        f.mux(s.encode())
    verdict,why = answers.answer(tmp_path/'clip.mp4', Detector.load(trained))
    assert 'median over the video' in verdict and '8 frames' in why and why.count('<img')==1

def test_an_onnx_file_has_a_map_of_covered_squares(trained, fake, tmp_path):
    pytest.importorskip('onnxruntime'); pytest.importorskip('onnx')
    export(trained/'cnn2', tmp_path/'m.onnx')
    det = Detector.load(tmp_path/'m.onnx')
    verdict,why = answers.answer(fake, det)
    assert '% fake' in verdict and 'overing' in why and 'Grad-CAM' not in why and why.count('<img')==2 and 'not written' in answers.about(det)
    assert 'Grad-CAM' in answers.answer(fake, Detector.load(trained))[1] and 'overing' in answers.answer(fake, Detector.load(trained/'spectrum'))[1]

def test_what_stands_in_a_run_is_text(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path/'run')
    config = json.loads((run/'config.json').read_text())
    (run/'config.json').write_text(json.dumps(config|dict(data='<script>alert(1)</script>')))
    det = Detector.load(run/'cnn2')
    assert '<script>' not in answers.about(det, run/'cnn2')+answers.weaknesses(det, run/'cnn2')

def test_what_cannot_be_served_is_one_line(cli, trained, tmp_path, monkeypatch):
    with socket.create_server(('127.0.0.1',0)) as s:
        taken = s.getsockname()[1]
        wrong = [('--model',trained,'--port',taken), ('--model',trained,'--port',0), ('--model',trained,'--port',70000), ('--model',trained,'--port',free_port(),'--host','192.0.2.1'),
            ('--model',tmp_path/'nowhere','--port',free_port()), ('--model',tmp_path,'--port',free_port())]
        for o in wrong:
            code,said,err = cli('app', *o)
            assert (code,said)==(2,'') and err.startswith('deepfake-nb: ') and err.count('\n')==1, err
    monkeypatch.setitem(sys.modules, 'gradio', None)
    code,_,err = cli('app', '--model', trained)
    assert code==2 and "pip install 'deepfake_nb[app]'" in err and err.count('\n')==1

WATCH = """
import os,sys
def watch(event, args):
    if event=='socket.connect': said = str(args[1][0]) if isinstance(args[1], tuple) else 'a file'
    elif event=='socket.getaddrinfo': said = str(args[0])
    else: return
    if said not in ('a file','127.0.0.1','localhost','::1','None'):
        with open(os.environ['WATCHED'], 'a') as f: f.write(event+' '+said+chr(10))
sys.addaudithook(watch)
"""

def test_many_visitors_no_byte_elsewhere_and_nothing_left(trained, fake, tmp_path):
    (tmp_path/'hook').mkdir(); (tmp_path/'tmp').mkdir()
    (tmp_path/'hook'/'sitecustomize.py').write_text(WATCH)
    env = dict(WATCHED=str(tmp_path/'watched'), PYTHONPATH=os.pathsep.join([str(tmp_path/'hook'),str(Path(app.__file__).parents[1])]), HOME='/proc/nowhere')
    env |= {k:'socks5://127.0.0.1:9' if k=='all_proxy' else 'http://127.0.0.1:9' for k in ('http_proxy','https_proxy','all_proxy','HTTP_PROXY')}
    page,port = load.start(trained/'cnn2', tmp_path/'tmp', **env)
    try:
        assert load.answered(port, [fake.read_bytes()]*12, 6)==(12,[])
        drawn = Path(app.examples()[0][0]).read_bytes()
        assert load.answered(port, load.varied(drawn, 4)+[drawn]*2, 2)==(6,[])
        assert not load.left(tmp_path/'tmp') and len(list((tmp_path/'tmp').rglob('*.jpg')))==6      # the drawn faces stay
        assert load.upload(port, b'nobody asks about this')[0]==200 and load.left(tmp_path/'tmp')
        assert not (tmp_path/'watched').exists(), (tmp_path/'watched').read_text()
        assert load.stop(page)==0 and {o.name.split('_')[0] for o in (tmp_path/'tmp').iterdir()} <= {'torchinductor'}      # PyTorch's own, and empty
    finally: page.kill()

def test_a_killed_page_is_swept_by_the_next(trained, tmp_path):
    page,port = load.start(trained/'cnn2', tmp_path)
    try:
        load.upload(port, b'a photo of somebody')
        load.stop(page, signal.SIGKILL)
        assert load.left(tmp_path)
        page,port = load.start(trained/'cnn2', tmp_path)
        assert not load.left(tmp_path)
        load.upload(port, b'a photo of somebody')
        load.stop(page, signal.SIGHUP)
        assert not list(tmp_path.glob('deepfake_nb-page-*'))
    finally: page.kill()

def post(page, *files, field='file', **headers):
    "Send (name, content) of files to /answer as curl does: the status, and the JSON or the line that comes back"
    part = '--x\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n'
    body = b''.join((part % (field,name)).encode()+content+b'\r\n' for name,content in files)+b'--x--\r\n'
    link = HTTPConnection('127.0.0.1', port_of(page), timeout=60)
    link.request('POST', '/answer', body, {'Content-Type':'multipart/form-data; boundary=x', **{k.replace('_', '-'):v for k,v in headers.items()}})
    r = link.getresponse()
    said = r.read().decode(); link.close()
    return r.status,json.loads(said) if r.headers['Content-Type']=='application/json' else said

def test_programs_get_json(ready, drawn):
    one,bad,group = ((o,(drawn/o).read_bytes()) for o in ('one.png','bad.jpg','group.png'))
    code,found = post(ready, one)
    a, = found
    assert code==200 and set(a)=={'path','prob_fake','verdict','reason','signals'} and (a['path'],a['verdict'])==('one.png','uncertain')
    assert [o['name'] for o in a['signals']]==['network','spectrum','noise','file','provenance']
    assert abs(a['prob_fake']-Detector.default().predict(drawn/'one.png')[0].prob_fake)<1e-6
    code,found = post(ready, one, bad, group, ('../../=x\x1b.jpg',b'junk'), field='anything')
    assert code==200 and [o['path'] for o in found][:5]==['one.png','bad.jpg']+['group.png']*3
    assert all(len(o['box'])==4 and 'prob_fake' in o for o in found[2:5]) and set(found[1])==set(found[5])=={'path','error'} and '\x1b' not in found[5]['path']
    assert post(ready)[0]==status(ready, 'POST', 'answer')[0]==400 and status(ready, 'GET', 'answer')[0]==404
    assert post(ready, *[one]*(uploads.MAX_FILES+1))[0]==400
    assert post(ready, one, Origin='http://evil.example')==(403,'this page answers to itself only')
    assert post(ready, ('clip.mp4',b'no video'))[1][0]['error'].startswith('not a video') and not files_in(ready[1]/'uploads')

def test_fifty_megabytes_of_xmp(ready, drawn):
    buf = io.BytesIO(); Image.open(drawn/'group.png').save(buf, 'jpeg')
    name = b'http://ns.adobe.com/xap/1.0/\0'
    segment = b'\xff\xe1\xff\xfd'+name+b' '*(0xffff-4-len(name)+2)
    jpeg = buf.getvalue()
    began = time.monotonic()
    code,found = post(ready, ('x.jpg',jpeg[:2]+segment*800+jpeg[2:]))
    assert code==200 and len(found)==3 and 'prob_fake' in found[0] and time.monotonic()-began<8, found

def test_gradio_client(ready, drawn):
    from gradio_client import Client,handle_file
    client = Client(ready[0], download_files=False, verbose=False, analytics_enabled=False)
    found = client.predict([handle_file(str(drawn/o)) for o in ('one.png','bad.jpg')], api_name='/answer')
    assert found==post(ready, *((o,(drawn/o).read_bytes()) for o in ('one.png','bad.jpg')))[1]
    verdict = client.predict([handle_file(str(drawn/'one.png'))], api_name='/show')[0]
    assert 'uncertain' in verdict and not files_in(ready[1]/'uploads')

def test_forty_faces_stay_usable():
    a = [Prediction(prob_fake=i/40, verdict='real', box=(i,0,i+30,30), reason='<b>' if i==39 else None) for i in range(40)]
    html = answers.faces_html(Image.new('RGB', (4000,3000)), a, [np.zeros((64,64,3), np.uint8)]*40)
    assert html.count('alt="Face ')==answers.IN_FULL and html.count('<tr')==1+40-answers.IN_FULL and '<b>39' not in html and '&lt;b&gt;' in html
    assert max(answers.draw_boxes(Image.new('RGB', (4000,3000)), a).size)==answers.SHOWN_SIDE

def test_a_csv_holds_no_formula_and_a_page_no_html():
    a = [Prediction('=1+1\n<i>.jpg', .5, 'fake'), Prediction('b.jpg', error='@x')]
    rows = list(csv.reader(io.StringIO(answers.batch_csv(a))))
    assert rows[1][0]=="'=1+1\\n<i>.jpg" and rows[2][3]=="'@x"
    assert '<i>' not in ''.join(answers.batch_html(a, 2))

def port_of(served): return int(served[0].rsplit(':', 1)[1])

def status(served, method='GET', path='config', **headers):
    "What the page answers to a request with these headers, and the headers that come back"
    link = HTTPConnection('127.0.0.1', port_of(served), timeout=20)
    link.request(method, f'/{path}', headers={k.replace('_', '-'):v for k,v in headers.items()})
    r = link.getresponse()
    r.read(); link.close()
    return r.status,r.headers

def test_other_pages_are_refused(served):
    port = port_of(served)
    mine = f'http://127.0.0.1:{port}'
    for host in ('localhost','127.0.0.1','[::1]'): assert status(served, Host=f'{host}:{port}')[0]==200
    for host in ('evil.example',f'evil.example:{port}','127.0.0.1.evil.example','localhost.evil.example','10.0.0.1','[',''): assert status(served, Host=host)[0]==403
    post = dict(method='POST', path='gradio_api/call/answer')
    for o in (dict(Origin='http://evil.example'), dict(Sec_Fetch_Site='cross-site')): assert status(served, 'POST', 'answer', **o)[0]==403
    for o in (dict(Origin='http://evil.example'), dict(Origin='null'), dict(Origin='http://localhost:1'), dict(Sec_Fetch_Site='cross-site'), dict(Sec_Fetch_Site='same-site')): assert status(served, **post, **o)[0]==403
    for o in ({}, dict(Origin=mine), dict(Origin=mine, Sec_Fetch_Site='same-origin')): assert status(served, **post, **o)[0]!=403
    assert status(served, Sec_Fetch_Site='cross-site')[0]==200 and status(served, Origin='http://evil.example')[0]==403       # a link may lead here, a script may not read
    headers = status(served, path='')[1]
    assert headers['X-Frame-Options']=='DENY' and "frame-ancestors 'none'" in headers['Content-Security-Policy']

def test_only_uploads_are_answered_for(served, fake):
    for path in ('/etc/passwd', str(fake), 'http://192.0.2.1/face.jpg', '../x', str(next(served[1].rglob('*.jpg')))):
        code,said = load.call(port_of(served), 'POST', 'call/show', json.dumps(dict(data=[[dict(path=path, meta=dict(_type='gradio.FileData'))]])), **{'Content-Type':'application/json'})
        said = load.call(port_of(served), 'GET', f"call/show/{json.loads(said)['event_id']}")[1].decode()
        assert 'not here any more' in said and '% fake' not in said, said
    assert fake.exists() and list(served[1].rglob('*.jpg'))

def test_the_name_of_an_upload_is_nobodys_business(served, fake):
    for name in ('<img src=x onerror=alert(1)>.jpg', 'a\r\tb\x1b[2J.jpg', '..%2f..%2fetc', 'n'*3000, 'f.mp4.jpg'):
        name = name.replace('\r', '')
        assert '% fake' in load.ask(port_of(served), fake.read_bytes(), name)[0]
    verdict,why = load.ask(port_of(served), b'no picture', '<b>.jpg')
    assert 'No answer' in verdict and '<b>.jpg' not in verdict and not why
    assert 'error' in load.ask(port_of(served), b'no video', 'x.MP4')[0] and not files_in(served[1]/'uploads')
    assert '&lt;i&gt;\\x1b' in app.verdict_html(Prediction(error='<i>\x1b[2J'))

def test_uploads_that_nobody_asks_about_are_bounded(served, monkeypatch):
    port,folder = port_of(served),served[1]/'uploads'
    monkeypatch.setattr(uploads, 'MAX_WAITING', 2)
    try:
        assert [load.upload(port, b'x')[0] for _ in range(4)]==[200,200,503,503] and len(files_in(folder))==2
        monkeypatch.setattr(uploads, 'MAX_WAITING', 99); monkeypatch.setattr(uploads, 'MAX_WAITING_BYTES', 2000)
        code,said = load.upload(port, bytes(3000))
        assert code==503 and b'too many' in said and b'\n' not in said
    finally:
        for o in folder.iterdir(): os.utime(o, (0,0))
    assert load.upload(port, b'x')[0]==200 and len(files_in(folder))==1       # what is old goes
    for o in folder.iterdir(): os.utime(o, (0,0))
    load.ask(port, b'x')
    assert not files_in(folder)

def test_what_does_not_arrive_leaves_nothing(served, monkeypatch, fake):
    port,folder = port_of(served),served[1]/'uploads'
    with socket.create_connection(('127.0.0.1',port)) as s:
        s.sendall(b'POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 999999\r\n\r\n--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'+bytes(9999))
    assert load.call(port, 'POST', 'upload', b'no form', **{'Content-Type':'text/plain'})[0]==400
    assert load.call(port, 'POST', 'upload', b'--x\r\nno form', **{'Content-Type':'multipart/form-data; boundary=x'})[0]==400
    def full(*args): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m:
        m.setattr(uploads.shutil, 'copyfileobj', full)
        code,said = load.upload(port, b'x')
        assert code==503 and b'No space left' in said
    assert not list(folder.iterdir())
    monkeypatch.setattr(uploads, 'MAX_WAITING', 1)                       # nothing is counted that is gone
    assert '% fake' in load.ask(port, fake.read_bytes())[0]

def test_a_slow_picture_stops_nobody_else(served, fake, monkeypatch):
    go,prepare = threading.Event(),Detector.prepare
    def slow(self, item):
        if item.endswith(b'slow'): go.wait(60)
        return prepare(self, item)
    monkeypatch.setattr(Detector, 'prepare', slow)
    said = []
    one = threading.Thread(target=lambda: said.append(load.ask(port_of(served), fake.read_bytes()+b'slow')))
    one.start()
    try: assert '% fake' in load.ask(port_of(served), fake.read_bytes())[0] and not said
    finally: go.set(); one.join(30)
    assert '% fake' in said[0][0]

def test_a_run_that_vanishes(trained, fake, tmp_path):
    run,port = shutil.copytree(trained, tmp_path/'run'),free_port()
    before = dict(os.environ)
    page = app.serve(run, port, wait=False, log=lambda o: None)
    try:
        shutil.rmtree(run)
        verdict,why = load.ask(port, fake.read_bytes())
        assert '% fake' in verdict and why.count('<img')==3
    finally:
        page.close()
        os.environ.clear(); os.environ.update(before)

def test_two_thresholds_and_one_of_them_zero(trained):
    det = Detector.load(trained)
    det.config.update(threshold=.5, real_below=0.)
    assert '**real** below 0%' in answers.about(det) and '**uncertain** between' in answers.about(det)

def test_what_describes_a_run_brings_no_picture_from_elsewhere(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path/'run')
    config = json.loads((run/'config.json').read_text())
    (run/'config.json').write_text(json.dumps(config|dict(data='![x](http://192.0.2.1/x.png)')))
    assert '![x](' not in answers.about(Detector.load(run/'cnn2'), run/'cnn2')

def test_a_network_without_gradcam_gets_covered_squares(trained, fake):
    import torch
    from torch import nn
    model = nn.Sequential(nn.Flatten(), nn.Linear(3*32*32, 1)).eval()
    det = Detector.load(trained)
    verdict,why = answers.answer(fake, Detector(det.score, det.config, model))
    assert '% fake' in verdict and 'overing' in why and why.count('<img')==2
