// Classifies photographs with the model beside this file, in the browser. Whatever settings.json says is shown as text.
'use strict';

const $ = id => document.getElementById(id);
const pause = () => new Promise(done => setTimeout(done, 30)); // the browser draws before something long begins
const MOST_PIXELS = 1 << 24; // of a canvas in Safari on a phone

const add = numbers => numbers.reduce((a, b) => a + b, 0);
const percent = probability => `${(100 * probability).toFixed(1)} %`;
const size = bytes => bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
const duration = ms => ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;

/** The line of status. As `read` it is for those who listen: the others see it elsewhere. */
function say(text, as = '') {
  $('status').textContent = text;
  $('status').className = as;
}

/** An element with elements or texts in it. */
function element(tag, className, ...parts) {
  const made = Object.assign(document.createElement(tag), {className});
  made.append(...parts); // which makes text of a text, whatever is in it
  return made;
}

/** A row of figures below the result: pairs of a name and a value. */
function showFigures(figures) {
  $('figures').replaceChildren(...figures.map(
    ([name, value]) => element('div', '', element('dt', '', name), element('dd', '', value))));
}

const lost = url => () => {
  throw Error(`${url} cannot be loaded: look at the connection, then load this page again.`);
};

async function get(url, options = {}) {
  const response = await fetch(url, {cache: 'no-cache', ...options}).catch(lost(url));
  if (!response.ok) throw Error(`${url} cannot be loaded: the server answers ${response.status}.`);
  return response;
}

/** A file that settings.json says: its bytes, once they are the right ones. Tells how many more have come.
 * A server may compress what it sends, so only settings.json knows how long a file is. */
async function receive({url, bytes, integrity}, more) {
  const digests = Boolean(globalThis.crypto?.subtle); // not on http pages of other hosts: there, fetch compares
  const response = await get(url, digests ? {} : {integrity});
  const data = new Uint8Array(bytes);
  let count = 0;
  for (let reader = response.body.getReader(), part; !(part = await reader.read().catch(lost(url))).done;) {
    if (count + part.value.length <= bytes) data.set(part.value, count);
    count += part.value.length;
    more(part.value.length);
  }
  if (count === bytes && digests) {
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-384', data));
    if (integrity !== `sha384-${btoa(String.fromCharCode(...digest))}`) count = -1;
  }
  if (count !== bytes) throw Error(`${url} is not the file that settings.json describes: load the page again.`);
  return data;
}

/** All files, with a bar. */
async function receiveAll(files) {
  const total = add(files.map(file => file.bytes)), bar = $('progress');
  let received = 0;
  bar.max = total;
  bar.hidden = false;
  const found = await Promise.all(files.map(file => receive(file, count => {
    received += count;
    bar.value = Math.min(received, total);
    showFigures([['Received', `${size(received)} of ${size(total)}`]]);
  })));
  bar.hidden = true;
  return found;
}

/** Bytes that files took on the way, if the browser tells. */
function onTheWay(files) {
  const entries = files.map(({url}) => performance.getEntriesByName(new URL(url, location.href).href)[0]);
  const sizes = entries.map(entry => entry?.encodedBodySize);
  return sizes.every(Boolean) ? add(sizes) : null;
}

// How much of a pixel at a distance goes into the result, and how far that reaches: as Pillow has it.
const sinc = x => x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
const FILTERS = {
  box: [.5, x => x > -.5 && x <= .5 ? 1 : 0],
  bilinear: [1, x => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, x => Math.abs(x) < 1 ? sinc(x) * (.54 + .46 * Math.cos(Math.PI * x)) : 0],
  bicubic: [2, x => (x = Math.abs(x)) < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((2.5 - .5 * x) * x - 4) * x + 2 : 0],
  lanczos: [3, x => Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0],
};

/** Rows of pixels, resized with antialiasing to another length, of which `count` pixels from `first` on are computed.
 * Rows become columns: the same function, called again, resizes these. A canvas's own resizing comes less close. */
function resizeRows(pixels, channels, length, rows, target, first, count, [reach, filter]) {
  const scale = length / target, stretch = Math.max(1, scale), support = reach * stretch;
  const result = new Uint8ClampedArray(count * rows * 3);
  for (let i = 0; i < count; i++) {
    const centre = (first + i + .5) * scale;
    const from = Math.max(0, Math.floor(centre - support + .5));
    const to = Math.min(length, Math.floor(centre + support + .5));
    const weights = Float32Array.from({length: to - from}, (_, k) => filter((from + k - centre + .5) / stretch));
    const sum = add(weights);
    for (let row = 0, at = i * rows * 3; row < rows; row++, at += 3) {
      let red = 0, green = 0, blue = 0;
      for (let k = 0, p = (row * length + from) * channels; k < weights.length; k++, p += channels) {
        red += weights[k] * pixels[p];
        green += weights[k] * pixels[p + 1];
        blue += weights[k] * pixels[p + 2];
      }
      result[at] = red / sum;
      result[at + 1] = green / sum;
      result[at + 2] = blue / sum;
    }
  }
  return result;
}

/** As Python rounds: halves to the even number. */
const rounded = x => x % 1 === .5 ? 2 * Math.round(x / 2) : Math.round(x);

