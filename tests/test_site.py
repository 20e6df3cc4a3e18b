"The site builds from a clean copy with one command, offline, and reads well in a real browser."
import functools,html.parser,http.server,importlib.util,json,os,re,shutil,subprocess,sys,threading
from pathlib import Path
from urllib.parse import unquote,urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns('.git', '_*s', '_proc', 'runs', 'build', 'dist', '*.egg-info', '__pycache__', '.venv', 'nbdev.yml', 'sidebar.yml', '.pytest_cache')
NAMES = sorted(o.relative_to(ROOT/'nbs').as_posix() for o in (ROOT/'nbs').rglob('*.ipynb') if not any(p[0] in '._' for p in o.relative_to(ROOT/'nbs').parts))
SCREENS = dict(desk=dict(width=1280, height=900), phone=dict(width=390, height=844))

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The folder of the site, built by the command of the README in a copy of the project"
    if not (shutil.which('quarto') or importlib.util.find_spec('smalldocs')): pytest.skip('neither Quarto nor smalldocs (which needs Python 3.11) is installed')
    home = tmp_path_factory.mktemp('site')/'project'
    shutil.copytree(ROOT, home, ignore=LEFT_OUT, symlinks=True)
    env = os.environ | dict(PYTHONPATH=str(home), http_proxy='http://127.0.0.1:9', https_proxy='http://127.0.0.1:9')    # whoever asks for a page is refused
    r = subprocess.run([sys.executable, 'tools/docs.py', '--url', 'https://example.org/faces'], cwd=home, env=env, capture_output=True, text=True, timeout=600)
    assert r.returncode == 0, r.stdout + r.stderr
    return home/'_docs'

class Links(html.parser.HTMLParser):
    "Targets and anchors of one page"
    def __init__(self, page): super().__init__(); self.targets,self.ids,self.sidebar = [],set(),[]; self.feed(page.read_text(encoding='utf-8'))
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if 'id' in a: self.ids.add(a['id'])
        if 'sidebar-link' in (a.get('class') or '') and a.get('href'): self.sidebar.append(a['href'])
        self.targets += [v for k in ('href','src') if (v := a.get(k))]

@pytest.fixture(scope='session')
def pages(site): return {o.relative_to(site).as_posix():Links(o) for o in sorted(site.rglob('*.html'))}

def stem(name): return re.sub(r'^\d+\w?_', '', Path(name).stem)

def page_of(name, pages):
    "The page of notebook `name`: smalldocs keeps its number, Quarto drops it"
    return next(o for o in (name.replace('.ipynb', '.html'), (Path(name).parent/f'{stem(name)}.html').as_posix()) if o in pages)

def test_every_notebook_is_a_page(pages): assert len({page_of(o, pages) for o in NAMES}) == len(NAMES)

def broken(site, pages):
    "Links inside the site that lead nowhere"
    for page,links in pages.items():
        for t in links.targets:
            url = urlsplit(t)
            if url.scheme or url.netloc: continue
            to = (site/page) if not url.path else (site/page).parent/unquote(url.path) if url.path[0]!='/' else site/unquote(url.path[1:])
            to = (to/'index.html' if to.is_dir() else to).resolve()
            if not to.is_file(): yield f'{page}: {t}'
            elif url.fragment and to.suffix=='.html' and unquote(url.fragment) not in pages[to.relative_to(site.resolve()).as_posix()].ids: yield f'{page}: no anchor {t}'

def test_no_link_is_broken(site, pages): assert not (bad := sorted(set(broken(site, pages)))), '\n'.join(bad)

def test_no_link_is_left_as_markdown(site, pages):
    "A symbol in backticks inside a link is made into a link of its own, which breaks the one around it"
    assert not [o for o in pages if re.search(r'\]\([\w/]+\.ipynb', (site/o).read_text(encoding='utf-8'))]

