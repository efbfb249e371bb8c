// What tests/tools/test_browser.py asks of a loaded page: two functions, each returns a list of complaints.

async () => {
  const found = [];
  const name = (element) => {
    const place = element.closest("section[id]");
    const tag = `<${element.tagName.toLowerCase()} class="${element.getAttribute("class") || ""}">`;
    return place ? `${tag} in #${place.id}` : tag;
  };
  if (window.MathJax && window.MathJax.startup) await window.MathJax.startup.promise;
  await document.fonts.ready;

  const views = [...document.querySelectorAll('script[type="application/vnd.jupyter.widget-view+json"]')];
  const rendered = (view) => {
    const area = view.previousElementSibling;
    const widget = area && area.querySelector(".jupyter-widgets");
    return widget && widget.getBoundingClientRect().height > 0 && widget.textContent.trim() !== "";
  };
  const manager = document.querySelector('script[src*="embed-amd"]');
  for (let tries = 0; manager && tries < 150 && !views.every(rendered); tries++) {
    await new Promise((next) => setTimeout(next, 100));
  }
  for (const view of views) {
    if (!rendered(view)) found.push(`empty widget ${name(view.parentElement)}`);
  }

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const commands = /\\(frac|sqrt|sum|text|mathrm|mathbf|log|exp|cdot|begin)\b/;
  const tex = new RegExp(/\$\$|\$[^\s$][^$\n]*[^\s$]\$|\$[^\s$]\$|\\[([]/.source + "|" + commands.source);
  while (texts.nextNode()) {
    const parent = texts.currentNode.parentElement;
    if (parent.closest("code, pre, script, style, textarea, mjx-container, .highlight")) continue;
    const match = tex.exec(texts.currentNode.data);
    if (match) found.push(`raw TeX "${match.input.slice(match.index, match.index + 40)}" in ${name(parent)}`);
  }
  for (const error of document.querySelectorAll("mjx-merror, [data-mjx-error]")) {
    found.push(`TeX error "${error.getAttribute("data-mjx-error") || error.textContent}" in ${name(error)}`);
  }
  for (const math of document.querySelectorAll("span.math, div.math")) {
    if (!math.querySelector("mjx-container")) found.push(`mathematics not typeset in ${name(math)}`);
  }

  for (const output of document.querySelectorAll(".cell_output")) {
    const traceback = output.textContent.includes("Traceback (most recent call last)");
    if (traceback || output.querySelector(".traceback")) found.push(`stored traceback in ${name(output)}`);
  }

  for (const image of document.querySelectorAll("img")) {
    const empty = !image.alt.trim() && image.closest("article");
    if (empty || !image.hasAttribute("alt")) found.push(`no alternative text: ${image.src.slice(0, 80)}`);
  }
  for (const drawing of document.querySelectorAll("svg")) {
    const labelled = drawing.closest("[aria-label], [aria-hidden=true], mjx-container");
    if (!labelled && !drawing.querySelector(":scope > title")) found.push(`no alternative text: ${name(drawing)}`);
  }
  return found;
};
// ---
() => {
  const room = document.documentElement.clientWidth;
  const width = document.documentElement.scrollWidth;
  if (width <= room) return [];
  const sticksOut = (element) => element.getBoundingClientRect().right > room + 1;
  const widest = [...document.querySelectorAll("article *")].find(sticksOut);
  const culprit = widest ? `, <${widest.tagName.toLowerCase()} class="${widest.getAttribute("class") || ""}">` : "";
  return [`wider than a phone: ${width} > ${room}${culprit}`];
};
