"""A page's folder on loopback, as a server sends it that knows .br files, and a browser that looks at it."""
import mimetypes
import os
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from timm_sbs.web.page import CDN, RUNTIME

FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync']


class Handler(SimpleHTTPRequestHandler):
    """Sends NAME.br for NAME to a client that takes it."""

    def do_GET(self):
        file = Path(self.translate_path(self.path))
        packed = file.with_name(f'{file.name}.br')
        if not (packed.is_file() and 'br' in self.headers.get('Accept-Encoding', '')):
            return super().do_GET()
        data = packed.read_bytes()
        self.send_response(200)
        self.send_header('Content-Type', mimetypes.guess_type(file.name)[0] or 'application/octet-stream')
        self.send_header('Content-Encoding', 'br')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None

    def log_message(self, *args):
        pass


@contextmanager
def served(folder):
    """Address of a folder."""
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f'http://127.0.0.1:{server.server_port}/'
        finally:
            server.shutdown()


def missing():
    """What a browser test needs and this machine lacks, in words, or None."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "no playwright: pip install '.[browser]'"
    if not chromium():
        return 'no chromium: apt-get install chromium, or CHROMIUM=FILE'
    if not all((runtime() / file).is_file() for file in RUNTIME):
        return "no runtime: npm pack onnxruntime-web, and ORT_WEB=its folder 'dist'"
    return None


def chromium():
    return os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('google-chrome')


def runtime():
    return Path(os.environ.get('ORT_WEB') or 'nowhere')


@contextmanager
def browser():
    """Chromium, which playwright drives."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        try:
            yield started
        finally:
            started.close()


@contextmanager
def opened(browser, address, **options):
    """A page in a window of its own, which finds at the public address of the runtime what ORT_WEB has. What the page
    complains about is in its list ``complaints``."""
    context = browser.new_context(**{'viewport': {'width': 1100, 'height': 800}, **options})
    context.route(f'{CDN}*', lambda route: route.fulfill(
        path=runtime() / route.request.url.removeprefix(CDN), headers={'Access-Control-Allow-Origin': '*'}))
    page = context.new_page()
    page.complaints = []
    page.on('pageerror', lambda error: page.complaints.append(str(error)))
    page.on('console', lambda message: message.type in ('error', 'warning') and page.complaints.append(message.text))
    page.goto(address)
    try:
        yield page
    finally:
        context.close()


def wait_for(page, status):
    """Until the page's status line has a text, or a part of it; fails when it is an error."""
    page.wait_for_function(
        """text => { const line = document.getElementById('status');
        return line.textContent.includes(text) || line.className === 'error'; }""", arg=status, timeout=120_000)
    shown = page.text_content('#status')
    assert status in shown, shown


def classified(page):
    """Shown classes with their probabilities, once there are some."""
    page.wait_for_selector('#classes li, #status.error', timeout=120_000)
    names, chances = (page.locator(f'#classes .{part}').all_text_contents() for part in ('name', 'percent'))
    assert names, page.text_content('#status')
    return [(name, float(chance.removesuffix(' %')) / 100) for name, chance in zip(names, chances)]