def test_sidebar_is_in_reading_order(pages):
    order = [page_of(o, pages) for o in ['index.ipynb', *(o for o in NAMES if re.match(r'[0-6]\d', o)), *(o for o in NAMES if '/' in o), *(o for o in NAMES if o[0]=='8')]]
    shown = [o.removeprefix('./') or 'index.html' for o in pages[page_of('21_cnns.ipynb', pages)].sidebar]
    assert [o for o in shown if o in order] == order

def test_card_and_icon(site):
    text = (site/'index.html').read_text(encoding='utf-8')
    for o in ('rel="icon"', 'favicon.svg', 'property="og:title"', 'property="og:image"', 'https://example.org/faces/images/real_faces.png', 'summary_large_image', 'name="description"'):
        assert o in text, o

def test_signatures_have_docments(site, pages):
    text = re.sub('<[^>]+>', '', (site/page_of('21_cnns.ipynb', pages)).read_text(encoding='utf-8'))
    assert 'Side of the square input, pixels' in text and 'List the layers of' in text

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_): pass

@pytest.fixture(scope='session')
def base(site):
    "The address of the site, served on this machine"
    with http.server.ThreadingHTTPServer(('127.0.0.1',0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()

@pytest.fixture
def visit(browser, base):
    "Open a page and return it, with a list of what went wrong on the way"
    contexts = []
    def go(path, screen='desk', scheme='light'):
        contexts.append(browser.new_context(viewport=SCREENS[screen], color_scheme=scheme))
        page,wrong = contexts[-1].new_page(),[]
        page.on('console', lambda m: wrong.append(f'console: {m.text}') if m.type=='error' else None)
        page.on('pageerror', lambda e: wrong.append(f'error: {e}'))
        page.on('request', lambda r: None if r.url.startswith((base,'data:')) else wrong.append(f'asks for {r.url}'))
        page.on('response', lambda r: wrong.append(f'{r.status}: {r.url}') if r.status >= 400 else None)
        page.goto(base+path, wait_until='networkidle')
        return page,wrong
    yield go
    for c in contexts: c.close()

@pytest.mark.parametrize('screen', SCREENS)
@pytest.mark.parametrize('name', NAMES)
def test_page_in_a_browser(visit, pages, name, screen):
    page,wrong = visit(page_of(name, pages), screen)
    assert not wrong, '\n'.join(wrong)
    unseen = page.evaluate("Promise.all([...document.images].map(o => o.decode().catch(() => 0))).then(() => [...document.images].filter(o => !o.naturalWidth).map(o => o.src.slice(0,80)))")
    assert not unseen, f'pictures that do not show: {unseen}'
    wide,seen = page.evaluate('[document.documentElement.scrollWidth, innerWidth]')
    assert wide <= seen, f'{name} is {wide} pixels wide on a screen of {seen}'

def test_landing_page_shows_the_comparison(visit):
    page,_ = visit('index.html')
    assert page.evaluate("[...document.images].some(o => o.src.includes('comparison') && o.naturalWidth > 300 && o.getBoundingClientRect().width > 300)")

def brightness(page): return sum(int(o) for o in re.findall(r'\d+', page.evaluate('getComputedStyle(document.body).backgroundColor'))[:3])

def test_dark_theme(visit, pages):
    path = page_of('23_backbones.ipynb', pages)
    assert brightness(visit(path)[0]) > 600
    page,wrong = visit(path, scheme='dark')
    assert brightness(page) < 200 and not wrong
    page.click('.quarto-color-scheme-toggle >> visible=true')
    page.wait_for_function('getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0,3).reduce((a,b) => a+ +b, 0) > 600')

def test_search_finds_compare(visit):
    page,wrong = visit('index.html')
    box = page.locator('input[type=search] >> visible=true').first
    box.click()
    box.press_sequentially('compare')
    hit = page.locator('a >> visible=true').filter(has_text=re.compile('^\\s*(compare|comparison)')).and_(page.locator('[class*=search] a, [id*=search] a, .aa-Panel a')).first
    hit.wait_for(timeout=5000)
    assert 'comparison' in hit.get_attribute('href') or 'cli' in hit.get_attribute('href')
    assert not wrong
