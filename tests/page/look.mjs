// Looks at a page in a real Chromium: ADDRESS FOLDER NAME PATH…. It takes screenshots in light and dark at two widths, lets axe look for what
// makes it hard to read or to use, goes through it by keyboard, and fails on anything that the browser refuses or complains of.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(`${process.env.EGRET_PAGE_MODULES}/`);
const { default: puppeteer } = await import(require.resolve('puppeteer-core'));
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

const [address, folder, name, ...paths] = process.argv.slice(2);
const WIDTHS = { wide: 1280, narrow: 390 };
const wrong = [];

const browser = await puppeteer.launch({
  executablePath: process.env.EGRET_CHROMIUM ?? '/usr/bin/chromium',
  headless: true,
  // Root has no sandbox; nothing is fetched but the page.
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage'],
});

async function opened(scheme, width) {
  const page = await browser.newPage();
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  page.on('console', (message) => wrong.push(`the browser says: ${message.text()}`));
  page.on('pageerror', (error) => wrong.push(`a script fails: ${error}`));
  page.on('request', (request) => {
    const own = request.url().startsWith(address) || request.url().startsWith('data:image/svg+xml');
    if (!own) wrong.push(`something else is asked for: ${request.url()}`);
  });
  return page;
}

for (const scheme of ['light', 'dark']) {
  for (const [called, width] of Object.entries(WIDTHS)) {
    const page = await opened(scheme, width);
    for (const path of paths) {
      const answer = await page.goto(address + path, { waitUntil: 'load' });
      const label = `${name}-${path.replace(/[^a-z0-9]+/gi, '-').replace(/^-|-$/g, '') || 'front'}`;
      await page.screenshot({ path: `${folder}/${label}-${scheme}-${called}.png`, fullPage: true });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      if (wide > 0) wrong.push(`${label} ${called}: the page is ${wide} pixels wider than the window`);
      const found = await page.evaluate(`${axe}; axe.run(document)`);
      for (const rule of ['color-contrast', 'label', 'page-has-heading-one']) {
        if (label.endsWith('front') && !found.passes.some(({ id }) => id === rule)) wrong.push(`axe did not try ${rule}`);
      }
      for (const { id, help, nodes } of found.violations) {
        wrong.push(`${label} ${scheme} ${called}: ${id}: ${help}: ${nodes.slice(0, 3).map((node) => node.html + ' ' + (node.failureSummary ?? '').replaceAll('\n', ' ')).join(' | ')}`);
      }
      if (answer.status() >= 500) wrong.push(`${label}: ${answer.status()}`);
    }
    await page.close();
  }
}

// By keyboard: the first stop leads past the navigation, every stop can be seen, and the form is sent by Enter. Without JavaScript.
const page = await opened('light', WIDTHS.wide);
await page.goto(address + '/');
await page.keyboard.press('Tab');
const first = await page.evaluate(() => document.activeElement.textContent);
if (first !== 'To the content') wrong.push(`the first stop is ${first}`);
await page.keyboard.press('Enter');
const inside = await page.evaluate(() => document.activeElement.id);
if (inside !== 'main') wrong.push(`the skip link leads to ${inside}`);
let stops = 0;
for (; stops < 200; stops += 1) {
  await page.keyboard.press('Tab');
  const stop = await page.evaluate(() => {
    const { activeElement: one } = document;
    if (one === document.body) return null;
    return { id: one.id, outline: getComputedStyle(one).outlineStyle, html: one.outerHTML.slice(0, 120) };
  });
  if (!stop) break;
  if (stop.outline === 'none') wrong.push(`nobody sees the focus on ${stop.html}`);
  if (stop.id === 'pod') break;
}
await page.setJavaScriptEnabled(false);
await page.goto(address + '/explain');
await page.focus('#pod');
await page.keyboard.type('batuu/nobody');
await page.keyboard.press('Tab');
await page.keyboard.type('10.0.4.2');
await Promise.all([page.waitForNavigation(), page.keyboard.press('Enter')]);
// Answered 404, of which Chromium tells its console.
const text = await page.$eval('main', (main) => main.innerText);
if (!text.includes('there is no pod batuu/nobody')) wrong.push(`the form's answer is: ${text}`);
await browser.close();

const real = wrong.filter((one) => !/status of 40[04]/.test(one));
for (const one of new Set(real)) console.error(one);
console.log(`${name}: ${paths.length} pages in 2 schemes and 2 widths, ${new Set(real).size} complaints`);
process.exit(real.length ? 1 : 0);
