"""Pictures of the page of ``timm-sbs web``: ``python tests/benchmarks/page_pictures.py`` takes them all.

Needs the extra 'browser', chromium, the font Inter, and ORT_WEB, the folder 'dist' of the npm package onnxruntime-web.
Measures nothing. Writes results/page.png, page_dark.png, page_narrow.png and page_narrow_dark.png.
"""
import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from table_makers.sources import REPOSITORY

import timm_sbs
from timm_sbs.cli.demo import FOLDER
from timm_sbs.web.page import write_page

sys.path.insert(0, str(REPOSITORY / 'tests'))
from page_browser import browser, classified, missing, opened, runtime, served, wait_for

RESULTS = REPOSITORY / 'tests' / 'benchmarks' / 'results'
WINDOWS = {'': (1080, 640), '_narrow': (360, 640)}  # at least so high
COLOURS = 256  # of a picture, which takes a third of the bytes then


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='sbs_resnet18_2mb')
    parser.add_argument('--photograph', type=Path, default=FOLDER / 'chelsea.jpg')
    parser.add_argument('--folder', type=Path, help='of a page that is there; default: it is written')
    args = parser.parse_args()
    if reason := missing():
        parser.error(reason)
    with tempfile.TemporaryDirectory() as temporary:
        if not args.folder:
            write_page(timm_sbs.load(args.model), temporary, runtime(), args.model)
        with browser() as chromium, served(args.folder or temporary) as address:
            for window, (width, height) in WINDOWS.items():
                for scheme in ('light', 'dark'):
                    options = dict(color_scheme=scheme, reduced_motion='reduce', has_touch=bool(window),
                                   is_mobile=bool(window), viewport={'width': width, 'height': height})
                    with opened(chromium, address, **options) as page:
                        wait_for(page, 'Ready')
                        for _ in range(2):  # the first time, code is compiled as well
                            page.evaluate("document.getElementById('classes').replaceChildren()")
                            page.set_input_files('#file', args.photograph)
                            classified(page)
                        page.set_viewport_size({
                            'width': width, 'height': page.evaluate('document.documentElement.scrollHeight')})
                        image = Image.open(io.BytesIO(page.screenshot())).convert('RGB')
                    file = RESULTS / f"page{window}{'_dark' if scheme == 'dark' else ''}.png"
                    image.quantize(COLOURS, kmeans=2, dither=Image.Dither.FLOYDSTEINBERG).save(file, optimize=True)
                    print(f'wrote {file.name}: {image.width} x {image.height}, {file.stat().st_size:,} bytes')


if __name__ == '__main__':
    main()
