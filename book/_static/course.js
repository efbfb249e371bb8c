// The widget manager looks for its icon fonts beside the modules that it names, so they go into the site.
const web = (document.documentElement.dataset.content_root || "./") + "_static/web/";
window.requirejs = { baseUrl: web };
window.__jupyter_widgets_assets_path__ = web + "@jupyter-widgets/html-manager/dist/";

// It also typesets labels with the interface of MathJax 2; pass that on to MathJax 3.
window.addEventListener("load", () => {
  const mathjax = window.MathJax;
  if (mathjax && mathjax.startup && !mathjax.Hub) {
    mathjax.Hub = {
      Queue: ([, , element]) => mathjax.startup.promise.then(() => mathjax.typesetPromise([element])),
    };
  }
});
