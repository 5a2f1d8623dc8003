// Widgets typeset their labels through the interface of MathJax 2; the pages with formulas load MathJax 3.
// Sphinx has set window.MathJax, the configuration, before this script and loads MathJax itself after it.
if (window.MathJax) {
  MathJax.Hub = { Queue() {} };
  MathJax.startup = {
    ready() {
      MathJax.startup.defaultReady();
      MathJax.Hub = {
        Queue: ([, , element]) => MathJax.startup.promise.then(() => MathJax.typesetPromise([element])),
      };
    },
  };
}