/** A photograph as timm gives it to a network that it evaluates: RGB bytes in rows. Sides are [height, width]. */
function toInput(bitmap, {size, resized, squash, interpolation}) {
  const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height)));
  const [height, width] = [bitmap.height, bitmap.width].map(side => Math.max(1, Math.floor(side * shrink)));
  const canvas = Object.assign(document.createElement('canvas'), {width, height});
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.imageSmoothingQuality = 'high';
  context.fillStyle = '#fff'; // behind what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  const {data} = context.getImageData(0, 0, width, height);
  const ratio = Math.min(height / resized[0], width / resized[1]);
  const whole = resized[0] === resized[1] ? x => Math.floor(x + 1e-9) : rounded;
  const [h, w] = squash ? resized : [whole(height / ratio), whole(width / ratio)];
  const [top, left] = [rounded((h - size[0]) / 2), rounded((w - size[1]) / 2)];
  const filter = FILTERS[interpolation];
  const columns = resizeRows(data, 4, width, height, w, left, size[1], filter);
  return new Uint8Array(resizeRows(columns, 3, height, size[1], h, top, size[0], filter).buffer);
}

/** The five most probable classes, as [class, probability]. */
function best(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b));
  const parts = Array.from(logits, logit => Math.exp(logit - most));
  const sum = add(parts);
  return parts.map((part, index) => [index, part / sum]).sort((a, b) => b[1] - a[1]).slice(0, 5);
}

function showClasses(found, labels) {
  $('classes').replaceChildren(...found.map(([index, probability]) => {
    const bar = element('div', 'bar');
    bar.style.setProperty('--part', probability);
    const texts = [element('span', 'name', labels[index]), element('span', 'percent', percent(probability))];
    return element('li', '', ...texts, bar);
  }));
}

/** A function that classifies what createImageBitmap makes. Loads all that it needs. */
async function load(settings) {
  const files = [...settings.runtime, settings.model];
  const [script, wasm, model] = await receiveAll(files);
  const received = onTheWay(files) ?? add(files.map(file => file.bytes));
  say('Creating the model …');
  await pause();
  const started = performance.now();
  const address = URL.createObjectURL(new Blob([script], {type: 'text/javascript'})); // of what has been checked
  const ort = await import(address);
  Object.assign(ort.env.wasm, {wasmBinary: wasm, numThreads: 1}); // more need a page that is cross-origin isolated
  const session = await ort.InferenceSession.create(model, {executionProviders: ['wasm']});
  const figures = [['Received', size(received)], ['Created in', duration(performance.now() - started)]];
  showFigures(figures);
  return async bitmap => {
    const prepared = performance.now(), [height, width] = settings.image.size;
    const input = new ort.Tensor('uint8', toInput(bitmap, settings.image), [1, height, width, 3]);
    const begun = performance.now();
    const {logits} = await session.run({pixel_values: input});
    const ended = performance.now();
    showFigures([...figures, ['Resized in', duration(begun - prepared)], ['Classified in', duration(ended - begun)]]);
    return best(logits.data);
  };
}

async function main() {
  if (location.protocol === 'file:') {
    return say('Browsers load no models for a page that is opened as a file. In its folder, run ' +
               'python -m http.server, and open http://localhost:8000.', 'error');
  }
  let loading, last = 0, shown = '';
  const show = photograph => {
    $('preview').hidden = !photograph;
    $('hint').hidden = photograph;
  };

  async function classify(file) {
    const mine = ++last; // a later photograph wins
    URL.revokeObjectURL(shown);
    $('preview').src = shown = URL.createObjectURL(file);
    show(true);
    $('classes').replaceChildren();
    const reading = createImageBitmap(file).catch(() => {
      if (mine === last) show(false);
    });
    try {
      const {run, labels} = await loading;
      const bitmap = await reading;
      if (!bitmap) throw Error(`This browser cannot read ${file.name} as a picture: use a JPEG or PNG file.`);
      if (mine !== last) return;
      say('Classifying …');
      await pause();
      const found = await run(bitmap);
      if (mine !== last) return;
      showClasses(found, labels);
      say(`${labels[found[0][0]]}, ${percent(found[0][1])}`, 'read');
    } catch (error) {
      if (mine === last) say(error.message, 'error');
    }
  }

  for (const [button, input] of [['choose', 'file'], ['take', 'camera']]) {
    $(button).addEventListener('click', () => $(input).click());
    $(input).addEventListener('change', ({target}) => {
      if (target.files[0]) classify(target.files[0]);
      target.value = ''; // so that the same file can be chosen again
    });
  }
  $('frame').addEventListener('click', () => $('file').click());
  const take = files => files?.[0] && classify(files[0]);
  addEventListener('paste', event => take(event.clipboardData?.files));
  for (const type of ['dragover', 'dragleave', 'drop']) {
    addEventListener(type, event => {
      event.preventDefault();
      $('frame').classList.toggle('over', type === 'dragover');
      if (type === 'drop') take(event.dataTransfer?.files);
    });
  }

  loading = (async () => {
    const settings = await (await get('settings.json')).json();
    $('title').textContent = document.title = settings.title;
    $('about').textContent = `${settings.labels.length.toLocaleString('en')} classes in ` +
      `${size(settings.model.bytes)}. Photographs are classified in this browser and stay on this device.`;
    $('licence').textContent = `Licence of the model: ${settings.licence}`;
    if (settings.licenceFile) {
      $('licence').append(' (', Object.assign(element('a', '', 'text'), {href: 'LICENSE'}), ')');
    }
    return {run: await load(settings), labels: settings.labels};
  })();
  try {
    await loading;
    if (last === 0) say('Ready. Choose a photograph.');
  } catch (error) {
    $('progress').hidden = true;
    say(error.message, 'error');
  }
}

main();
