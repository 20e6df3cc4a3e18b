"The web page, in a real browser from upload to verdict."
import json,shutil,socket,sys
from pathlib import Path

import pytest

pytest.importorskip('gradio', reason="needs Gradio: pip install 'deepfake_nb[app]'")
from deepfake_nb import app
from deepfake_nb.core import InputError
from deepfake_nb.detector import Detector,export

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1',0)); return s.getsockname()[1]

@pytest.fixture(scope='module')
def served(trained):
    "The page of a run: its address, and the folder that uploads lie in"
    port,said,before = free_port(),[],dict(app.os.environ)
    page = app.serve(trained, port, wait=False, say=said.append)
    assert said==[f'the page is at http://127.0.0.1:{port}']
    yield f'http://127.0.0.1:{port}',Path(app.os.environ['GRADIO_TEMP_DIR'])
    page.close()
    app.os.environ.clear(); app.os.environ.update(before)

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

def upload(tab, file):
    "What the page says of `file`"
    tab.set_input_files('#drop input[type=file]', str(file))
    tab.wait_for_selector('#verdict .verdict', timeout=30000)
    return tab.inner_text('#verdict').lower()

def uploads(kept): return [o for o in kept.rglob('*') if o.is_file()]

@pytest.mark.parametrize('width,scheme', [(1280,'light'),(390,'dark')])
def test_from_upload_to_verdict(browser, served, trained, fake, width, scheme):
    url,kept = served
    tab,asked,errors = open_page(browser, url, viewport=dict(width=width, height=844), color_scheme=scheme)
    before = uploads(kept)
    said = upload(tab, fake)
    a = Detector.load(trained).predict(fake)[0]
    assert a.verdict in said and f'{a.prob_fake:.1%} fake' in said
    tab.wait_for_selector('#why img')
    assert tab.locator('#why img').count()==2 and tab.evaluate("[...document.querySelectorAll('#why img')].every(o => o.naturalWidth>300 && o.alt)")
    assert tab.evaluate('document.documentElement.scrollWidth')<=width
    assert 'no proof' in tab.inner_text('body')
    assert not errors and not [o for o in asked if not o.startswith((url,'data:','blob:'))]
    assert sorted(uploads(kept))==sorted(before)        # nothing kept
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

def test_only_this_machine_is_served(served):
    port = int(served[0].rsplit(':', 1)[1])
    socket.create_connection(('127.0.0.1',port), timeout=2).close()
    with pytest.raises(OSError): socket.create_connection(('127.0.0.2',port), timeout=2)

def test_large_files_are_refused(trained, fake, monkeypatch):
    from gradio_client import Client,handle_file
    monkeypatch.setattr(app, 'MAX_UPLOAD', '1kb')
    port = free_port()
    page = app.serve(trained, port, wait=False, say=lambda o: None)
    try:
        client = Client(f'http://127.0.0.1:{port}', verbose=False, analytics_enabled=False)
        with pytest.raises(Exception, match='413|size|exceed'): client.predict(handle_file(str(fake)), api_name='/answer')
    finally: page.close()

def test_a_timeline_for_a_video(trained, faces, tmp_path):
    av = pytest.importorskip('av')
    from PIL import Image
    with av.open(str(tmp_path/'clip.mp4'), 'w') as f:
        s = f.add_stream('mpeg4', rate=4); s.width = s.height = 64
        for o in sorted((faces/'real').iterdir())[:8]: f.mux(s.encode(av.VideoFrame.from_image(Image.open(o).resize((64,64)))))
        f.mux(s.encode())
    verdict,why = app.answer(tmp_path/'clip.mp4', Detector.load(trained))
    assert 'median over the video' in verdict and '8 frames' in why and why.count('<img')==1

def test_an_onnx_file_answers_without_a_map(trained, fake, tmp_path):
    pytest.importorskip('onnxruntime'); pytest.importorskip('onnx')
    export(trained/'cnn2', tmp_path/'m.onnx')
    det = Detector.load(tmp_path/'m.onnx')
    verdict,why = app.answer(fake, det)
    assert '% fake' in verdict and 'No map' in why and 'not written' in app.about(det)
    assert 'No map' in app.answer(fake, Detector.load(trained/'spectrum'))[1]

def test_what_stands_in_a_run_is_text(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path/'run')
    config = json.loads((run/'config.json').read_text())
    (run/'config.json').write_text(json.dumps(config|dict(data='<script>alert(1)</script>')))
    assert '<script>' not in app.about(Detector.load(run/'cnn2'), run/'cnn2')

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
